/* Accesses to a device register that does nothing: the scratch register of the UART. */
#include "bench.h"

/* n reads, one after the other. */
uint32_t mmio_burst(uint32_t n) {
  uint32_t sum = 0;
  UART[SCR] = 3;
  for (uint32_t k = 0; k < n; k++) sum += UART[SCR];
  return sum;
}

/* n reads with a millisecond of other work before each. The result is the ticks that the reads took, not a checksum. */
uint32_t mmio_cold(uint32_t n) {
  uint64_t sum = 0;
  for (uint32_t k = 0; k < n; k++) {
    uint64_t until = now() + 10000;
    while (now() < until) {}
    uint64_t began = now();
    (void)UART[SCR];
    sum += now() - began;
  }
  return sum;
}
