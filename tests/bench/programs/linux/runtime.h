/* How a program of the Linux guest talks to the benchmark on the host. */
#pragma once
#include "linux.h"

void put_char(char c);
void flush(void);

/* A decimal number, or the process ends. */
uint32_t number(const char *text);

uint64_t nanoseconds(void);

/*
 * Prints `begin NAME N`, and returns the time once that has left the serial port: what the host measures from then on and
 * what the guest's clock says must be the same.
 */
uint64_t begin(const char *name, uint32_t n);

/* Prints `end NAME N CHECKSUM NANOSECONDS`. */
void report(const char *name, uint32_t n, uint32_t checksum, uint64_t took);
