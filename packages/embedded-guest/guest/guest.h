/*
 * Ferry's embedded guest: what its files share.
 * M-mode keeps the timer; everything else runs in S-mode under Sv39 (devices and RAM 1:1, the walked memory elsewhere).
 */
#ifndef GUEST_H
#define GUEST_H
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;

#define PAGE 4096ul
#define TICKS_PER_SECOND 10000000ul /* mtime runs at 10 MHz on this board */
#define FINISHER 0x100000ul
#define CLINT 0x2000000ul
#define VTD 0x4000000ul
#define PLIC 0xc000000ul
#define UART 0x10000000ul
#define ECAM 0x30000000ul
#define PCI_WINDOW 0x40000000ul
#define RAM 0x80000000ul

#define R8(a) (*(volatile u8 *)(u64)(a))
#define R16(a) (*(volatile u16 *)(u64)(a))
#define R32(a) (*(volatile u32 *)(u64)(a))
#define R64(a) (*(volatile u64 *)(u64)(a))
#define fence() __asm__ volatile("fence iorw, iorw" ::: "memory")
#define csr_read(name) ({ u64 v_; __asm__ volatile("csrr %0, " #name : "=r"(v_)); v_; })
#define csr_write(name, v) __asm__ volatile("csrw " #name ", %0" ::"r"((u64)(v)) : "memory")
#define csr_set(name, v) __asm__ volatile("csrs " #name ", %0" ::"r"((u64)(v)) : "memory")
#define csr_clear(name, v) __asm__ volatile("csrc " #name ", %0" ::"r"((u64)(v)) : "memory")

/* start.S, guest.ld */
extern char _end[], _image_end[];
u64 lcg_burst(u64 x, u64 steps, u64 *bad);

/* params.c: the block a host may change inside the image, at offset 0x100 (src/image.ts knows the layout). */
struct params {
  u64 magic;               /* "FERRYGP1" */
  u64 size_bytes;
  u64 ram_bytes;           /* 0: as the device tree says */
  u64 dirty_bytes;         /* the walked memory */
  u64 dirty_per_second;    /* bytes; 0: as fast as it goes */
  u64 dirty_words;         /* words written per page, 1..512 */
  u64 disk_bytes;          /* used part of the disk */
  u64 disk_per_second;     /* requests; 0: as fast as it goes */
  u64 disk_depth;          /* requests in flight, 1..8 */
  u64 remap_every;         /* requests between two remappings */
  u64 lines_per_second;
  u64 lcg_per_second;      /* steps; 0: whenever there is nothing else */
  u64 flags;
  u64 seed;                /* 0: from the device tree and the clock */
};
#define FLAG_NO_IOMMU 1ul
#define FLAG_NO_DISK 2ul
#define FLAG_NO_EVENT_IDX 4ul
#define FLAG_NO_INDIRECT 8ul
#define FLAG_NO_RNG 16ul
#define FLAG_REARM_TIMER 32ul
#define FLAG_EARLY_TIMER 64ul
extern volatile struct params params;

/* trap.c */
extern u64 nonce, ram_end;
u64 now(void);
u64 alloc_pages(u64 count);      /* zeroed, 1:1 mapped; stops the machine when RAM is used up */
int probe_read32(u64 address, u32 *value); /* 0 when nothing answers */
void trap_check(void);           /* reports what the trap handlers noticed since the last call */
void timer_watch(u64 time);      /* notices that the timer interrupt does not come any more */
extern u64 timer_rearmed;
extern volatile u64 tick_count;
extern volatile u64 timer_next;
void irq_enable(u32 source, void (*handler)(void));
void map_page(u64 va, u64 pa);
u64 interrupts_off(void);
void interrupts_restore(u64 saved);
__attribute__((noreturn)) void power_off(u32 value);
__attribute__((noreturn)) void die(const char *why, u64 a, u64 b);

