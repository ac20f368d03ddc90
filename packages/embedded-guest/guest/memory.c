/*
 * The walked memory: every word of every page says which page and which pass it belongs to. One step checks a page for the
 * previous pass and writes the current one, so a page that did not make it to another machine, or came from an older copy, is
 * found within one pass. The pages are mapped in scrambled order, far from their physical addresses.
 */
#include "guest.h"

#define WALKED 0x1000000000ul
#define STEP 0x9e3779b97f4a7c15ul

u64 mem_passes, mem_pages;
static u64 pass = 1, cursor, words, stride;
static struct rate rate;

static u64 first_word(u64 page, u64 generation) { return mix(nonce ^ page << 40 ^ generation); }

static void fill(u64 page, u64 generation) {
  volatile u64 *at = (volatile u64 *)(WALKED + page * PAGE);
  u64 value = first_word(page, generation);
  for (u64 i = 0; i < words; i++, value += STEP, at += stride) *at = value;
}

static void check(u64 page, u64 generation) {
  volatile u64 *at = (volatile u64 *)(WALKED + page * PAGE);
  u64 value = first_word(page, generation), i = 0;
  for (; i < words; i++, value += STEP, at += stride)
    if (*at != value) break;
  if (i == words) return;
  u64 found = *at - i * STEP;
  const char *what = "mem-corrupt";
  for (u64 back = 1; back <= 8 && back <= generation; back++)
    if (found == first_word(page, generation - back)) what = "mem-older";
  if (found == first_word(page, generation + 1)) what = "mem-newer";
  error(what, page << 16 | i, *at, value);
  fill(page, generation);
}

static u64 gcd(u64 a, u64 b) { return b ? gcd(b, a % b) : a; }

void mem_start(void) {
  mem_pages = params.dirty_bytes / PAGE;
  words = params.dirty_words < 1 || params.dirty_words > 512 ? 512 : params.dirty_words;
  stride = 512 / words;
  if (!mem_pages) return;
  u64 base = alloc_pages(mem_pages), scramble = 0x9e5;
  while (gcd(scramble, mem_pages) != 1) scramble++;
  for (u64 page = 0; page < mem_pages; page++)
    map_page(WALKED + page * PAGE, base + page * scramble % mem_pages * PAGE);
  __asm__ volatile("sfence.vma" ::: "memory");
  for (u64 page = 0; page < mem_pages; page++) fill(page, 0);
  rate = (struct rate){.per_second = params.dirty_per_second, .unit = PAGE};
}

int mem_step(void) {
  if (!mem_pages || rate_left(&rate) < (int64_t)PAGE) return 0;
  check(cursor, pass - 1);
  fill(cursor, pass);
  rate.done += PAGE;
  if (++cursor == mem_pages) {
    cursor = 0;
    mem_passes = pass++;
  }
  return 1;
}

void mem_verify(void) {
  for (u64 page = 0; page < mem_pages; page++) check(page, page < cursor ? pass : pass - 1);
}
