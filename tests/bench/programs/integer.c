/* Loops over small data: checksums, sorting, primes, matrices, calls. */
#include "bench.h"

/* CRC-16 bit by bit, through small functions. */
static NOINLINE uint16_t crc_byte(uint8_t data, uint16_t crc) {
  for (int i = 0; i < 8; i++) {
    int carry = (data ^ crc) & 1;
    data >>= 1;
    if (carry) crc ^= 0x4002;
    crc >>= 1;
    if (carry) crc |= 0x8000;
    else crc &= 0x7fff;
  }
  return crc;
}
static NOINLINE uint16_t crc_half(uint16_t value, uint16_t crc) {
  return crc_byte(value >> 8, crc_byte((uint8_t)value, crc));
}
static NOINLINE uint16_t crc_word(uint32_t value, uint16_t crc) {
  return crc_half(value >> 16, crc_half((uint16_t)value, crc));
}
uint32_t crc(uint32_t n) {
  uint16_t sum = 0;
  for (uint32_t i = 0; i < n; i++) sum = crc_word(i * 2654435761u, sum);
  return sum;
}

#define SORTED 20000
static uint32_t numbers[SORTED];
static NOINLINE void sort(uint32_t *left, uint32_t *right) {
  while (right - left > 12) {
    uint32_t pivot = left[(right - left) / 2], *i = left, *j = right;
    do {
      while (*i < pivot) i++;
      while (*j > pivot) j--;
      if (i <= j) {
        uint32_t t = *i;
        *i++ = *j;
        *j-- = t;
      }
    } while (i <= j);
    if (j - left < right - i) {
      if (left < j) sort(left, j);
      left = i;
    } else {
      if (i < right) sort(i, right);
      right = j;
    }
  }
  for (uint32_t *i = left + 1; i <= right; i++) {
    uint32_t value = *i, *j = i;
    for (; j > left && j[-1] > value; j--) *j = j[-1];
    *j = value;
  }
}
uint32_t quicksort(uint32_t n) {
  uint32_t sum = 0, x = 12345;
  for (uint32_t k = 0; k < n; k++) {
    for (int i = 0; i < SORTED; i++) {
      x = x * 1664525u + 1013904223u;
      numbers[i] = x >> 4;
    }
    sort(numbers, numbers + SORTED - 1);
    sum = sum * 31 + numbers[SORTED / 2] + numbers[7];
  }
  return sum;
}

#define LIMIT 100000
static uint8_t prime[LIMIT + 1];
uint32_t sieve(uint32_t n) {
  uint32_t sum = 0;
  for (uint32_t k = 0; k < n; k++) {
    uint32_t count = 0;
    memset(prime, 1, sizeof prime);
    for (uint32_t i = 2; i <= LIMIT; i++) {
      if (!prime[i]) continue;
      count++;
      for (uint32_t j = i * 2; j <= LIMIT; j += i) prime[j] = 0;
    }
    sum = sum * 31 + count + (k & 1);
  }
  return sum;
}

#define SIDE 40
static int16_t left[SIDE * SIDE], right[SIDE * SIDE];
static int32_t product[SIDE * SIDE];
static NOINLINE void multiply(void) {
  for (int i = 0; i < SIDE; i++)
    for (int j = 0; j < SIDE; j++) {
      product[i * SIDE + j] = 0;
      for (int k = 0; k < SIDE; k++) product[i * SIDE + j] += left[i * SIDE + k] * right[k * SIDE + j];
    }
}
static NOINLINE void multiply_bits(void) {
  for (int i = 0; i < SIDE; i++)
    for (int j = 0; j < SIDE; j++) {
      product[i * SIDE + j] = 0;
      for (int k = 0; k < SIDE; k++) {
        int32_t t = left[i * SIDE + k] * right[k * SIDE + j];
        product[i * SIDE + j] += ((t >> 2) & 0xf) * ((t >> 5) & 0x7f);
      }
    }
}
static NOINLINE int16_t summary(int32_t clip) {
  uint32_t total = 0;
  int32_t previous = 0;
  int16_t result = 0;
  for (int i = 0; i < SIDE * SIDE; i++) {
    total += product[i];
    if ((int32_t)total > clip) {
      result += 10;
      total = 0;
    } else result += product[i] > previous;
    previous = product[i];
  }
  return result;
}
uint32_t matrix(uint32_t n) {
  uint32_t sum = 0;
  for (int i = 0; i < SIDE * SIDE; i++) left[i] = i * 31, right[i] = i * 17 + 3;
  for (uint32_t k = 0; k < n; k++) {
    for (int i = 0; i < SIDE * SIDE; i++) left[i] += k;
    multiply();
    sum += summary(100);
    multiply_bits();
    sum = sum * 31 + summary(100);
  }
  return sum;
}

static NOINLINE uint32_t fibonacci(uint32_t n) {
  return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}
uint32_t fib(uint32_t n) {
  uint32_t sum = 0;
  for (uint32_t k = 0; k < n; k++) sum += fibonacci(32);
  return sum;
}
