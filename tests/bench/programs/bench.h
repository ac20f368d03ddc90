/* What every program of the benchmark guest sees. */
#pragma once
#include <stdint.h>

#define NOINLINE __attribute__((noinline))
/* Memory that nobody clears: the program fills it before use. */
#define SCRATCH __attribute__((section(".scratch")))

void *memcpy(void *to, const void *from, __SIZE_TYPE__ size);
void *memset(void *to, int value, __SIZE_TYPE__ size);

#ifdef __riscv
/* mtime, 10 MHz. */
static inline uint64_t now(void) {
  uint64_t t;
  __asm__ volatile("rdtime %0" : "=r"(t)::"memory");
  return t;
}

static inline uint64_t instructions(void) {
  uint64_t n;
  __asm__ volatile("csrr %0, minstret" : "=r"(n)::"memory");
  return n;
}
#else
/* The time-stamp counter. */
static inline uint64_t now(void) {
  uint64_t t;
  __asm__ volatile("rdtsc" : "=A"(t)::"memory");
  return t;
}
#endif

/* The 16550's registers, a byte each. */
#define UART ((volatile uint8_t *)0x10000000)
enum { RBR = 0, IER = 1, FCR = 2, LSR = 5, SCR = 7 };

void put_char(char c);
void put_number(uint64_t value);
/* Waits for it; UART[LSR] & 1 says whether there is one. */
char get_char(void);

/* RAM from _end on belongs to the programs that say so; what is scratch lies between _scratch and there. */
extern uint8_t _scratch[], _end[];

/* Work of a size that `n` chooses; the result is a checksum. */
typedef uint32_t program(uint32_t n);
program crc, list, quicksort, sieve, matrix, dhry, state, interp, fib, nbody, nbody_unfused, stream, chase, mix;
program fill, store, touch, mmio_burst, mmio_cold, beat, writer, pace, faults;
