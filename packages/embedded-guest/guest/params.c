#include "guest.h"

__attribute__((section(".params"), used)) volatile struct params params = {
  .magic = 0x3150475952524546ul, /* "FERRYGP1" */
  .size_bytes = sizeof(struct params),
  .ram_bytes = 0,
  .dirty_bytes = 16ul << 20,
  .dirty_per_second = 8ul << 20,
  .dirty_words = 512,
  .disk_bytes = 4ul << 20,
  .disk_per_second = 500,
  .disk_depth = 8,
  .remap_every = 16,
  .lines_per_second = 10,
  .lcg_per_second = 1000000,
  .flags = 0,
  .seed = 0,
};
