/*
 * Traps, the timer, interrupts, page tables, and what the device tree says about RAM.
 * The timer belongs to M-mode (CLINT mtimecmp) and passes each tick on as a supervisor software interrupt; PLIC interrupts
 * are delegated to S-mode (context 1). Spec: RISC-V Privileged ISA; PLIC specification 1.0.0.
 */
#include "guest.h"

#define MTIME R64(CLINT + 0xbff8)
#define MTIMECMP R64(CLINT + 0x4000)
#define TICK (TICKS_PER_SECOND / 100)
#define IRQ_SOURCES 64
#define PTE_LEAF 0xcful /* D A X W R V, supervisor only */

struct frame { u64 x[32]; };

u64 nonce, ram_end, timer_rearmed;
volatile u64 tick_count, timer_next;
static volatile u64 soft_count;
static volatile u64 timer_last, timer_lateness;
/* What the handlers saw; trap_check reports it, because the handlers must not print in the middle of a line. */
static volatile u64 timer_early, timer_backwards, timer_compare_lost, irq_unknown, noted[3];
static u64 reported[4], last_now, heap, root_table;
static volatile int probing, probe_failed;
static void (*handlers[IRQ_SOURCES][2])(void); /* INTx lines are shared */
static u64 timer_start;

/* ---- memory ---- */

u64 alloc_pages(u64 count) {
  u64 at = heap;
  heap += count * PAGE;
  if (heap > ram_end) die("out of RAM", heap, ram_end);
  memset((void *)at, 0, count * PAGE);
  return at;
}

void map_page(u64 va, u64 pa) {
  u64 table = root_table;
  for (int level = 2; level > 0; level--) {
    volatile u64 *entry = &R64(table + (va >> (12 + 9 * level) & 511) * 8);
    if (!*entry) *entry = alloc_pages(1) >> 12 << 10 | 1;
    table = *entry >> 10 << 12;
  }
  R64(table + (va >> 12 & 511) * 8) = pa >> 12 << 10 | PTE_LEAF;
}

/* ---- device tree: only the size of RAM and the random seed ---- */

static u32 be32(u64 at) { return (u32)R8(at) << 24 | (u32)R8(at + 1) << 16 | (u32)R8(at + 2) << 8 | R8(at + 3); }

static int same(u64 at, const char *s) {
  while (*s && R8(at) == (u8)*s) at++, s++;
  return R8(at) == (u8)*s;
}

static void read_device_tree(u64 tree) {
  if (tree < RAM || tree & 3 || be32(tree) != 0xd00dfeed) return;
  u64 at = tree + be32(tree + 8), strings = tree + be32(tree + 12), end = tree + be32(tree + 4);
  int memory = 0, depth = 0;
  while (at < end) {
    u32 token = be32(at);
    at += 4;
    if (token == 1) {
      depth++;
      memory = depth == 2 && R8(at) == 'm' && R8(at + 1) == 'e' && R8(at + 2) == 'm' && R8(at + 6) == '@';
      while (R8(at)) at++;
      at = (at + 4) & ~3ul;
    } else if (token == 2) {
      depth--;
      memory = 0;
    } else if (token == 3) {
      u32 length = be32(at), name = be32(at + 4);
      if (memory && same(strings + name, "reg") && length >= 16)
        ram_end = ((u64)be32(at + 8) << 32 | be32(at + 12)) + ((u64)be32(at + 16) << 32 | be32(at + 20));
      if (same(strings + name, "rng-seed") && length >= 8) nonce ^= (u64)be32(at + 8) << 32 | be32(at + 12);
      at = (at + 8 + length + 3) & ~3ul;
    } else if (token == 9) {
      return;
    }
  }
}

/* ---- M-mode ---- */

u64 machine_init(u64 tree) {
  ram_end = RAM + (64ul << 20);
  heap = (u64)_end;
  nonce = MTIME * 0x9e3779b97f4a7c15ul;
  read_device_tree(tree);
  if (params.ram_bytes) ram_end = RAM + params.ram_bytes;
  if (params.seed) nonce = params.seed;
  nonce = mix(nonce) | 1;

  csr_write(pmpaddr0, ~0ul >> 10);
  csr_write(pmpcfg0, 0x1f); /* NAPOT, all of memory, RWX */
  csr_write(mideleg, 0x222);
  csr_write(medeleg, 0);
  csr_write(mcounteren, 7);

  root_table = alloc_pages(1);
  for (u64 gib = 0; gib < 3; gib++) R64(root_table + gib * 8) = gib << 28 | PTE_LEAF;
  for (u64 gib = 3; RAM + (gib - 2) * (1ul << 30) < ram_end && gib < 32; gib++)
    R64(root_table + gib * 8) = gib << 28 | PTE_LEAF;

  timer_last = timer_start = MTIME;
  timer_next = timer_last + TICK;
  MTIMECMP = timer_next;
  csr_write(mie, 0x80);
  csr_write(sie, 0x202);
  u64 status = csr_read(mstatus);
  csr_write(mstatus, (status & ~0x1800ul) | 0x880); /* MPP = S, MPIE = 1 */
  return 8ul << 60 | root_table >> 12;
}

