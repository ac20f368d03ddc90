/*
 * A mix of the kind that CoreMark is: a linked list, a matrix, a state machine, and checksums over what they find. One round
 * is about 3.5 million instructions: 35 % list, 29 % matrix, 23 % state machine, 13 % CRC.
 */
#include "bench.h"

uint32_t mix(uint32_t n) {
  uint32_t sum = 0;
  for (uint32_t k = 0; k < n; k++) {
    sum = sum * 31 + list(20 + (k & 1));
    sum = sum * 31 + matrix(1);
    sum = sum * 31 + state(25);
    sum = sum * 31 + crc(1200);
  }
  return sum;
}
