/*
 * The disk workload. The used part of the disk is cut into blocks of 8 KiB; memory remembers for each block which generation
 * was written last and at which line of output. Every sector carries its number, generation, line and a checksum, so that on
 * reading back
 *   older than memory says = a write was lost,
 *   newer than memory says = memory (or the whole guest) went back in time.
 * Spec: virtio 1.2, section 5.2 (block device).
 */
#include "guest.h"

#define BLOCK 8192ul
#define SECTORS (BLOCK / 512)
#define SLOTS 8
#define MAGIC 0x6b73694479727265ul
#define T_IN 0
#define T_OUT 1
#define T_FLUSH 4
#define F_FLUSH 9

struct slot {
  int busy;
  u32 type;
  u64 block, since;
  u32 generation;
  struct dma head, data[2], spare; /* header, status, indirect table; two data pages; the page to swap in */
  u64 spare_word;
  u16 chain;
};

u64 disk_blocks, disk_ops;
static struct pci_function function;
static struct queue queue;
static struct slot slots[SLOTS];
static u32 *generations, *lines; /* per block, bit 31 of lines: in flight */
static u64 depth, turn, stride, submitted, next_check, verify_next;
static int verifying;
static struct rate rate;
static volatile int interrupted;
static volatile u64 interrupts;

/* ---- sector contents ---- */

static void fill(u64 at, u64 sector, u32 generation, u32 line) {
  volatile u64 *word = (volatile u64 *)at;
  u64 x = mix(nonce ^ sector << 32 ^ generation), sum = 0;
  for (int i = 0; i < 63; i++) {
    u64 value = x;
    if (i == 0) value = MAGIC ^ sector;
    if (i == 1) value = (u64)line << 32 | generation;
    if (i == 2) value = nonce;
    word[i] = value;
    sum = (sum << 7 | sum >> 57) ^ value;
    x = x * 6364136223846793005ul + sector;
  }
  word[63] = sum;
}

static int check(u64 at, u64 sector, u32 generation, u32 line) {
  volatile u64 *word = (volatile u64 *)at;
  u64 x = mix(nonce ^ sector << 32 ^ generation), sum = 0;
  int good = 1;
  for (int i = 0; i < 63; i++) {
    u64 value = word[i];
    if (i > 2 && value != x) good = 0;
    sum = (sum << 7 | sum >> 57) ^ value;
    x = x * 6364136223846793005ul + sector;
  }
  u32 found = (u32)word[1], at_line = (u32)(word[1] >> 32);
  if (word[63] != sum) return error("disk-corrupt", sector, word[63], sum), 0;
  if (word[0] != (MAGIC ^ sector)) return error("disk-other-sector", sector, word[0] ^ MAGIC, 0), 0;
  if (word[2] != nonce) return error("disk-other-run", sector, word[2], nonce), 0;
  if (found != generation)
    return error(found < generation ? "disk-older" : "disk-newer", sector, word[1], (u64)line << 32 | generation), 0;
  if (at_line != line) return error("disk-other-line", sector, word[1], (u64)line << 32 | generation), 0;
  if (!good) return error("disk-pattern", sector, word[1], 0), 0;
  return 1;
}

static u64 page_of(struct slot *s, u64 sector) { return s->data[sector / 8].pa + sector % 8 * 512; }

/* ---- requests ---- */

static void submit(struct slot *s, u64 data0, u64 data1) {
  u64 head = s->head.pa;
  R32(head) = s->type;
  R32(head + 4) = 0;
  R64(head + 8) = s->type == T_FLUSH ? 0 : s->block * SECTORS;
  R8(head + 64) = 0xff;
  u16 write = s->type == T_IN ? DESC_WRITE : 0;
  struct desc chain[5];
  int count = 0;
  chain[count++] = (struct desc){s->head.iova, 16, 0, 0};
  if (s->type != T_FLUSH) {
    chain[count++] = (struct desc){data0, PAGE, write, 0};
    chain[count++] = (struct desc){data1, 1536, write, 0};
    chain[count++] = (struct desc){data1 + 1536, PAGE - 1536, write, 0};
  }
  chain[count++] = (struct desc){s->head.iova + 64, 1, DESC_WRITE, 0};
  /* Every second one through an indirect table, which lives in the header's page. */
  if (queue.features >> VIRTIO_F_INDIRECT & 1 && submitted & 1) {
    volatile struct desc *table = (volatile struct desc *)(head + 256);
    for (int i = 0; i < count; i++) {
      table[i].address = chain[i].address;
      table[i].length = chain[i].length;
      table[i].flags = (u16)(chain[i].flags | (i + 1 < count ? DESC_NEXT : 0));
      table[i].next = (u16)(i + 1);
    }
    chain[0] = (struct desc){s->head.iova + 256, (u32)count * 16, DESC_INDIRECT, 0};
    count = 1;
  }
  s->busy = 1;
  s->since = now();
  s->chain = virtio_add(&queue, chain, count);
  submitted++;
}

