/* 16550A console: polled output, input by interrupt. Spec: TI PC16550D, section 8. */
#include "guest.h"

#define RBR 0
#define THR 0
#define IER 1
#define FCR 2
#define IIR 2
#define LSR 5
#define UART_IRQ 10

u64 error_count;
const char *first_error;
static volatile u8 ring[256];
static volatile u32 ring_in;
static u32 ring_out;
static u64 unheard_since;

static void receive(void) {
  (void)R8(UART + IIR);
  while (R8(UART + LSR) & 1) {
    u8 c = R8(UART + RBR);
    ring[ring_in % sizeof ring] = c;
    ring_in++;
  }
}

void uart_start(void) {
  R8(UART + FCR) = 0x07; /* both FIFOs on and empty, trigger at one byte */
  R8(UART + IER) = 0x01;
  irq_enable(UART_IRQ, receive);
}

/* Input that waits for a second without its interrupt: the line between UART, PLIC and hart was lost. */
void uart_poll(void) {
  if (!(R8(UART + LSR) & 1)) {
    unheard_since = 0;
  } else if (!unheard_since) {
    unheard_since = now();
  } else if (now() - unheard_since > TICKS_PER_SECOND) {
    unheard_since = 0;
    error("uart-irq-lost", R8(UART + IER), R8(UART + IIR), R32(PLIC + 0x1000));
    u64 saved = interrupts_off();
    receive();
    interrupts_restore(saved);
  }
}

int uart_take(void) { return ring_out == ring_in ? -1 : ring[ring_out++ % sizeof ring]; }

void put_char(char c) {
  if (c == '\n') put_char('\r');
  while (!(R8(UART + LSR) & 0x20)) {
  }
  R8(UART + THR) = (u8)c;
}

void put(const char *s) {
  while (*s) put_char(*s++);
}

void put_dec(u64 v) {
  char digits[20];
  int n = 0;
  do digits[n++] = (char)('0' + v % 10);
  while (v /= 10);
  while (n) put_char(digits[--n]);
}

void put_hex(u64 v, int digits) {
  while (digits--) put_char("0123456789abcdef"[v >> (4 * digits) & 15]);
}

void error(const char *what, u64 a, u64 b, u64 c) {
  error_count++;
  if (!first_error) first_error = what;
  if (error_count > 40) return;
  put("ERR ");
  put_dec(error_count);
  put(" ");
  put(what);
  put(" 0x");
  put_hex(a, 16);
  put(" 0x");
  put_hex(b, 16);
  put(" 0x");
  put_hex(c, 16);
  put("\n");
}
