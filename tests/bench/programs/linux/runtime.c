#include "runtime.h"

static char line[160];
static unsigned length;

void flush(void) {
  for (unsigned at = 0; at < length;) {
    long written = sys(write, 1, line + at, length - at);
    if (written <= 0) break;
    at += written;
  }
  length = 0;
}

void put_char(char c) {
  if (length == sizeof line) flush();
  line[length++] = c;
}

static void put(const char *text) {
  while (*text) put_char(*text++);
}

void put_number(uint64_t value) {
  char digits[24];
  int at = 23;
  digits[at] = 0;
  do digits[--at] = '0' + value % 10;
  while (value /= 10);
  put(digits + at);
}

void fail(const char *why) {
  put("bench: ");
  put(why);
  put(" failed\n");
  flush();
  sys(exit, 1);
  for (;;) {}
}

uint64_t nanoseconds(void) {
  uint64_t time[2];
  sys(clock_gettime, CLOCK_MONOTONIC, time);
  return time[0] * 1000000000 + time[1];
}

uint64_t begin(const char *name, uint32_t n) {
  put("begin ");
  put(name);
  put_char(' ');
  put_number(n);
  put_char('\n');
  flush();
  sys(ioctl, 1, TCSBRK, 1);
  return nanoseconds();
}

void report(const char *name, uint32_t n, uint32_t checksum, uint64_t took) {
  put("end ");
  put(name);
  put_char(' ');
  put_number(n);
  put_char(' ');
  put_number(checksum);
  put_char(' ');
  put_number(took);
  put_char('\n');
  flush();
}

uint32_t number(const char *text) {
  uint32_t n = 0;
  while (*text >= '0' && *text <= '9') n = n * 10 + (*text++ - '0');
  if (*text) fail("number");
  return n;
}