static void start(struct slot *s, u32 type, u64 block) {
  s->type = type;
  s->block = block;
  if (type != T_FLUSH) {
    s->generation = generations[block] + (type == T_OUT);
    u32 line = type == T_OUT ? (u32)line_count : lines[block];
    if (type == T_OUT) {
      for (u64 i = 0; i < SECTORS; i++) fill(page_of(s, i), block * SECTORS + i, s->generation, line);
    } else {
      /* What is there must come from the device, not from an earlier read. */
      for (u64 i = 0; i < SECTORS; i++) R64(page_of(s, i) + 504) = ~0ul;
    }
    lines[block] = line | 1u << 31;
  }
  submit(s, s->data[0].iova, s->data[1].iova);
}

static void complete(struct slot *s, u32 length) {
  u8 status = R8(s->head.pa + 64);
  s->busy = 0;
  disk_ops++;
  if (status) error("disk-status", status, s->type, s->block);
  if (s->type == T_IN && length != BLOCK + 1) error("disk-length", length, s->type, s->block);
  if (s->type == T_FLUSH) return;
  lines[s->block] &= ~(1u << 31);
  if (s->type == T_OUT) {
    generations[s->block] = s->generation;
    return;
  }
  for (u64 i = 0; i < SECTORS; i++)
    if (!check(page_of(s, i), s->block * SECTORS + i, s->generation, lines[s->block])) break;
}

/* A new IOVA for one data page, and the spare page swapped in under the IOVA of the other. */
static void remap(struct slot *s) {
  if (!function.translated) return;
  u64 old = s->data[0].iova;
  s->data[0].iova = vtd_map(s->data[0].pa, 3);
  vtd_unmap(old);
  for (u64 i = 0; i < PAGE; i += 512)
    if (R64(s->spare.pa + i) != s->spare_word) {
      error("vtd-stale-write", s->spare.pa + i, R64(s->spare.pa + i), s->spare_word);
      break;
    }
  u64 swapped = s->spare.pa;
  s->spare.pa = s->data[1].pa;
  s->data[1].pa = swapped;
  vtd_replace(s->data[1].iova, swapped, 3);
  s->spare_word = mix(s->spare_word);
  for (u64 i = 0; i < PAGE; i += 8) R64(s->spare.pa + i) = s->spare_word;
  vtd_remaps++;
}

static void collect(void) {
  u16 head;
  u32 length;
  do {
    while (virtio_used(&queue, &head, &length)) {
      struct slot *s = 0;
      for (u64 i = 0; i < SLOTS; i++)
        if (slots[i].busy && slots[i].chain == head) s = &slots[i];
      if (!s) error("disk-unasked", head, length, queue.last_used);
      else complete(s, length);
    }
  } while (virtio_arm(&queue));
}

int disk_pending(void) {
  int count = 0;
  for (u64 i = 0; i < SLOTS; i++) count += slots[i].busy;
  return count;
}

int disk_ready(void) { return interrupted; }

/* Completions arrive by interrupt; one that does not, or a request that never ends, is an error. */
static void watch(void) {
  if (now() < next_check) return;
  next_check = now() + TICKS_PER_SECOND;
  vtd_check();
  for (u64 i = 0; i < SLOTS; i++) {
    if (!slots[i].busy || now() - slots[i].since < 20 * TICKS_PER_SECOND) continue;
    int finished = R16(queue.used.pa + 2) != queue.last_used;
    error(finished ? "disk-irq-lost" : "disk-stuck", slots[i].block, slots[i].type, R8(function.common + 20));
    slots[i].since = now();
    if (finished) collect();
  }
}

static void pump(void) {
  if (interrupted) {
    interrupted = 0;
    collect();
  }
  watch();
}

static void issue(void) {
  int added = 0;
  for (u64 i = 0; i < depth; i++) {
    struct slot *s = &slots[i];
    if (s->busy) continue;
    if (!verifying && rate_left(&rate) < 1) break;
    if (verifying && verify_next == disk_blocks) break;
    if (params.remap_every && submitted % params.remap_every == params.remap_every - 1) remap(s);
    if (verifying) {
      start(s, T_IN, verify_next++);
    } else if (queue.features >> F_FLUSH & 1 && submitted % 64 == 63) {
      start(s, T_FLUSH, 0);
    } else {
      /* Writes run ahead of reads by a third of the region, both in the same scrambled order. */
      u32 type = turn & 1 ? T_IN : T_OUT;
      u64 block = (turn / 2 + (type == T_OUT ? disk_blocks / 3 : 0)) % disk_blocks * stride % disk_blocks;
      turn++;
      if (lines[block] >> 31) continue;
      start(s, type, block);
    }
    rate.done += !verifying;
    added++;
  }
  if (added) virtio_kick(&queue);
}

void disk_step(void) {
  if (!disk_blocks) return;
  pump();
  issue();
}

static void drain(void) {
  u64 limit = now() + 90 * TICKS_PER_SECOND;
  while (disk_pending()) {
    pump();
    if (now() > limit) die("disk stuck", (u64)disk_pending(), disk_ops);
  }
}

