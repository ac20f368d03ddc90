/*
 * The programs for a PC without an operating system: a multiboot image that speaks over COM1. It prints `ready`, then does what each
 * line `<program> <n>` asks: `<` as it begins, `>` as it ends, then `<program> <n> <checksum> <ticks>` with the low half of the
 * time-stamp counter. Spec: Multiboot Specification 0.6.96.
 */
#include "../bench.h"

static const struct {
  const char *name;
  program *run;
} programs[] = {
  {"mix", mix},     {"dhry", dhry},   {"crc", crc},       {"list", list}, {"qsort", quicksort},        {"sieve", sieve},
  {"matrix", matrix}, {"state", state}, {"interp", interp}, {"fib", fib},   {"nbody-unfused", nbody_unfused}, {"stream", stream},
  {"chase", chase},
};

enum { COM1 = 0x3f8, DATA = 0, LINE_STATUS = 5 };
static void out(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }
static uint8_t in(uint16_t port) {
  uint8_t value;
  __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
  return value;
}

void put_char(char c) {
  while (!(in(COM1 + LINE_STATUS) & 0x20)) {}
  out(COM1 + DATA, c);
}

static void put(const char *text) {
  while (*text) put_char(*text++);
}

static void put_number32(uint32_t value) {
  char digits[12];
  int at = 11;
  digits[at] = 0;
  do digits[--at] = '0' + value % 10;
  while (value /= 10);
  put(digits + at);
}

char get_char(void) {
  while (!(in(COM1 + LINE_STATUS) & 1)) {}
  return in(COM1 + DATA);
}

static int same(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

void main(void) {
  put("ready\n");
  for (;;) {
    char name[32];
    unsigned length = 0, i = 0;
    uint32_t n = 0;
    char c;
    while ((c = get_char()) != ' ' && length < sizeof name - 1) name[length++] = c;
    name[length] = 0;
    while ((c = get_char()) != '\n') n = n * 10 + (c - '0');
    while (i < sizeof programs / sizeof *programs && !same(name, programs[i].name)) i++;
    if (i == sizeof programs / sizeof *programs) {
      put("unknown program\n");
      continue;
    }
    put_char('<');
    uint32_t ticks = now();
    uint32_t checksum = programs[i].run(n);
    ticks = now() - ticks;
    put_char('>');
    put(name);
    put_char(' ');
    put_number32(n);
    put_char(' ');
    put_number32(checksum);
    put_char(' ');
    put_number32(ticks);
    put_char('\n');
  }
}
