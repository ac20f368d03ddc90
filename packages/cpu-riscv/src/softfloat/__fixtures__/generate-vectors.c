/*
 * Makes x86-vectors.bin: what an x86-64 processor (which, like RISC-V, detects tininess after rounding) answers.
 *
 *   gcc -O1 -mfma -mavx512f -o generate generate-vectors.c && ./generate 4200 1 > x86-vectors.bin
 *
 * Record, 36 bytes little-endian: u8 op, u8 rm, u8 flags (RISC-V's bits), u8 0, u64 a, b, c, result.
 * NaN results are written as RISC-V's canonical NaN. An integer conversion that raised NV has result 0: there the
 * architectures differ, only the flags count.
 */
#include <immintrin.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t seed;
static uint64_t random64(void) {
  seed += 0x9e3779b97f4a7c15u;
  uint64_t z = seed;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/* A bit pattern of the format that is likely to be near something interesting. */
static uint64_t operand(int fraction, int exponent_bits) {
  uint64_t r = random64();
  uint64_t max = (1u << exponent_bits) - 1, bias = max >> 1;
  uint64_t fmask = (1ull << fraction) - 1, frac, exp;
  switch (r % 9) {
    case 0: exp = 0; break;
    case 1: exp = 1 + (r >> 8) % 3; break;
    case 2: exp = max - 1 - (r >> 8) % 3; break;
    case 3: exp = (r >> 8) % 8 == 0 ? max : bias; break;
    case 4: case 5: exp = bias - 4 + (r >> 8) % 9; break;
    case 6: exp = bias - fraction - 3 + (r >> 8) % (2 * fraction + 12); break;
    case 7: exp = bias / 2 - 8 + (r >> 8) % 16 + ((r >> 16) & 1) * bias; break;
    default: exp = (r >> 8) & max; break;
  }
  uint64_t s = random64();
  switch (s % 8) {
    case 0: frac = 0; break;
    case 1: frac = fmask; break;
    case 2: frac = 1ull << ((s >> 8) % fraction); break;
    case 3: frac = fmask ^ (1ull << ((s >> 8) % fraction)); break;
    case 4: frac = (s >> 8) & (fmask << ((s >> 4) % fraction)); break;
    case 5: frac = ((1ull << ((s >> 8) % fraction)) - 1); break;
    default: frac = random64(); break;
  }
  return (random64() & 1) << (fraction + exponent_bits) | exp << fraction | (frac & fmask);
}
static uint64_t op32(void) { return operand(23, 8); }
static uint64_t op64(void) { return operand(52, 11); }
static uint64_t integer(void) {
  uint64_t r = random64() >> (random64() % 64);
  if (random64() & 1) r = ~r;
  return r;
}

static __m128d d(uint64_t a) { return _mm_castsi128_pd(_mm_cvtsi64_si128((long long)a)); }
static uint64_t fromd(__m128d a) {
  uint64_t r = (uint64_t)_mm_cvtsi128_si64(_mm_castpd_si128(a));
  return (r & ~(1ull << 63)) > 0x7ffull << 52 ? 0x7ff8ull << 48 : r;
}
static __m128 s(uint64_t a) { return _mm_castsi128_ps(_mm_cvtsi64_si128((long long)a)); }
static uint64_t froms(__m128 a) {
  uint64_t r = (uint32_t)_mm_cvtsi128_si32(_mm_castps_si128(a));
  return (r & 0x7fffffff) > 0x7f800000 ? 0x7fc00000 : r;
}

enum { ADD_S, SUB_S, MUL_S, DIV_S, SQRT_S, FMA_S, RINT_S, EQ_S, LT_S, W_S, L_S, WU_S, LU_S, S_W, S_L, S_LU, S_D,
       ADD_D = 32, SUB_D, MUL_D, DIV_D, SQRT_D, FMA_D, RINT_D, EQ_D, LT_D, W_D, L_D, WU_D, LU_D, D_W, D_L, D_LU, D_S };
static const int ops[] = { ADD_S, SUB_S, MUL_S, DIV_S, SQRT_S, FMA_S, RINT_S, EQ_S, LT_S, W_S, L_S, WU_S, LU_S, S_W, S_L, S_LU, S_D,
       ADD_D, SUB_D, MUL_D, DIV_D, SQRT_D, FMA_D, RINT_D, EQ_D, LT_D, W_D, L_D, WU_D, LU_D, D_W, D_L, D_LU, D_S };

static int special(uint64_t a, int wide) { /* 1 zero, 2 infinite, 3 NaN, 0 other */
  uint64_t m = wide ? a & ~(1ull << 63) : a & 0x7fffffff, inf = wide ? 0x7ffull << 52 : 0x7f800000;
  return m == 0 ? 1 : m == inf ? 2 : m > inf ? 3 : 0;
}

static __attribute__((noinline)) uint64_t run(int op, uint64_t a, uint64_t b, uint64_t c) {
  const int cur = _MM_FROUND_CUR_DIRECTION;
  switch (op) {
    case ADD_S: return froms(_mm_add_ss(s(a), s(b)));
    case SUB_S: return froms(_mm_sub_ss(s(a), s(b)));
    case MUL_S: return froms(_mm_mul_ss(s(a), s(b)));
    case DIV_S: return froms(_mm_div_ss(s(a), s(b)));
    case SQRT_S: return froms(_mm_sqrt_ss(s(a)));
    case FMA_S: return froms(_mm_fmadd_ss(s(a), s(b), s(c)));
    case RINT_S: return froms(_mm_round_ss(s(0), s(a), cur));
    case EQ_S: return (uint64_t)_mm_ucomieq_ss(s(a), s(b)) & ~(uint64_t)(special(a, 0) == 3 || special(b, 0) == 3);
    case LT_S: return (uint64_t)_mm_comigt_ss(s(b), s(a));
    case W_S: return (uint64_t)(int64_t)_mm_cvtss_si32(s(a));
    case L_S: return (uint64_t)_mm_cvtss_si64(s(a));
    case WU_S: return (uint64_t)(int64_t)(int32_t)_mm_cvtss_u32(s(a));
    case LU_S: return _mm_cvtss_u64(s(a));
    case S_W: return froms(_mm_cvtsi32_ss(s(0), (int32_t)a));
    case S_L: return froms(_mm_cvtsi64_ss(s(0), (long long)a));
    case S_LU: return froms(_mm_cvtu64_ss(s(0), a));
    case S_D: return froms(_mm_cvtsd_ss(s(0), d(a)));
    case ADD_D: return fromd(_mm_add_sd(d(a), d(b)));
    case SUB_D: return fromd(_mm_sub_sd(d(a), d(b)));
    case MUL_D: return fromd(_mm_mul_sd(d(a), d(b)));
    case DIV_D: return fromd(_mm_div_sd(d(a), d(b)));
    case SQRT_D: return fromd(_mm_sqrt_sd(d(0), d(a)));
    case FMA_D: return fromd(_mm_fmadd_sd(d(a), d(b), d(c)));
    case RINT_D: return fromd(_mm_round_sd(d(0), d(a), cur));
    case EQ_D: return (uint64_t)_mm_ucomieq_sd(d(a), d(b)) & ~(uint64_t)(special(a, 1) == 3 || special(b, 1) == 3);
    case LT_D: return (uint64_t)_mm_comigt_sd(d(b), d(a));
    case W_D: return (uint64_t)(int64_t)_mm_cvtsd_si32(d(a));
    case L_D: return (uint64_t)_mm_cvtsd_si64(d(a));
    case WU_D: return (uint64_t)(int64_t)(int32_t)_mm_cvtsd_u32(d(a));
    case LU_D: return _mm_cvtsd_u64(d(a));
    case D_W: return fromd(_mm_cvtsi32_sd(d(0), (int32_t)a));
    case D_L: return fromd(_mm_cvtsi64_sd(d(0), (long long)a));
    case D_LU: return fromd(_mm_cvtu64_sd(d(0), a));
    default: return fromd(_mm_cvtss_sd(d(0), s(a)));
  }
}

int main(int argc, char **argv) {
  long count = argc > 1 ? atol(argv[1]) : 4200;
  seed = argc > 2 ? strtoull(argv[2], 0, 0) : 1;
  static const unsigned modes[] = { 0 << 13, 3 << 13, 1 << 13, 2 << 13 }; /* RNE RTZ RDN RUP */
  for (long i = 0; i < count; i++) {
    int op = ops[i % (sizeof ops / sizeof *ops)], wide = op >= 32;
    int rm = (int)(random64() & 3);
    uint64_t a = wide ? op64() : op32(), b = wide ? op64() : op32(), c = wide ? op64() : op32();
    int base = op & 31;
    if (base >= S_W && base <= S_LU) a = base == S_W ? (uint64_t)(int64_t)(int32_t)integer() : integer();
    if (base == (S_D & 31)) a = wide ? op32() : op64();
    if (op == S_D && (random64() & 3)) { /* a double whose value is near the single format */
      __m128d x = _mm_cvtss_sd(d(0), s(op32()));
      a = fromd(x) + (random64() & 1 ? random64() % 5 - 2 : (random64() & 0x3fffffff));
    }
    if (base == FMA_S && (random64() & 1)) { /* c near -a*b: cancellation and halfway cases */
      _mm_setcsr(0x1f80);
      uint64_t p = run(wide ? MUL_D : MUL_S, a, b, 0);
      c = (p ^ 1ull << (wide ? 63 : 31)) + random64() % 3 - 1;
      if (!wide) c &= 0xffffffff;
    }
    if (base == FMA_S) {
      int x = special(a, wide), y = special(b, wide);
      if (((x == 1 && y == 2) || (x == 2 && y == 1)) && special(c, wide) == 3) c = 0; /* RISC-V raises NV, x86 does not */
    } else if (base > DIV_S && base != EQ_S && base != LT_S) b = 0;
    if (base != FMA_S) c = 0;
    if ((base <= SUB_S || base == EQ_S || base == LT_S) && random64() % 6 == 0) b = a ^ (random64() & 1) << (wide ? 63 : 31);
    _mm_setcsr(0x1f80 | modes[rm]);
    uint64_t r = run(op, a, b, c);
    unsigned x = _mm_getcsr();
    _mm_setcsr(0x1f80);
    uint8_t flags = (uint8_t)((x >> 5 & 1) | (x >> 4 & 1) << 1 | (x >> 3 & 1) << 2 | (x >> 2 & 1) << 3 | (x & 1) << 4);
    if (base >= W_S && base <= LU_S && (flags & 16)) r = 0;
    uint8_t record[36] = { (uint8_t)op, (uint8_t)rm, flags, 0 };
    memcpy(record + 4, &a, 8); memcpy(record + 12, &b, 8); memcpy(record + 20, &c, 8); memcpy(record + 28, &r, 8);
    fwrite(record, 36, 1, stdout);
  }
  return 0;
}
