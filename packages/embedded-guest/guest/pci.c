/* PCI bus 0: finds virtio functions, places their BARs, reads their capabilities. Spec: PCI 3.0; virtio 1.2, section 4.1. */
#include "guest.h"

#define CFG(dev, off) (ECAM + ((u64)(dev) << 15) + (off))
static u64 window = PCI_WINDOW;

static void place_bars(u32 dev) {
  R16(CFG(dev, 4)) &= (u16)~3;
  for (u32 bar = 0x10; bar < 0x28; bar += 4) {
    R32(CFG(dev, bar)) = ~0u;
    u32 mask = R32(CFG(dev, bar));
    if (!mask || mask & 1) { /* absent, or I/O ports: the legacy interface is not used */
      R32(CFG(dev, bar)) = 0;
      continue;
    }
    u64 size = (u32)~(mask & ~15u) + 1ul;
    window = (window + size - 1) & ~(size - 1);
    R32(CFG(dev, bar)) = (u32)window;
    window += size;
    if ((mask & 6) == 4) R32(CFG(dev, bar += 4)) = 0;
  }
}

static u64 bar_address(u32 dev, u32 bar) {
  u64 low = R32(CFG(dev, 0x10 + 4 * bar)), high = 0;
  if ((low & 6) == 4) high = R32(CFG(dev, 0x14 + 4 * bar));
  return high << 32 | (low & ~15ul);
}

int pci_find_virtio(u32 type, struct pci_function *f) {
  static const u16 transitional[] = {0, 0x1000, 0x1001, 0x1003, 0x1005}; /* net, blk, console, rng */
  for (u32 dev = 0; dev < 32; dev++) {
    u32 id = R32(CFG(dev, 0));
    if ((id & 0xffff) != 0x1af4) continue;
    if (id >> 16 != 0x1040 + type && !(type < 5 && id >> 16 == transitional[type])) continue;
    place_bars(dev);
    *f = (struct pci_function){.bdf = dev << 3, .config = CFG(dev, 0)};
    for (u32 at = R8(CFG(dev, 0x34)) & ~3u; at; at = R8(CFG(dev, at + 1)) & ~3u) {
      if (R8(CFG(dev, at)) != 9) continue;
      u32 kind = R8(CFG(dev, at + 3)), bar = R8(CFG(dev, at + 4));
      if (kind < 1 || kind > 4 || bar > 5) continue;
      u64 address = bar_address(dev, bar) + R32(CFG(dev, at + 8));
      if (kind == 1) f->common = address;
      if (kind == 2) f->notify = address, f->notify_multiplier = R32(CFG(dev, at + 16));
      if (kind == 3) f->isr = address;
      if (kind == 4) f->device = address;
    }
    if (!f->common || !f->notify || !f->isr) continue;
    f->irq = 32 + (dev + R8(CFG(dev, 0x3d)) - 1) % 4;
    R16(CFG(dev, 4)) = 6; /* memory space, bus master; INTx stays on */
    return 1;
  }
  return 0;
}
