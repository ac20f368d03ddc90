/*
 * The programs as one Linux command:
 *
 *     bench PROGRAM N              runs it
 *     bench -p COPIES PROGRAM N    runs it in several processes at once
 *     bench -x NAME FILE COMMAND…  runs a command with FILE as its input; the checksum is that of what it prints
 *     bench -t BYTES               prints text that compresses to about a third
 *
 * The first three print `begin NAME N` before and `end NAME N CHECKSUM NANOSECONDS` after, so that the host can hold its own
 * clock beside the guest's. What is printed before has left the serial port when the time begins.
 */
#include "runtime.h"

static const struct {
  const char *name;
  program *run;
} programs[] = {
  {"mix", mix},           {"dhry", dhry},     {"crc", crc},       {"list", list},   {"qsort", quicksort},
  {"sieve", sieve},       {"matrix", matrix}, {"state", state},   {"interp", interp}, {"fib", fib},
  {"nbody", nbody},       {"nbody-unfused", nbody_unfused},       {"stream", stream}, {"chase", chase},
  {"store", store},       {"touch", touch},   {"syscalls", syscalls}, {"faults", faults}, {"forks", forks},
  {"switches", switches}, {"fill", fill_memory},
};

static program *find(const char *name) {
  for (unsigned i = 0; i < sizeof programs / sizeof *programs; i++) {
    const char *a = name, *b = programs[i].name;
    while (*a && *a == *b) a++, b++;
    if (*a == *b) return programs[i].run;
  }
  fail(name);
}

/* All copies must come to the same checksum; another one makes it 0. */
static void run_copies(const char *name, uint32_t copies, uint32_t n) {
  program *run = find(name);
  int sums[2];
  if (sys(pipe2, sums) < 0) fail("pipe2");
  uint64_t from = begin(name, n);
  for (uint32_t k = 0; k < copies; k++) {
    long child = fork();
    if (child < 0) fail("fork");
    if (child > 0) continue;
    uint32_t sum = run(n);
    sys(write, sums[1], &sum, sizeof sum);
    sys(exit, 0);
  }
  uint32_t checksum = 0, one = 0;
  int equal = 1;
  for (uint32_t k = 0; k < copies; k++) {
    if (sys(read, sums[0], &one, sizeof one) != sizeof one) fail("read");
    equal &= k == 0 || one == checksum;
    checksum = one;
  }
  report(name, n, equal ? checksum : 0, nanoseconds() - from);
  while (sys(wait4, -1) > 0) {}
}

static void run_command(const char *name, const char *input, char **command, char **environment) {
  int output[2], status = 0;
  if (sys(pipe2, output) < 0) fail("pipe2");
  uint64_t from = begin(name, 1);
  long child = fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    long file = sys(openat, AT_FDCWD, input, 0);
    if (file < 0) fail(input);
    sys(dup3, file, 0);
    sys(dup3, output[1], 1);
    sys(close, output[0]);
    sys(close, output[1]);
    sys(execve, command[0], command, environment);
    sys(exit, 127);
  }
  sys(close, output[1]);
  static uint8_t buffer[65536];
  uint32_t checksum = 1;
  long got;
  while ((got = sys(read, output[0], buffer, sizeof buffer)) > 0)
    for (long i = 0; i < got; i++) checksum = checksum * 31 + buffer[i];
  if (sys(wait4, child, &status) != child || status != 0) fail(command[0]);
  report(name, 1, checksum, nanoseconds() - from);
}

static void print_text(uint32_t bytes) {
  static const char *const words[16] = {"memory", "page", "the", "register", "of", "a", "migrates", "when",
                                        "guest",  "bit",  "to",  "is",       "and", "in", "written", "interrupt"};
  uint32_t x = 1;
  for (uint32_t at = 0; at < bytes;) {
    x = x * 1664525u + 1013904223u;
    const char *word = words[x >> 28];
    while (*word && at < bytes) put_char(*word++), at++;
    if (at < bytes) put_char((x >> 20 & 15) == 0 ? '\n' : ' '), at++;
    if ((x >> 16 & 7) == 0)
      for (uint32_t k = 0; k < 6 && at < bytes; k++, at++) put_char('0' + (x >> 3 * k) % 10);
  }
  flush();
}

static int is(const char *text, char option) { return text[0] == '-' && text[1] == option && !text[2]; }

void main(long count, char **arguments) {
  if (count == 3 && is(arguments[1], 't')) print_text(number(arguments[2]));
  else if (count == 5 && is(arguments[1], 'p')) run_copies(arguments[3], number(arguments[2]), number(arguments[4]));
  else if (count >= 5 && is(arguments[1], 'x'))
    run_command(arguments[2], arguments[3], arguments + 4, arguments + count + 1);
  else if (count == 3) {
    program *run = find(arguments[1]);
    uint32_t n = number(arguments[2]);
    uint64_t from = begin(arguments[1], n);
    uint32_t checksum = run(n);
    report(arguments[1], n, checksum, nanoseconds() - from);
  } else fail("usage");
  sys(exit, 0);
}
