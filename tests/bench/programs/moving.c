/* What a guest does while it moves, and what it notices of it. Both end when something is typed. */
#include "bench.h"

#define AREA (_end + (8 << 20))
#define TICKS_PER_SECOND 10000000
/* Between two looks at the console, and two lines of `pace`: 100 ms, so that the console costs nothing that counts. */
#define PERIOD (TICKS_PER_SECOND / 10)

static void put_numbers(char mark, const uint64_t *numbers, int count) {
  put_char(mark);
  for (int i = 0; i < count; i++) {
    if (i) put_char(' ');
    put_number(numbers[i]);
  }
  put_char('\n');
}

/*
 * Writes a word to each of so many pages a second, n as for `writer`, and computes in the time that is left. Every 100 ms a line
 * `+<mtime> <units of work> <pages written>`. What it could not write in time is forgotten.
 */
uint32_t pace(uint32_t n) {
  uint64_t pages = (uint64_t)(n & 0x7fff) << 8, rate = (uint64_t)(n >> 15 & 0xffff) << 8;
  uint64_t t = now(), next = t + PERIOD, before = t, due = 0, credit = 0, x = 1, page = 0;
  uint64_t shown[3] = {0, 0, 0};
  for (;;) {
    t = now();
    credit += (t - before) * rate;
    before = t;
    due = credit / TICKS_PER_SECOND;
    credit -= due * TICKS_PER_SECOND;
    if (due > rate / 20) due = rate / 20;
    shown[2] += due;
    for (; due; due--) {
      x = x * 6364136223846793005u + 1442695040888963407u;
      page = n >> 31 ? (x >> 33) % pages : page + 1 < pages ? page + 1 : 0;
      *(volatile uint32_t *)(AREA + (page << 12)) = x;
    }
    for (int i = 0; i < 1000; i++) x = x * 6364136223846793005u + 1442695040888963407u;
    shown[1]++;
    if (t < next) continue;
    next = t + PERIOD;
    shown[0] = t;
    put_numbers('+', shown, 3);
    if (!(UART[LSR] & 1)) continue;
    get_char();
    return x;
  }
}

/* Reads that took 10 us or longer, by their length in us. */
enum { LONGEST = 1 << 16, SHORTEST = 10 };
static uint32_t took[LONGEST] SCRATCH;

static uint64_t quantile(uint64_t of, uint64_t count) {
  uint64_t seen = 0;
  for (int us = 0; us < LONGEST; us++) {
    seen += took[us];
    if (seen * 100 >= count * of && seen) return us;
  }
  return 0;
}

/*
 * Reads words of `n` MiB at random and measures how long each takes; `r` on the console begins anew. At the end a line
 * `=<long reads> <median> <99th percentile> <longest>` in us. Returns the number of long reads.
 */
uint32_t faults(uint32_t n) {
  uint64_t pages = (uint64_t)n << 8, x = 1, next = now() + PERIOD, count = 0, longest = 0;
  memset(took, 0, sizeof took);
  for (;;) {
    x = x * 6364136223846793005u + 1442695040888963407u;
    volatile uint32_t *at = (volatile uint32_t *)(AREA + ((x >> 33) % pages << 12));
    uint64_t began = now();
    (void)*at;
    uint64_t ended = now();
    uint64_t us = (ended - began) / 10;
    if (us >= SHORTEST) {
      took[us < LONGEST ? us : LONGEST - 1]++;
      count++;
      if (us > longest) longest = us;
    }
    if (ended < next) continue;
    next = ended + PERIOD;
    if (!(UART[LSR] & 1)) continue;
    if (get_char() != 'r') break;
    memset(took, 0, sizeof took);
    count = longest = 0;
  }
  uint64_t shown[4] = {count, quantile(50, count), quantile(99, count), longest};
  put_numbers('=', shown, 4);
  return count;
}
