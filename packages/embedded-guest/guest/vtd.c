/*
 * Intel VT-d in front of PCI bus 0: three-level second-level tables, queued invalidation, fault records.
 * Register and table names as in the VT-d specification, sections 9 and 10.4 (the board puts the registers at 0x0400_0000).
 * Without it, or when a device does not take part (no VIRTIO_F_ACCESS_PLATFORM), an IOVA is the physical address.
 *
 * IOVAs come from four 2 MiB windows. Three lie where this board has nothing at all; the fourth coincides with RAM that holds
 * poison, so that a device that skips translation reads garbage instead of failing loudly.
 */
#include "guest.h"

#define VER 0x00
#define CAP 0x08
#define ECAP 0x10
#define GCMD 0x18
#define GSTS 0x1c
#define RTADDR 0x20
#define CCMD 0x28
#define FSTS 0x34
#define IQH 0x80
#define IQT 0x88
#define IQA 0x90
#define IOTLB 0xf8
#define FRCD 0x220
#define TE (1u << 31)
#define SRTP (1u << 30)
#define QIE (1u << 26)
#define DOMAIN 5ul
#define QUEUE_ENTRIES 256
#define WINDOWS 4
#define SLOTS (WINDOWS * 512)
#define POISON 0xbad0bad0bad0bad0ul
#define POISON_BYTES (512 * PAGE)

int vtd_present, vtd_active;
u64 vtd_remaps, vtd_faults_expected;
static u64 root, context, second_level, tables[WINDOWS], windows[WINDOWS], queue, status_page, poison, waits;
static u32 slot, queue_tail;

void vtd_probe(void) {
  u32 version = 0;
  if (params.flags & FLAG_NO_IOMMU) return;
  if (!probe_read32(VTD + VER, &version) || version != 0x10) return;
  u64 cap = R64(VTD + CAP), ecap = R64(VTD + ECAP);
  /* 39-bit tables and queued invalidation are all that is used. */
  vtd_present = (cap >> 8 & 2) && (ecap & 2);
  if (!vtd_present) error("vtd-unusable", cap, ecap, 0);
}

/* Waits for a register to say so; the model answers at once, hardware would take microseconds. */
static int wait32(u64 at, u32 mask, u32 value) {
  u64 limit = now() + 10 * TICKS_PER_SECOND;
  while ((R32(at) & mask) != value)
    if (now() > limit) {
      error("vtd-timeout", at, R32(at), value);
      return 0;
    }
  return 1;
}

static void submit(u64 low, u64 high) {
  R64(queue + queue_tail * 16) = low;
  R64(queue + queue_tail * 16 + 8) = high;
  queue_tail = (queue_tail + 1) % QUEUE_ENTRIES;
}

/* Hands the queued descriptors over behind a wait descriptor and waits for its status word. */
static void submit_and_wait(void) {
  u32 word = (u32)++waits;
  submit((u64)word << 32 | 1 << 5 | 5, status_page);
  fence();
  R64(VTD + IQT) = (u64)queue_tail << 4;
  u64 limit = now() + 10 * TICKS_PER_SECOND;
  while (R32(status_page) != word)
    if (now() > limit) {
      error("vtd-wait-lost", R32(status_page) | (u64)word << 32, R64(VTD + IQH) << 32 | R64(VTD + IQT), R32(VTD + FSTS));
      return;
    }
  if (R64(VTD + IQH) != R64(VTD + IQT)) error("vtd-queue", R64(VTD + IQH), R64(VTD + IQT), R32(VTD + FSTS));
}

static void build_tables(void) {
  root = alloc_pages(1);
  context = alloc_pages(1);
  second_level = alloc_pages(1);
  queue = alloc_pages(1);
  status_page = alloc_pages(1);
  poison = (alloc_pages(2 * 512 - 1) + POISON_BYTES - 1) & ~(POISON_BYTES - 1);
  for (u64 i = 0; i < POISON_BYTES; i += 8) R64(poison + i) = POISON;
  windows[0] = 0x1000000000ul;
  windows[1] = 0x0000200000ul;
  windows[2] = poison;
  windows[3] = 0x7fffe00000ul; /* the last 2 MiB of 39 bits */
  for (int w = 0; w < WINDOWS; w++) {
    volatile u64 *top = &R64(second_level + (windows[w] >> 30 & 511) * 8);
    if (!*top) *top = alloc_pages(1) | 3;
    tables[w] = alloc_pages(1);
    R64((*top & ~0xffful) + (windows[w] >> 21 & 511) * 8) = tables[w] | 3;
  }
  R64(root) = context | 1;
}

