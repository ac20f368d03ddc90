/*
 * The other harts. Each stays in M-mode, sleeps until hart 0's tick sends it a software interrupt (CLINT MSIP), and then
 * advances a chain of its own in registers. Hart 0 checks that they keep going, and their chains from the number of bursts.
 */
#include "guest.h"

#define HARTS 16
#define STEPS 512

struct hart { u32 alive, sequence; u64 x, bursts, bad; u8 stack[2048]; };

volatile u32 harts_released __attribute__((section(".data"))) = 0; /* not in bss: the others wait for it while that is cleared */
struct hart harts[HARTS] __attribute__((aligned(16)));
u64 hart_count = 1;
static u64 seen[HARTS], stalled[HARTS], next_look;

static u64 seed_of(u64 id) { return nonce ^ mix(id); }

/* Called by start.S on its own stack, interrupts off: wfi wakes for a pending one all the same. */
void hart_main(u64 id) {
  volatile struct hart *self = &harts[id];
  u64 x = seed_of(id), bad = 0;
  self->x = x;
  csr_write(mie, 8);
  fence();
  self->alive = 1;
  for (;;) {
    __asm__ volatile("wfi");
    if (!(csr_read(mip) & 8)) continue;
    R32(CLINT + 4 * id) = 0;
    x = lcg_burst(x, STEPS, &bad);
    self->sequence++;
    fence();
    self->x = x;
    self->bursts++;
    self->bad = bad;
    fence();
    self->sequence++;
  }
}

/* From hart 0's timer interrupt. */
void harts_kick(void) {
  for (u64 id = 1; id < HARTS; id++)
    if (((volatile struct hart *)harts)[id].alive) R32(CLINT + 4 * id) = 1;
}

void harts_watch(u64 time) {
  if (time < next_look) return;
  next_look = time + TICKS_PER_SECOND;
  u64 count = 1;
  for (u64 id = 1; id < HARTS; id++) {
    volatile struct hart *hart = &harts[id];
    if (!hart->alive) continue;
    count++;
    stalled[id] = hart->bursts == seen[id] ? stalled[id] + 1 : 0;
    seen[id] = hart->bursts;
    if (stalled[id] == 6) error("hart-stalled", id, hart->bursts, R32(CLINT + 4 * id));
  }
  hart_count = count;
}

void harts_verify(void) {
  for (u64 id = 1; id < HARTS; id++) {
    volatile struct hart *hart = &harts[id];
    if (!hart->alive) continue;
    u32 sequence;
    u64 x, bursts;
    do {
      sequence = hart->sequence;
      fence();
      x = hart->x;
      bursts = hart->bursts;
      fence();
    } while (sequence & 1 || sequence != hart->sequence);
    if (x != lcg_jump(seed_of(id), bursts * STEPS)) error("hart-lcg", id, x, bursts);
    if (hart->bad) error("hart-registers-lost", id, hart->bad, bursts);
  }
}