static void machine_timer(void) {
  u64 time = MTIME, compare = MTIMECMP;
  if (time < timer_last) timer_backwards++, noted[0] = time, noted[1] = timer_last;
  if (compare != timer_next) timer_compare_lost++, noted[0] = compare, noted[1] = timer_next;
  if (time < timer_next) {
    if (!(params.flags & FLAG_EARLY_TIMER)) timer_early++, noted[0] = time, noted[1] = timer_next;
    MTIMECMP = timer_next;
    return;
  }
  if (time - timer_next > timer_lateness) timer_lateness = time - timer_next;
  timer_last = time;
  timer_next += TICK; /* late ticks follow one by one: their number always says how much time went by */
  MTIMECMP = timer_next;
  tick_count++;
  csr_set(mip, 2);
  harts_kick();
}

void machine_trap(struct frame *f) {
  u64 cause = csr_read(mcause), pc = csr_read(mepc);
  if (cause == (1ul << 63 | 7)) {
    machine_timer();
  } else if ((cause == 5 || cause == 7) && probing) {
    probe_failed = 1;
    csr_write(mepc, pc + 4);
  } else {
    put("\nFATAL trap");
    put(" ra 0x"), put_hex(f->x[1], 16);
    put(" tval 0x"), put_hex(csr_read(mtval), 16);
    die("trap", cause, pc);
  }
}

/* ---- S-mode ---- */

void supervisor_trap(struct frame *f) {
  u64 cause = csr_read(scause);
  (void)f;
  if (cause == (1ul << 63 | 1)) {
    csr_clear(sip, 2);
    soft_count++;
  } else if (cause == (1ul << 63 | 9)) {
    u32 source;
    while ((source = R32(PLIC + 0x201004)) != 0) {
      if (source >= IRQ_SOURCES || !handlers[source][0]) irq_unknown++, noted[2] = source;
      else
        for (int i = 0; i < 2; i++)
          if (handlers[source][i]) handlers[source][i]();
      R32(PLIC + 0x201004) = source;
    }
  } else {
    die("supervisor trap", cause, csr_read(sepc));
  }
}

void irq_enable(u32 source, void (*handler)(void)) {
  handlers[source][handlers[source][0] != 0] = handler;
  R32(PLIC + 4 * source) = 1;
  R32(PLIC + 0x2080 + source / 32 * 4) |= 1u << source % 32;
  R32(PLIC + 0x201000) = 0;
  csr_set(sstatus, 2);
}

u64 interrupts_off(void) {
  u64 status = csr_read(sstatus);
  csr_clear(sstatus, 2);
  return status & 2;
}

void interrupts_restore(u64 saved) {
  if (saved) csr_set(sstatus, 2);
}

/* rdtime; must agree with mtime and never go back. */
u64 now(void) {
  u64 time;
  __asm__ volatile("rdtime %0" : "=r"(time));
  if (time < last_now) error("time-backwards", time, last_now, 0);
  last_now = time;
  return time;
}

int probe_read32(u64 address, u32 *value) {
  u32 v = 0;
  probing = 1;
  probe_failed = 0;
  __asm__ volatile(".option push\n.option norvc\nlw %0, 0(%1)\n.option pop" : "+r"(v) : "r"(address) : "memory");
  probing = 0;
  *value = v;
  return !probe_failed;
}

static void report(int i, const char *what, u64 count) {
  if (count == reported[i]) return;
  error(what, count - reported[i], noted[i == 3 ? 2 : 0], noted[1]);
  reported[i] = count;
}

void trap_check(void) {
  report(0, "timer-early", timer_early);
  report(1, "timer-backwards", timer_backwards);
  report(2, "timer-compare-lost", timer_compare_lost);
  report(3, "irq-unknown", irq_unknown);
  u64 a, b, m;
  __asm__ volatile("rdtime %0" : "=r"(a));
  m = MTIME;
  __asm__ volatile("rdtime %0" : "=r"(b));
  if (m < a || b < m) error("time-and-mtime-differ", a, m, b);
  u64 ticks, next;
  do ticks = tick_count, next = timer_next;
  while (ticks != tick_count);
  if (next != timer_start + (ticks + 1) * TICK) error("ticks-not-continuous", ticks, next, timer_start);
}

/*
 * A tick that is overdue and does not come for another two seconds was lost. The second look matters: when the host was
 * stopped for a while, the clock can be seen ahead of the interrupt.
 */
void timer_watch(u64 time) {
  static u64 overdue_since, overdue_tick;
  u64 next = timer_next;
  if (time < next + TICKS_PER_SECOND / 10) {
    overdue_since = 0;
  } else if (!overdue_since || overdue_tick != tick_count) {
    overdue_since = time;
    overdue_tick = tick_count;
  } else if (time - overdue_since > (params.flags & FLAG_REARM_TIMER ? TICKS_PER_SECOND / 10 : 2 * TICKS_PER_SECOND)) {
    if (params.flags & FLAG_REARM_TIMER) timer_rearmed++;
    else error("timer-lost", time, next, tick_count);
    overdue_since = 0;
    MTIMECMP = next; /* in the past: it fires at once, and the missing ticks follow */
  }
}

void power_off(u32 value) {
  R32(FINISHER) = value;
  for (;;) __asm__ volatile("wfi");
}

void die(const char *why, u64 a, u64 b) {
  put("\nVERDICT FAIL ");
  put(why);
  put(" 0x"), put_hex(a, 16);
  put(" 0x"), put_hex(b, 16);
  put("\n");
  power_off(0x3333 | 2u << 16);
}
