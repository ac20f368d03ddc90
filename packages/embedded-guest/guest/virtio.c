/* Split virtqueues over virtio-pci. Spec: virtio 1.2, sections 2.7 (split virtqueues), 3.1 (initialisation), 4.1 (PCI). */
#include "guest.h"

#define DEVICE_FEATURE_SELECT 0
#define DEVICE_FEATURE 4
#define DRIVER_FEATURE_SELECT 8
#define DRIVER_FEATURE 12
#define DEVICE_STATUS 20
#define QUEUE_SELECT 22
#define QUEUE_SIZE 24
#define QUEUE_ENABLE 28
#define QUEUE_NOTIFY_OFF 30
#define QUEUE_DESC 32
#define QUEUE_DRIVER 40
#define QUEUE_DEVICE 48

static void write64(u64 at, u64 value) { /* the two halves on their own: section 4.1.3.1 */
  R32(at) = (u32)value;
  R32(at + 4) = (u32)(value >> 32);
}

u64 dma_map(struct pci_function *f, u64 pa, u64 flags) { return f->translated ? vtd_map(pa, flags) : pa; }

u64 virtio_offered(struct pci_function *f) {
  R32(f->common + DEVICE_FEATURE_SELECT) = 0;
  u64 low = R32(f->common + DEVICE_FEATURE);
  R32(f->common + DEVICE_FEATURE_SELECT) = 1;
  return (u64)R32(f->common + DEVICE_FEATURE) << 32 | low;
}

void virtio_reset(struct pci_function *f) {
  R8(f->common + DEVICE_STATUS) = 0;
  u64 limit = now() + 10 * TICKS_PER_SECOND;
  while (R8(f->common + DEVICE_STATUS))
    if (now() > limit) die("virtio reset", f->bdf, R8(f->common + DEVICE_STATUS));
}

/* Resets the device and brings queue 0 up. The queue's pages are kept when it is started again. */
void virtio_start(struct pci_function *f, struct queue *q, u64 wanted) {
  virtio_reset(f);
  R8(f->common + DEVICE_STATUS) = 1;
  R8(f->common + DEVICE_STATUS) = 3;
  u64 features = virtio_offered(f) & (wanted | 1ul << VIRTIO_F_VERSION_1);
  if (!(features >> VIRTIO_F_VERSION_1 & 1)) die("virtio: no VERSION_1", f->bdf, features);
  R32(f->common + DRIVER_FEATURE_SELECT) = 0;
  R32(f->common + DRIVER_FEATURE) = (u32)features;
  R32(f->common + DRIVER_FEATURE_SELECT) = 1;
  R32(f->common + DRIVER_FEATURE) = (u32)(features >> 32);
  R8(f->common + DEVICE_STATUS) = 11;
  if (!(R8(f->common + DEVICE_STATUS) & 8)) die("virtio: features refused", f->bdf, features);

  q->f = f;
  q->features = features;
  q->event_idx = features >> VIRTIO_F_EVENT_IDX & 1;
  R16(f->common + QUEUE_SELECT) = 0;
  q->size = R16(f->common + QUEUE_SIZE);
  if (!q->size) die("virtio: no queue", f->bdf, 0);
  if (q->size > QUEUE_MAX) q->size = QUEUE_MAX;
  R16(f->common + QUEUE_SIZE) = q->size;
  if (!q->desc.pa) {
    q->desc = dma_page();
    q->avail = dma_page();
    q->used = dma_page();
    q->desc.iova = dma_map(f, q->desc.pa, 1);
    q->avail.iova = dma_map(f, q->avail.pa, 1);
    q->used.iova = dma_map(f, q->used.pa, 3);
  }
  memset((void *)q->avail.pa, 0, PAGE);
  memset((void *)q->used.pa, 0, PAGE);
  for (u16 i = 0; i < q->size; i++) ((struct desc *)q->desc.pa)[i] = (struct desc){0, 0, 0, (u16)(i + 1)};
  q->free_head = 0;
  q->free_count = q->size;
  q->last_used = 0;
  q->last_kick = 0;
  write64(f->common + QUEUE_DESC, q->desc.iova);
  write64(f->common + QUEUE_DRIVER, q->avail.iova);
  write64(f->common + QUEUE_DEVICE, q->used.iova);
  q->notify = f->notify + (u64)R16(f->common + QUEUE_NOTIFY_OFF) * f->notify_multiplier;
  R16(f->common + QUEUE_ENABLE) = 1;
  R8(f->common + DEVICE_STATUS) = 15;
}

/* Puts a chain into the available ring and returns its head; the caller makes sure that it fits. */
u16 virtio_add(struct queue *q, const struct desc *chain, int count) {
  volatile struct desc *table = (volatile struct desc *)q->desc.pa;
  u16 head = q->free_head, at = head;
  for (int i = 0; i < count; i++) {
    u16 next = table[at].next;
    table[at].address = chain[i].address;
    table[at].length = chain[i].length;
    table[at].flags = (u16)(chain[i].flags | (i + 1 < count ? DESC_NEXT : 0));
    if (i + 1 == count) q->free_head = next;
    at = next;
  }
  q->free_count -= (u16)count;
  u16 index = R16(q->avail.pa + 2);
  R16(q->avail.pa + 4 + 2 * (index % q->size)) = head;
  fence();
  R16(q->avail.pa + 2) = (u16)(index + 1);
  return head;
}

/* Tells the device about everything added since the last kick, unless it asked not to be told. */
void virtio_kick(struct queue *q) {
  u16 index = R16(q->avail.pa + 2), before = q->last_kick;
  q->last_kick = index;
  fence();
  if (q->event_idx) { /* section 2.7.10: was the index it waits for passed since the last kick? */
    u16 event = R16(q->used.pa + 4 + 8 * q->size);
    if ((u16)(index - event - 1) >= (u16)(index - before)) return;
  } else if (R16(q->used.pa) & 1) {
    return;
  }
  R16(q->notify) = 0;
}

/* Takes one used element; frees its chain. */
int virtio_used(struct queue *q, u16 *head, u32 *length) {
  volatile struct desc *table = (volatile struct desc *)q->desc.pa;
  u16 index = R16(q->used.pa + 2);
  if (index == q->last_used) return 0;
  fence();
  u64 element = q->used.pa + 4 + 8 * (q->last_used % q->size);
  *head = (u16)R32(element);
  *length = R32(element + 4);
  if (*head >= q->size) die("virtio: used head", *head, index);
  u16 last = *head, count = 1;
  while (table[last].flags & DESC_NEXT) last = table[last].next, count++;
  table[last].next = q->free_head;
  q->free_head = *head;
  q->free_count += count;
  q->last_used++;
  return 1;
}

int virtio_arm(struct queue *q) {
  if (q->event_idx) R16(q->avail.pa + 4 + 2 * q->size) = q->last_used;
  fence();
  return R16(q->used.pa + 2) != q->last_used;
}