/* Root pointer, one round of invalidation through the registers while the queue is off, the queue, then translation. */
static int enable(void) {
  build_tables();
  fence();
  R64(VTD + RTADDR) = root;
  R32(VTD + GCMD) = SRTP;
  if (!wait32(VTD + GSTS, SRTP, SRTP)) return 0;
  R64(VTD + CCMD) = 1ul << 63 | 1ul << 61;
  wait32(VTD + CCMD + 4, 1u << 31, 0);
  R64(VTD + IOTLB) = 1ul << 63 | 1ul << 60;
  wait32(VTD + IOTLB + 4, 1u << 31, 0);
  R64(VTD + IQT) = 0;
  R64(VTD + IQA) = queue;
  R32(VTD + GCMD) = QIE;
  if (!wait32(VTD + GSTS, QIE, QIE)) return 0;
  submit(1 << 4 | 1, 0);
  submit(1 << 4 | 2, 0);
  submit_and_wait();
  R32(VTD + GCMD) = QIE | TE;
  return wait32(VTD + GSTS, TE, TE);
}

int vtd_attach(u32 bdf) {
  if (!vtd_present || (!vtd_active && !(vtd_active = enable()))) return 0;
  R64(context + bdf * 16 + 8) = DOMAIN << 8 | 1; /* 39 bits, three levels */
  R64(context + bdf * 16) = second_level | 1;    /* translate */
  submit((u64)bdf << 32 | DOMAIN << 16 | 3 << 4 | 1, 0);
  submit(DOMAIN << 16 | 2 << 4 | 2, 0);
  submit_and_wait();
  return 1;
}

static volatile u64 *entry_of(u64 iova) {
  for (int w = 0; w < WINDOWS; w++)
    if (iova - windows[w] < 512 * PAGE) return &R64(tables[w] + (iova >> 12 & 511) * 8);
  die("iova", iova, 0);
}

static u64 next_slot(void) {
  slot = (slot + 677) % SLOTS; /* prime: hops between windows and never meets its neighbour */
  return windows[slot / 512] + slot % 512 * PAGE;
}

/* An address that no table maps at this moment. */
u64 vtd_unmapped_iova(void) {
  u64 iova;
  do iova = next_slot();
  while (*entry_of(iova));
  return iova;
}

u64 vtd_map(u64 pa, u64 flags) {
  u64 iova = vtd_unmapped_iova();
  *entry_of(iova) = pa | flags;
  fence(); /* not-present entries are not cached: nothing to invalidate */
  return iova;
}

void vtd_flush(u64 iova) {
  submit(DOMAIN << 16 | 3 << 4 | 2, iova);
  submit_and_wait();
}

void vtd_unmap(u64 iova) {
  *entry_of(iova) = 0;
  vtd_flush(iova);
}

/* Puts another page under the same IOVA. */
void vtd_replace(u64 iova, u64 pa, u64 flags) {
  *entry_of(iova) = pa | flags;
  vtd_flush(iova);
}

struct dma dma_page(void) {
  struct dma page;
  page.pa = alloc_pages(1);
  alloc_pages(1); /* no two DMA pages are neighbours */
  page.iova = 0;
  return page;
}

/* The recorded fault, cleared; 0 when there is none. Reason is bits 39:32 of *info, source id 15:0, read bit 62. */
int vtd_take_fault(u64 *address, u64 *info) {
  if (!(R32(VTD + FSTS) & 2)) return 0;
  *address = R64(VTD + FRCD);
  *info = R64(VTD + FRCD + 8);
  R64(VTD + FRCD + 8) = 1ul << 63;
  R32(VTD + FSTS) = 0x11;
  if (R32(VTD + FSTS) & 0x13) error("vtd-fault-stays", R32(VTD + FSTS), *address, *info);
  return 1;
}

void vtd_check(void) {
  if (!vtd_active) return;
  u64 address, info;
  u32 fsts = R32(VTD + FSTS), gsts = R32(VTD + GSTS);
  if (fsts & 0x13) {
    if (!vtd_take_fault(&address, &info)) address = info = 0;
    error("vtd-fault", address, info, fsts);
  }
  if ((gsts & (TE | QIE | SRTP)) != (TE | QIE | SRTP)) error("vtd-off", gsts, 0, 0);
  if ((R64(VTD + RTADDR) & ~0xffful) != root) error("vtd-root", R64(VTD + RTADDR), root, 0);
  if ((R64(VTD + IQT) >> 4) != queue_tail) error("vtd-tail", R64(VTD + IQT), queue_tail, 0);
}

void vtd_check_poison(void) {
  if (!vtd_active) return;
  for (u64 i = 0; i < POISON_BYTES; i += 8)
    if (R64(poison + i) != POISON) {
      error("vtd-untranslated-write", poison + i, R64(poison + i), 0);
      R64(poison + i) = POISON;
    }
}
