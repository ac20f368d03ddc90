/* Our port of CoreMark to the programs' runtime: no C library, data in static memory, times and results as `bench` prints them. */
#pragma once
#include <stdint.h>
typedef uint8_t ee_u8;
typedef uint16_t ee_u16;
typedef uint32_t ee_u32;
typedef int16_t ee_s16;
typedef int32_t ee_s32;
typedef uintptr_t ee_ptr_int;
typedef __SIZE_TYPE__ ee_size_t;
typedef float ee_f32;
typedef double ee_f64;
#ifndef NULL
#define NULL ((void *)0)
#endif
#define align_mem(x) (void *)(4 + (((ee_ptr_int)(x) - 1) & ~3))

typedef uint64_t CORE_TICKS;
typedef struct {
  uint8_t portable_id;
} core_portable;
extern ee_u32 default_num_contexts;

#define HAS_FLOAT 0
#define HAS_TIME_H 0
#define USE_CLOCK 0
#define HAS_STDIO 0
#define HAS_PRINTF 0
#define SEED_METHOD SEED_ARG
#define MEM_METHOD MEM_STATIC
#define MEM_LOCATION "STATIC"
#define MULTITHREAD 1
#define MAIN_HAS_NOARGC 0
#define MAIN_HAS_NORETURN 0
#define COMPILER_VERSION ""
#define COMPILER_FLAGS ""
#define PERFORMANCE_RUN 1

int ee_printf(const char *format, ...);
void portable_init(core_portable *port, int *count, char *arguments[]);
void portable_fini(core_portable *port);