void disk_verify(void) {
  if (!disk_blocks) return;
  drain();
  verifying = 1;
  verify_next = 0;
  do {
    pump();
    issue();
  } while (verify_next < disk_blocks);
  drain();
  verifying = 0;
  for (u64 i = 0; i < SLOTS; i++)
    for (u64 at = 0; function.translated && i < depth && at < PAGE; at += 8)
      if (R64(slots[i].spare.pa + at) != slots[i].spare_word) {
        error("vtd-stale-write", slots[i].spare.pa + at, R64(slots[i].spare.pa + at), slots[i].spare_word);
        break;
      }
  vtd_check();
  vtd_check_poison();
}

/* ---- start ---- */

static void interrupt(void) {
  interrupts++;
  if (R8(function.isr) & 1) interrupted = 1; /* reading lowers the line */
}

/* One read into an address that no table maps: it must be recorded, and it must be the only thing recorded. */
static void provoke_fault(u64 wanted) {
  u64 address = 0, info = 0, limit, bad = vtd_unmapped_iova();
  virtio_start(&function, &queue, wanted);
  slots[0].type = T_IN;
  slots[0].block = 0;
  submit(&slots[0], bad, slots[0].data[1].iova);
  virtio_kick(&queue);
  limit = now() + 10 * TICKS_PER_SECOND;
  while (!vtd_take_fault(&address, &info) && now() < limit) {
  }
  if (!info) error("vtd-no-fault", bad, R8(function.common + 20), R8(slots[0].head.pa + 64));
  else if (address != bad || (info & 0xffff) != function.bdf || (info >> 62 & 1))
    error("vtd-other-fault", address, info, bad);
  else vtd_faults_expected++;
  virtio_reset(&function);
  slots[0].busy = 0;
  if (vtd_take_fault(&address, &info) && address != bad) error("vtd-second-fault", address, info, bad);
  (void)R8(function.isr);
}

void disk_start(void) {
  put("disk: ");
  if (params.flags & FLAG_NO_DISK || !pci_find_virtio(2, &function)) {
    put("none\n");
    return;
  }
  u64 offered = virtio_offered(&function);
  u64 wanted = 1ul << VIRTIO_F_ACCESS_PLATFORM | 1ul << F_FLUSH;
  if (!(params.flags & FLAG_NO_EVENT_IDX)) wanted |= 1ul << VIRTIO_F_EVENT_IDX;
  if (!(params.flags & FLAG_NO_INDIRECT)) wanted |= 1ul << VIRTIO_F_INDIRECT;
  u64 capacity = R64(function.device);
  put_dec(capacity);
  put(" sectors");
  u64 bytes = capacity * 512 < params.disk_bytes ? capacity * 512 : params.disk_bytes;
  disk_blocks = bytes / BLOCK;
  if (disk_blocks < 2 * SLOTS) {
    disk_blocks = 0;
    put(", too small\n");
    return;
  }
  depth = params.disk_depth < 1 || params.disk_depth > SLOTS ? SLOTS : params.disk_depth;
  function.translated = offered >> VIRTIO_F_ACCESS_PLATFORM & 1 && vtd_attach(function.bdf);
  put(", depth "), put_dec(depth);
  put(function.translated ? ", translated" : "");
  put(offered & wanted & 1ul << VIRTIO_F_EVENT_IDX ? ", event idx" : "");
  put(offered & wanted & 1ul << VIRTIO_F_INDIRECT ? ", indirect\n" : "\n");

  generations = (u32 *)alloc_pages((disk_blocks * 4 + PAGE - 1) / PAGE);
  lines = (u32 *)alloc_pages((disk_blocks * 4 + PAGE - 1) / PAGE);
  stride = 0x2f1;
  while (disk_blocks % stride == 0) stride += 2;
  for (u64 a = stride, b = disk_blocks;;) { /* a step that shares no factor visits every block */
    while (b) {
      u64 r = a % b;
      a = b;
      b = r;
    }
    if (a == 1) break;
    a = ++stride;
    b = disk_blocks;
  }
  for (u64 i = 0; i < SLOTS; i++) {
    struct slot *s = &slots[i];
    s->head = dma_page();
    s->data[0] = dma_page();
    s->data[1] = dma_page();
    s->spare = dma_page();
    s->head.iova = dma_map(&function, s->head.pa, 3);
    s->data[0].iova = dma_map(&function, s->data[0].pa, 3);
    s->data[1].iova = dma_map(&function, s->data[1].pa, 3);
    s->spare_word = mix(nonce + i);
    for (u64 at = 0; at < PAGE; at += 8) R64(s->spare.pa + at) = s->spare_word;
  }
  if (function.translated) provoke_fault(wanted);
  virtio_start(&function, &queue, wanted);
  irq_enable(function.irq, interrupt);
  virtio_arm(&queue);
  /* Generation 1 everywhere, so that the first read of a block has something to find. */
  for (u64 block = 0; block < disk_blocks;) {
    int added = 0;
    pump();
    for (u64 i = 0; i < depth && block < disk_blocks; i++)
      if (!slots[i].busy) start(&slots[i], T_OUT, block++), added++;
    if (added) virtio_kick(&queue);
  }
  drain();
  rate = (struct rate){.per_second = params.disk_per_second, .unit = SLOTS};
}
