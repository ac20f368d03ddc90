/* Programs whose time goes into the kernel and into the hardware's paths to and from it. */
#include "linux.h"

/* n system calls that do nothing: trap, entry, exit, return. */
uint32_t syscalls(uint32_t n) {
  uint32_t same = 0;
  long parent = sys(getppid);
  for (uint32_t k = 0; k < n; k++) same += sys(getppid) == parent;
  return same;
}

/* n times: map 1 MiB, touch its 256 pages, each a page fault that the kernel answers with a cleared page, and unmap it. */
uint32_t faults(uint32_t n) {
  enum { SIZE = 1 << 20, READ_WRITE = 3, PRIVATE_ANONYMOUS = 0x22 };
  uint32_t sum = 0;
  for (uint32_t k = 0; k < n; k++) {
    uint8_t *at = (uint8_t *)sys(mmap, 0, SIZE, READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
    if ((long)at < 0 && (long)at > -4096) fail("mmap");
    for (uint32_t offset = 0; offset < SIZE; offset += 4096) {
      sum = sum * 31 + at[offset] + offset;
      *(volatile uint8_t *)(at + offset) = k;
    }
    sys(munmap, at, SIZE);
  }
  return sum;
}

/* n processes, each forked, ended and waited for. */
uint32_t forks(uint32_t n) {
  uint32_t sum = 0;
  for (uint32_t k = 0; k < n; k++) {
    long child = fork();
    if (child < 0) fail("fork");
    if (child == 0) sys(exit, k & 127);
    int status = 0;
    if (sys(wait4, child, &status) != child) fail("wait4");
    sum = sum * 31 + (status >> 8);
  }
  return sum;
}

/* A byte goes to another process and back, n times: two context switches each. */
uint32_t switches(uint32_t n) {
  int there[2], back[2];
  if (sys(pipe2, there) < 0 || sys(pipe2, back) < 0) fail("pipe2");
  long child = fork();
  if (child < 0) fail("fork");
  uint8_t byte = 0;
  if (child == 0) {
    sys(close, there[1]);
    while (sys(read, there[0], &byte, 1) == 1) {
      byte = byte * 5 + 1;
      sys(write, back[1], &byte, 1);
    }
    sys(exit, 0);
  }
  uint32_t sum = 0;
  for (uint32_t k = 0; k < n; k++) {
    sys(write, there[1], &byte, 1);
    if (sys(read, back[0], &byte, 1) != 1) fail("read");
    sum = sum * 31 + byte;
  }
  sys(close, there[1]);
  sys(wait4, child);
  sys(close, there[0]);
  sys(close, back[0]);
  sys(close, back[1]);
  return sum;
}

/* Writes to every page of n MiB, so that the guest has touched that much of its RAM. */
uint32_t fill_memory(uint32_t n) {
  uint8_t *at = (uint8_t *)sys(mmap, 0, (uint64_t)n << 20, 3, 0x22, -1, 0);
  if ((long)at < 0 && (long)at > -4096) fail("mmap");
  for (uint64_t offset = 0; offset < (uint64_t)n << 20; offset += 4096) *(volatile uint64_t *)(at + offset) = offset + 1;
  sys(munmap, at, (uint64_t)n << 20);
  return n;
}
