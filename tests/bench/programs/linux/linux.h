/* Raw system calls of Linux for riscv64: the programs have no C library. Spec: Linux, include/uapi/asm-generic/unistd.h. */
#pragma once
#include "../bench.h"

enum {
  SYS_dup3 = 24,
  SYS_ioctl = 29,
  SYS_openat = 56,
  SYS_close = 57,
  SYS_pipe2 = 59,
  SYS_read = 63,
  SYS_write = 64,
  SYS_exit = 93,
  SYS_clock_gettime = 113,
  SYS_getppid = 173,
  SYS_munmap = 215,
  SYS_clone = 220,
  SYS_execve = 221,
  SYS_mmap = 222,
  SYS_wait4 = 260,
};
enum { SIGCHLD = 17, CLOCK_MONOTONIC = 1, TCSBRK = 0x5409, AT_FDCWD = -100 };

static inline long call(long number, long a, long b, long c, long d, long e, long f) {
  register long a7 __asm__("a7") = number, a0 __asm__("a0") = a, a1 __asm__("a1") = b, a2 __asm__("a2") = c;
  register long a3 __asm__("a3") = d, a4 __asm__("a4") = e, a5 __asm__("a5") = f;
  __asm__ volatile("ecall" : "+r"(a0) : "r"(a7), "r"(a1), "r"(a2), "r"(a3), "r"(a4), "r"(a5) : "memory");
  return a0;
}
#define CALL_6(number, a, b, c, d, e, f, ...) call(SYS_##number, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))
/* sys(write, 1, text, length): missing arguments are 0. */
#define sys(...) CALL_6(__VA_ARGS__, 0, 0, 0, 0, 0, 0)

static inline long fork(void) { return sys(clone, SIGCHLD); }

/* Prints why, and ends the process. */
void fail(const char *why) __attribute__((noreturn));

program syscalls, faults, forks, switches, fill_memory;
