/* `coremark 0 0 0x66 N` prints what `bench coremark N` would: times around the benchmark, its checksums as one number. */
#include <stdarg.h>
#include "coremark.h"
#include "../linux.h"
#include "../runtime.h"

ee_u32 default_num_contexts = 1;
static uint64_t from, took;
static uint32_t checksum, iterations;

void portable_init(core_portable *port, int *count, char *arguments[]) {
  if (*count != 5) fail("usage: coremark 0 0 0x66 N");
  iterations = number(arguments[4]);
}

void start_time(void) { from = begin("coremark", iterations); }
void stop_time(void) { took = nanoseconds() - from; }
CORE_TICKS get_time(void) { return took; }
/* A run of less than ten seconds counts as an error there; here N decides. */
ee_u32 time_in_secs(CORE_TICKS ticks) { return 10; }

static int has(const char *text, const char *word) {
  for (; *text; text++) {
    const char *a = text, *b = word;
    while (*b && *a == *b) a++, b++;
    if (!*b) return 1;
  }
  return 0;
}

/* Only what it says about its results matters. */
int ee_printf(const char *format, ...) {
  if (has(format, "ERROR!") || has(format, "Errors detected")) fail("CoreMark's own check");
  if (!has(format, "]crc")) return 0;
  va_list values;
  va_start(values, format);
  va_arg(values, int);
  checksum = checksum * 65599 + va_arg(values, unsigned);
  va_end(values);
  return 0;
}

void portable_fini(core_portable *port) {
  report("coremark", iterations, checksum, took);
  sys(exit, 0);
}
