/* The peer of our WebAssembly kernels in `pnpm bench ram/kernels`: the same work in C with SSE2, compiled with -O2. */
#include <emmintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef unsigned char u8;
enum { PAGE = 4096, SLACK = 64 };

#define LOAD(p) _mm_loadu_si128((const __m128i *)(p))
#define EQUAL_MASK(a, b) ((unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(LOAD(a), LOAD(b))))

static int __attribute__((noinline)) is_zero(const u8 *p) {
  const __m128i zero = _mm_setzero_si128();
  for (int k = 0; k < PAGE; k += 128) {
    __m128i any = LOAD(p + k);
    for (int j = 16; j < 128; j += 16) any = _mm_or_si128(any, LOAD(p + k + j));
    if (_mm_movemask_epi8(_mm_cmpeq_epi8(any, zero)) != 0xffff) return 0;
  }
  return 1;
}

static int put(u8 *out, int at, int run) {
  if (run < 128) {
    out[at] = run;
    return at + 1;
  }
  out[at] = (run & 127) | 128;
  out[at + 1] = run >> 7;
  return at + 2;
}

static int __attribute__((noinline)) encode(const u8 *before, const u8 *after, u8 *out) {
  int at = 0, written = 0;
  for (;;) {
    int begin = at;
    while (at < PAGE) {
      unsigned mask = EQUAL_MASK(before + at, after + at) ^ 0xffff;
      if (mask) {
        at += __builtin_ctz(mask);
        break;
      }
      at += 16;
      for (; at <= PAGE - 64; at += 64) {
        __m128i any = _mm_xor_si128(LOAD(before + at), LOAD(after + at));
        for (int j = 16; j < 64; j += 16) any = _mm_or_si128(any, _mm_xor_si128(LOAD(before + at + j), LOAD(after + at + j)));
        if (_mm_movemask_epi8(_mm_cmpeq_epi8(any, _mm_setzero_si128())) != 0xffff) break;
      }
    }
    if (at >= PAGE) return written;
    if (written + 2 > PAGE) return -1;
    written = put(out, written, at - begin);
    begin = at;
    while (at < PAGE) {
      unsigned mask = EQUAL_MASK(before + at, after + at);
      if (mask) {
        at += __builtin_ctz(mask);
        break;
      }
      at += 16;
    }
    if (at > PAGE) at = PAGE;
    if (written + 2 > PAGE) return -1;
    written = put(out, written, at - begin);
    if (written + at - begin > PAGE) return -1;
    memcpy(out + written, after + begin, at - begin);
    written += at - begin;
  }
}

static int __attribute__((noinline)) decode(const u8 *in, int length, u8 *page) {
  int at = 0;
  for (int read = 0; read < length;) {
    for (int half = 0; half < 2; half++) {
      if (read + 2 > length) return -1;
      int n = in[read++];
      if (n & 128) n = (n & 127) | in[read++] << 7;
      if (half == 0) at += n;
      if (at + (half ? n : 0) > PAGE || (half && (n == 0 || read + n > length))) return -1;
      if (half == 0) continue;
      memcpy(page + at, in + read, n);
      at += n;
      read += n;
    }
  }
  return 0;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

/* Same contents as in kernels.bench.ts. Prints GB/s: zero pages, encode, copy and encode, decode. */
int main(int argc, char **argv) {
  (void)argc;
  int pages = atoi(argv[1]), step = atoi(argv[2]);
  size_t bytes = (size_t)pages * PAGE;
  u8 *before = aligned_alloc(65536, bytes + 65536), *after = aligned_alloc(65536, bytes + 65536);
  u8 *copy = aligned_alloc(65536, 65536), *out = malloc(PAGE + SLACK);
  volatile int sink = 0;
  memset(before, 0, bytes);
  double best[4] = {1e9, 1e9, 1e9, 1e9};
#define TIME(i, work) { double t = now(); work; t = now() - t; if (t < best[i]) best[i] = t; }
  for (int round = 0; round < 10; round++) TIME(0, for (int p = 0; p < pages; p++) sink += is_zero(before + (size_t)p * PAGE))
  for (size_t i = 0; i < bytes; i++) before[i] = i * 7 >> 3;
  memcpy(after, before, bytes);
  for (size_t i = 100; i + 8 < bytes; i += step) for (int k = 0; k < 8; k++) after[i + k] ^= 0x55;
  for (int round = 0; round < 10; round++) {
    TIME(1, for (int p = 0; p < pages; p++) sink += encode(before + (size_t)p * PAGE, after + (size_t)p * PAGE, out))
    TIME(2, for (int p = 0; p < pages; p++) {
      memcpy(copy, after + (size_t)p * PAGE, PAGE);
      sink += encode(before + (size_t)p * PAGE, copy, out);
    })
    int length = encode(before, after, out);
    TIME(3, for (int p = 0; p < pages; p++) sink += decode(out, length, before + (size_t)p * PAGE))
    memcpy(before, after, bytes);
    for (size_t i = 100; i + 8 < bytes; i += step) for (int k = 0; k < 8; k++) before[i + k] ^= 0x55;
  }
  for (int i = 0; i < 4; i++) printf("%.2f\n", bytes / best[i] / 1e6);
  return sink == 42;
}
