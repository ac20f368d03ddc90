/* Entropy: a few bytes per second, which must be new every time. Spec: virtio 1.2, section 5.4. */
#include "guest.h"

#define KEPT 256

u64 rng_ops;
static struct pci_function function;
static struct queue queue;
static struct dma buffer;
static u64 kept[KEPT];
static int present, waiting;
static volatile int interrupted;
static struct rate rate = {.per_second = 10, .unit = 1};

static void interrupt(void) {
  if (R8(function.isr) & 1) interrupted = 1;
}

void rng_start(void) {
  put("rng: ");
  if (params.flags & FLAG_NO_RNG || !pci_find_virtio(4, &function)) {
    put("none\n");
    return;
  }
  function.translated = virtio_offered(&function) >> VIRTIO_F_ACCESS_PLATFORM & 1 && vtd_attach(function.bdf);
  buffer = dma_page();
  buffer.iova = dma_map(&function, buffer.pa, 2);
  virtio_start(&function, &queue, 1ul << VIRTIO_F_ACCESS_PLATFORM);
  irq_enable(function.irq, interrupt);
  present = 1;
  put(function.translated ? "yes, translated\n" : "yes\n");
}

void rng_step(void) {
  u16 head;
  u32 length;
  if (!present) return;
  if (waiting) {
    if (!interrupted || !virtio_used(&queue, &head, &length)) return;
    interrupted = waiting = 0;
    u64 value = R64(buffer.pa);
    if (length == 8) {
      for (u64 i = 0; i < KEPT && i < rng_ops; i++)
        if (kept[i] == value) error("rng-repeated", value, i, rng_ops);
      kept[rng_ops % KEPT] = value;
    }
    rng_ops++;
  } else if (rate_left(&rate) >= 1) {
    rate.done++;
    R64(buffer.pa) = 0;
    struct desc chain = {buffer.iova, 8, DESC_WRITE, 0};
    virtio_add(&queue, &chain, 1);
    waiting = 1;
    virtio_kick(&queue);
  }
}
