/*
 * Ferry's embedded guest. It computes, walks memory, works a disk, counts lines, and at any moment can say whether anything of
 * that was lost or happened twice - which is what a live migration must not let happen.
 *
 * Output
 *   T <n> mem <passes> blk <requests> lcg <x> err <errors> chain <c>     n grows by one; chain is made of all that came before
 *   ERR <n> <what> <a> <b> <c>
 *   VERDICT ok lines=.. mem=.. blk=.. iommu=.. harts=.. lcg=.. errors=0           or VERDICT FAIL <first error> ...
 * Input: q = verify everything and power off, v = verify and go on, s = status.
 */
#include "guest.h"

#define HISTORY 256
#define BURST 1024
#define LCG_A 6364136223846793005ul
#define LCG_C 1442695040888963407ul

u64 line_count;
static u64 lcg, lcg_count, lcg_bad, chain, next_line;
static struct { u64 line, chain; } history[HISTORY];
static struct rate lcg_rate;

u64 mix(u64 v) { /* the finaliser of splitmix64 */
  v = (v ^ v >> 30) * 0xbf58476d1ce4e5b9ul;
  v = (v ^ v >> 27) * 0x94d049bb133111ebul;
  return v ^ v >> 31;
}

void *memset(void *to, int value, unsigned long n) {
  u8 *at = to;
  if (!((u64)at & 7) && !value)
    for (; n >= 8; n -= 8, at += 8) *(volatile u64 *)at = 0;
  for (; n; n--, at++) *(volatile u8 *)at = (u8)value;
  return to;
}

void *memcpy(void *to, const void *from, unsigned long n) {
  for (unsigned long i = 0; i < n; i++) ((volatile u8 *)to)[i] = ((const u8 *)from)[i];
  return to;
}

int64_t rate_left(struct rate *r) {
  if (!r->per_second) return INT64_MAX;
  u64 time = now();
  if (!r->since) r->since = time;
  u64 elapsed = time - r->since;
  int64_t left = r->credit - r->done + (int64_t)(elapsed * r->per_second / TICKS_PER_SECOND);
  if (elapsed < TICKS_PER_SECOND) return left;
  int64_t most = (int64_t)(r->per_second / 2 > r->unit ? r->per_second / 2 : r->unit);
  r->credit = left > most ? most : left;
  r->done = 0;
  r->since = time;
  return r->credit;
}

/* ---- the chain in registers ---- */

static int lcg_step(void) {
  if (rate_left(&lcg_rate) < BURST) return 0;
  u64 bad = 0;
  lcg = lcg_burst(lcg, BURST, &bad);
  lcg_count += BURST;
  lcg_rate.done += BURST;
  if (bad) error("registers-lost", bad, lcg_count, 0), lcg_bad += bad;
  return 1;
}

u64 lcg_jump(u64 x, u64 steps) { /* by repeated squaring */
  u64 a = LCG_A, c = LCG_C;
  for (; steps; steps >>= 1) {
    if (steps & 1) x = x * a + c;
    c = c * (a + 1);
    a = a * a;
  }
  return x;
}

static void lcg_verify(void) {
  u64 x = lcg_jump(nonce, lcg_count);
  if (x != lcg) error("lcg", lcg, x, lcg_count);
}

/* ---- lines ---- */

static void put_field(const char *name, u64 value) {
  put(name);
  put_dec(value);
}

static void line_verify(void) {
  for (u64 back = 0; back < HISTORY && back < line_count; back++) {
    u64 n = line_count - back;
    if (history[n % HISTORY].line != n) error("line-history", n, history[n % HISTORY].line, line_count);
  }
  if (line_count && history[line_count % HISTORY].chain != chain)
    error("line-chain", line_count, history[line_count % HISTORY].chain, chain);
}

static void print_line(void) {
  u64 previous = line_count % HISTORY;
  if (line_count && (history[previous].line != line_count || history[previous].chain != chain)) {
    error("line-history", line_count, history[previous].line, chain);
    history[previous].line = line_count;
    history[previous].chain = chain;
  }
  line_count++;
  chain = mix(mix(chain ^ line_count) ^ lcg ^ disk_ops << 32 ^ mem_passes);
  history[line_count % HISTORY].line = line_count;
  history[line_count % HISTORY].chain = chain;
  put_field("T ", line_count);
  put_field(" mem ", mem_passes);
  put_field(" blk ", disk_ops);
  put(" lcg "), put_hex(lcg, 16);
  put_field(" err ", error_count);
  put(" chain "), put_hex(chain, 16);
  put("\n");
}

static void put_iommu(void) {
  put(" iommu=");
  if (vtd_active) put_dec(vtd_remaps);
  else put("none");
}

static void verdict(int power) {
  trap_check();
  mem_verify();
  disk_verify();
  lcg_verify();
  harts_verify();
  line_verify();
  trap_check();
  put(error_count ? "VERDICT FAIL " : "VERDICT ok");
  if (error_count) put(first_error);
  put_field(" lines=", line_count);
  put_field(" mem=", mem_passes);
  put_field(" blk=", disk_ops);
  put_iommu();
  put_field(" harts=", hart_count);
  put_field(" lcg=", lcg_count);
  put_field(" errors=", error_count);
  put("\n");
  if (power) power_off(error_count ? 0x3333 | 1u << 16 : 0x5555);
}

static void status(void) {
  put_field("STATUS lines=", line_count);
  put_field(" pages=", mem_pages);
  put_field(" mem=", mem_passes);
  put_field(" blocks=", disk_blocks);
  put_field(" blk=", disk_ops);
  put_field(" inflight=", (u64)disk_pending());
  put_iommu();
  put_field(" harts=", hart_count);
  put_field(" faults=", vtd_faults_expected);
  put_field(" rng=", rng_ops);
  put_field(" ticks=", tick_count);
  put_field(" rearmed=", timer_rearmed);
  put_field(" errors=", error_count);
  put("\n");
}

void supervisor_main(void) {
  uart_start();
  put("\nferry embedded guest 1 seed ");
  put_hex(nonce, 16);
  put("\n");
  vtd_probe();
  disk_start();
  rng_start();
  put("iommu: ");
  put(vtd_active ? "vt-d" : vtd_present ? "vt-d, unused: no device takes part" : "none");
  put("\n");
  mem_start();
  put_field("memory: ", mem_pages * PAGE);
  put_field(" bytes of ", ram_end - RAM);
  put("\nready\n");

  lcg = chain = nonce;
  lcg_rate = (struct rate){.per_second = params.lcg_per_second, .unit = BURST};
  u64 interval = TICKS_PER_SECOND / (params.lines_per_second ? params.lines_per_second : 10), checked = 0;
  next_line = now();
  for (;;) {
    u64 time = now(), ticks = tick_count;
    timer_watch(time);
    harts_watch(time);
    int busy = mem_step();
    disk_step();
    rng_step();
    busy |= lcg_step();
    if (time >= next_line) {
      print_line();
      next_line = time - next_line > interval ? time + interval : next_line + interval;
    }
    if (ticks != checked) {
      checked = ticks;
      trap_check();
      uart_poll();
    }
    for (int c; (c = uart_take()) >= 0;) {
      if (c == 'q') verdict(1);
      if (c == 'v') verdict(0);
      if (c == 's') status();
    }
    if (busy || params.flags & FLAG_REARM_TIMER) continue;
    u64 saved = interrupts_off(); /* wfi wakes for a pending interrupt even so; nothing slips in between */
    if (ticks == tick_count && !disk_ready()) __asm__ volatile("wfi");
    interrupts_restore(saved);
  }
}
