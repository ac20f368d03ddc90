/* memcpy and memset, which the compiler may call, and the programs that only move memory. */
#include "bench.h"

void *memcpy(void *to, const void *from, __SIZE_TYPE__ size) {
  uint8_t *d = to;
  const uint8_t *s = from;
  if ((((uintptr_t)d ^ (uintptr_t)s) & 7) == 0) {
    for (; size && ((uintptr_t)d & 7); size--) *d++ = *s++;
    for (; size >= 32; size -= 32, d += 32, s += 32) {
      uint64_t a = ((uint64_t *)s)[0], b = ((uint64_t *)s)[1], c = ((uint64_t *)s)[2], e = ((uint64_t *)s)[3];
      ((uint64_t *)d)[0] = a;
      ((uint64_t *)d)[1] = b;
      ((uint64_t *)d)[2] = c;
      ((uint64_t *)d)[3] = e;
    }
    for (; size >= 8; size -= 8, d += 8, s += 8) *(uint64_t *)d = *(uint64_t *)s;
  }
  while (size--) *d++ = *s++;
  return to;
}

void *memset(void *to, int value, __SIZE_TYPE__ size) {
  uint8_t *d = to;
  uint64_t v = (uint8_t)value * 0x0101010101010101u;
  for (; size && ((uintptr_t)d & 7); size--) *d++ = value;
  for (; size >= 32; size -= 32, d += 32)
    for (int i = 0; i < 4; i++) ((uint64_t *)d)[i] = v;
  for (; size >= 8; size -= 8, d += 8) *(uint64_t *)d = v;
  while (size--) *d++ = value;
  return to;
}

/* Three arrays whose distance is no power of two, so that no direct-mapped TLB maps them onto each other. */
#define WORDS 50000
static uint64_t a[WORDS], b[WORDS], c[WORDS];
static NOINLINE void triad(uint64_t *to, const uint64_t *x, const uint64_t *y, uint64_t k) {
  for (int i = 0; i < WORDS; i++) to[i] = x[i] + k * y[i];
}
static NOINLINE void copy(uint64_t *to, const uint64_t *from) {
  for (int i = 0; i < WORDS; i++) to[i] = from[i];
}
uint32_t stream(uint32_t n) {
  for (int i = 0; i < WORDS; i++) a[i] = i, b[i] = i * 3;
  for (uint32_t k = 0; k < n; k++) {
    memcpy(c, a, sizeof a);
    triad(a, b, c, 2);
    copy(b, a);
    __asm__ volatile("" ::: "memory");
  }
  uint64_t sum = 0;
  for (int i = 0; i < WORDS; i++) sum += a[i] ^ b[i] ^ c[i];
  return sum;
}

/* A random walk over 32 MiB: every step misses caches and TLBs. */
#define NODES (1 << 19)
static struct {
  uint32_t next, value;
  uint64_t pad[7];
} nodes[NODES] SCRATCH;
uint32_t chase(uint32_t n) {
  for (uint32_t i = 0; i < NODES; i++) {
    nodes[i].next = (i * 1664525u + 1013904223u) & (NODES - 1);
    nodes[i].value = i;
  }
  uint32_t sum = 1, at = 0;
  for (uint32_t k = 0; k < n; k++) {
    sum += nodes[at].value;
    at = nodes[at].next;
  }
  return sum;
}

/* Fills RAM after this guest's code and stack up to `n` MiB of RAM; no word is zero. */
uint32_t fill(uint32_t n) {
  uint64_t *end = (uint64_t *)(0x80000000 + ((uint64_t)n << 20));
  uint64_t x = 1;
  for (uint64_t *p = (uint64_t *)_scratch; p < end; p += 4) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    p[0] = x | 1;
    p[1] = x ^ 0x123456789abcdef0 | 1;
    p[2] = ~x | 1;
    p[3] = x + 0x5a5a5a5a | 1;
  }
  return x;
}

/* n times 8 MiB of 8-byte stores, 2^20 of them. */
uint32_t store(uint32_t n) {
  uint64_t *end = (uint64_t *)_end + (1 << 20);
  for (uint32_t k = 0; k < n; k++) {
    for (uint64_t *p = (uint64_t *)_end; p < end; p += 16)
#pragma GCC unroll 16
      for (int i = 0; i < 16; i++) ((volatile uint64_t *)p)[i] = k;
  }
  return n;
}

/* n times one store to each of 2048 pages (8 MiB): nearly every one misses the TLB. */
uint32_t touch(uint32_t n) {
  for (uint32_t k = 0; k < n; k++)
    for (uint8_t *p = _end; p < _end + (8 << 20); p += 4096) *(volatile uint32_t *)p = k;
  return n;
}

/* Writes to each page of `n` KiB, over and over, and prints a dot every millisecond; ends when something is typed. */
uint32_t beat(uint32_t n) {
  uint32_t round = 0;
  uint64_t next = now();
  for (;;) {
    for (uint64_t offset = 0; offset < (uint64_t)n << 10; offset += 4096)
      *(volatile uint32_t *)(_end + (8 << 20) + offset) = round++;
    if (now() < next) continue;
    next = now() + 10000;
    put_char('.');
    if (UART[LSR] & 1) break;
  }
  return round;
}

#ifdef __riscv
/*
 * Writes a word to each of so many pages a second, and ends when something is typed: n = pattern << 31 | MiB/s << 15 | MiB, the
 * rate counting whole pages. Pattern 0 goes round the memory in order, 1 picks pages at random.
 */
uint32_t writer(uint32_t n) {
  uint64_t pages = (uint64_t)(n & 0x7fff) << 8, rate = (uint64_t)(n >> 15 & 0xffff) << 8;
  uint64_t began = now(), done = 0, x = 1, page = 0;
  while (!(UART[LSR] & 1)) {
    uint64_t due = (now() - began) * rate / 10000000;
    for (; done < due; done++) {
      x = x * 6364136223846793005u + 1442695040888963407u;
      page = n >> 31 ? (x >> 33) % pages : page + 1 < pages ? page + 1 : 0;
      *(volatile uint32_t *)(_end + (8 << 20) + (page << 12)) = x;
    }
  }
  return done;
}
#endif