/* uart.c */
void uart_start(void);
void uart_poll(void);            /* watches for input without an interrupt */
int uart_take(void);             /* next input byte or -1 */
void put(const char *s);
void put_char(char c);
void put_dec(u64 v);
void put_hex(u64 v, int digits);
/* Counts an error and prints `ERR <n> <what> <a> <b> <c>` (the first 40 only). */
void error(const char *what, u64 a, u64 b, u64 c);
extern u64 error_count;
extern const char *first_error;

/* pci.c */
struct pci_function { u32 bdf; u64 config; u64 common, notify, isr, device; u32 notify_multiplier; u32 irq; int translated; };
/* Finds the n-th virtio function with that device type, assigns its BARs; 0 when there is none. */
int pci_find_virtio(u32 type, struct pci_function *f);

/* vtd.c */
struct dma { u64 pa, iova; };    /* one page as the hart and as the device see it */
extern int vtd_present, vtd_active;
extern u64 vtd_remaps, vtd_faults_expected;
void vtd_probe(void);
int vtd_attach(u32 bdf);         /* puts a function behind translation; starts the unit at the first */
struct dma dma_page(void);
u64 vtd_map(u64 pa, u64 flags);  /* a fresh IOVA for the page; 1 = device may read, 2 = may write */
void vtd_unmap(u64 iova);
void vtd_replace(u64 iova, u64 pa, u64 flags);
void vtd_flush(u64 iova);
u64 vtd_unmapped_iova(void);
int vtd_take_fault(u64 *address, u64 *info);
void vtd_check(void);            /* any fault or queue error here is unexpected */
void vtd_check_poison(void);

/* virtio.c: one split virtqueue over the modern PCI interface */
#define QUEUE_MAX 64
struct desc { u64 address; u32 length; u16 flags, next; };
struct queue {
  struct pci_function *f;
  u16 size, free_head, free_count, last_used, last_kick, event_idx;
  struct dma desc, avail, used;
  u64 notify;
  u64 features;
};
#define VIRTIO_F_INDIRECT 28
#define VIRTIO_F_EVENT_IDX 29
#define VIRTIO_F_VERSION_1 32
#define VIRTIO_F_ACCESS_PLATFORM 33
#define DESC_NEXT 1
#define DESC_WRITE 2
#define DESC_INDIRECT 4
u64 dma_map(struct pci_function *f, u64 pa, u64 flags);
u64 virtio_offered(struct pci_function *f);
void virtio_reset(struct pci_function *f);
void virtio_start(struct pci_function *f, struct queue *q, u64 wanted);
u16 virtio_add(struct queue *q, const struct desc *chain, int count);
void virtio_kick(struct queue *q);
int virtio_used(struct queue *q, u16 *head, u32 *length);
int virtio_arm(struct queue *q); /* asks for an interrupt; 1 when something came in meanwhile */

/* disk.c */
extern u64 disk_blocks, disk_ops;
void disk_start(void);
void disk_step(void);
void disk_verify(void);
int disk_pending(void);
int disk_ready(void);            /* something to do right now */

/* rng.c */
extern u64 rng_ops;
void rng_start(void);
void rng_step(void);

/* memory.c */
extern u64 mem_passes, mem_pages;
void mem_start(void);
int mem_step(void);              /* 1 when it did something */
void mem_verify(void);

/* harts.c */
extern u64 hart_count;
void harts_kick(void);
void harts_watch(u64 time);
void harts_verify(void);

/* main.c */
u64 lcg_jump(u64 x, u64 steps);  /* what lcg_burst gives, from the number of steps alone */
extern u64 line_count;
u64 mix(u64 v);
void *memset(void *to, int value, unsigned long n);
void *memcpy(void *to, const void *from, unsigned long n);
/* A budget in units per second of guest time; what could not be used in half a second is forgotten. per_second 0 has no limit. */
struct rate { u64 per_second, unit, since; int64_t credit, done; };
int64_t rate_left(struct rate *r);

#endif
