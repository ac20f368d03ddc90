/*
 * The command loop. The guest prints `ready`, then does what each line `<program> <n>` asks and answers
 * `<program> <n> <checksum> <mtime ticks> <instructions>`. While it waits it sleeps, so that two machines can take turns.
 */
#include "bench.h"

static const struct {
  const char *name;
  program *run;
} programs[] = {
  {"crc", crc},       {"list", list},         {"qsort", quicksort},      {"sieve", sieve},   {"matrix", matrix},
  {"dhry", dhry},     {"state", state},       {"interp", interp},        {"fib", fib},       {"nbody", nbody},
  {"stream", stream}, {"chase", chase},       {"nbody-unfused", nbody_unfused}, {"mix", mix},
  {"fill", fill},     {"store", store},       {"touch", touch},          {"beat", beat},
  {"mmio-burst", mmio_burst},                 {"mmio-cold", mmio_cold}, {"writer", writer},
  {"pace", pace},     {"faults", faults},
};

/* Spec: RISC-V PLIC; source 10 is the UART, context 0 is hart 0's M-mode. */
#define PLIC(offset) (*(volatile uint32_t *)(0xc000000 + (offset)))
enum { UART_IRQ = 10, PRIORITY = 0, ENABLE = 0x2000, THRESHOLD = 0x200000, CLAIM = 0x200004 };

void put_char(char c) {
  while (!(UART[LSR] & 0x20)) {}
  UART[RBR] = c;
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

/* Bit 11 of mie wakes from WFI although interrupts are off. */
char get_char(void) {
  while (!(UART[LSR] & 1)) __asm__ volatile("wfi" ::: "memory");
  char c = UART[RBR];
  uint32_t source = PLIC(CLAIM);
  if (source) PLIC(CLAIM) = source;
  return c;
}

void report_trap(uint64_t cause, uint64_t pc) {
  put("\ntrap ");
  put_number(cause);
  put(" at ");
  put_number(pc);
  put("\n");
}

static int same(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

void main(void) {
  PLIC(PRIORITY + 4 * UART_IRQ) = 1;
  PLIC(ENABLE) = 1 << UART_IRQ;
  PLIC(THRESHOLD) = 0;
  UART[FCR] = 1;
  UART[IER] = 1;
  __asm__ volatile("csrs mie, %0" ::"r"(1 << 11));
  put("ready\n");
  for (;;) {
    char name[32];
    unsigned length = 0;
    char c;
    while ((c = get_char()) != ' ' && length < sizeof name - 1) name[length++] = c;
    name[length] = 0;
    uint32_t n = 0;
    while ((c = get_char()) != '\n') n = n * 10 + (c - '0');
    unsigned i = 0;
    while (i < sizeof programs / sizeof *programs && !same(name, programs[i].name)) i++;
    if (i == sizeof programs / sizeof *programs) {
      put("unknown program\n");
      continue;
    }
    uint64_t retired = instructions();
    uint64_t ticks = now();
    uint32_t checksum = programs[i].run(n);
    ticks = now() - ticks;
    retired = instructions() - retired;
    put(name);
    for (int k = 0; k < 4; k++) {
      put_char(' ');
      put_number(k == 0 ? n : k == 1 ? checksum : k == 2 ? ticks : retired);
    }
    put("\n");
  }
}
