/* Strings and branches: records with text as in Dhrystone, a scanner of numbers, a bytecode interpreter. */
#include "bench.h"

typedef struct record {
  struct record *next;
  int kind, choice, number;
  char text[32];
} record;
static record first, second;
static int global, row[50], table[50][50];
static char letter_a, letter_b;

static NOINLINE int compare(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return (uint8_t)*a - (uint8_t)*b;
}
static NOINLINE void copy(char *to, const char *from) {
  while ((*to++ = *from++)) {}
}
static NOINLINE void add_two(int a, int b, int *to) { *to = a + 2 + b; }
static NOINLINE int equal_letters(char a, char b) {
  if (a != b) return 0;
  letter_a = a;
  return 1;
}
static NOINLINE int later_text(const char *a, const char *b) {
  int at = 2;
  char seen = 0;
  while (at <= 2)
    if (!equal_letters(a[at], b[at + 1])) seen = 'A', at++;
  if (seen >= 'W' && seen < 'Z') at = 7;
  if (seen == 'R') return 1;
  if (compare(a, b) <= 0) return 0;
  global = at + 7;
  return 1;
}
static NOINLINE int is_two(int choice) { return choice == 2; }
static NOINLINE void choose(int choice, int *to) {
  *to = is_two(choice) ? choice : 3;
  switch (choice) {
    case 0: *to = 0; break;
    case 1: *to = global > 100 ? 0 : 3; break;
    case 2: *to = 1; break;
    case 4: *to = 2; break;
  }
}
static NOINLINE void fill_arrays(int at, int value) {
  int l = at + 5;
  row[l] = value;
  row[l + 1] = row[l];
  row[l + 30] = l;
  for (int i = l; i <= l + 1; i++) table[l][i] = l;
  table[l][l - 1] += 1;
  table[l + 20][l] = row[l];
  global = 5;
}
static NOINLINE void follow(record **to) {
  if (first.next) *to = first.next;
  add_two(10, global, &first.number);
}
static NOINLINE void change_records(record *p) {
  record *n = p->next;
  *n = first;
  p->number = 5;
  n->number = p->number;
  n->next = p->next;
  follow(&n->next);
  if (n->kind == 0) {
    n->number = 6;
    choose(p->choice, &n->choice);
    n->next = first.next;
    add_two(n->number, 10, &n->number);
  } else *p = *n;
}
static NOINLINE void adjust(int *number) {
  int l = *number + 10;
  for (int tries = 0; tries < 3; tries++) {
    if (letter_a != 'A') continue;
    *number = l - 1 - global;
    return;
  }
}

uint32_t dhry(uint32_t n) {
  uint32_t sum = 0;
  char text1[32], text2[32];
  first.next = &second;
  first.kind = 0;
  first.choice = 2;
  first.number = 40;
  copy(first.text, "A RECORD AND ITS TEXT, THIRTY CH");
  first.text[31] = 0;
  copy(text1, "SOME TEXT TO COMPARE, 1'ST TEXT");
  table[8][7] = 10;
  for (uint32_t k = 0; k < n; k++) {
    int one = 2, two = 3, three = 0, choice = 1;
    letter_a = 'A';
    letter_b = 'B';
    copy(text2, "SOME TEXT TO COMPARE, 2'ND TEXT");
    global = !later_text(text1, text2);
    while (one < two) {
      three = 5 * one - two;
      add_two(one, two, &three);
      one++;
    }
    fill_arrays(one, three);
    change_records(&first);
    for (char c = 'A'; c <= letter_b; c++) {
      if (choice != equal_letters(c, 'C')) continue;
      choose(0, &choice);
      copy(text2, "SOME TEXT TO COMPARE, 3'RD TEXT");
      two = global = k;
    }
    two = two * one;
    one = two / (three | 1);
    two = 7 * (two - three) - one;
    adjust(&one);
    sum = sum * 31 + one + two + three + choice + global;
  }
  return sum + table[8][7];
}

enum { START, INVALID, SCIENTIFIC, INTEGER, FLOAT, SIGN, EXPONENT_SIGN, EXPONENT, STATES };
static int is_digit(uint8_t c) { return c >= '0' && c <= '9'; }
static NOINLINE int scan(uint8_t **input, uint32_t *count) {
  uint8_t *at = *input;
  int s = START;
  for (; *at && s != INVALID; at++) {
    uint8_t c = *at;
    if (c == ',') {
      at++;
      break;
    }
    int from = s;
    switch (s) {
      case START: s = is_digit(c) ? INTEGER : c == '+' || c == '-' ? SIGN : c == '.' ? FLOAT : INVALID; break;
      case SIGN: s = is_digit(c) ? INTEGER : c == '.' ? FLOAT : INVALID; break;
      case INTEGER: s = c == '.' ? FLOAT : is_digit(c) ? INTEGER : INVALID; break;
      case FLOAT: s = c == 'E' || c == 'e' ? EXPONENT_SIGN : is_digit(c) ? FLOAT : INVALID; break;
      case EXPONENT_SIGN: s = c == '+' || c == '-' ? EXPONENT : INVALID; break;
      case EXPONENT: s = is_digit(c) ? SCIENTIFIC : INVALID; break;
      case SCIENTIFIC: s = is_digit(c) ? SCIENTIFIC : INVALID; break;
    }
    if (s != from) count[from]++;
  }
  *input = at;
  return s;
}
static const char *const samples[8] = {"5012,", "1234,", "-874,", "+122,", "35.54400,", ".1234500,", "5.500e+3,", "T0.3e-1F,"};
static uint8_t buffer[4096];
uint32_t state(uint32_t n) {
  uint32_t count[STATES] = {0}, final[STATES] = {0}, sum = 0, x = 1;
  int length = 0;
  while (length < 2000) {
    const char *p = samples[(x >> 7) & 7];
    x = x * 1103515245u + 12345;
    while (*p) buffer[length++] = *p++;
  }
  buffer[length] = 0;
  for (uint32_t k = 0; k < n; k++) {
    for (uint8_t *p = buffer; *p;) final[scan(&p, count)]++;
    buffer[(k * 7) % length] ^= k & 1;
    for (int i = 0; i < STATES; i++) sum = sum * 31 + count[i] + final[i];
  }
  return sum;
}

enum { PUSH, ADD, SUB, MUL, XOR, DUP, SWAP, JNZ, LOAD, STORE, HALT, SHR };
static uint8_t code[] = {
  PUSH, 100, STORE, 0, PUSH, 7, STORE, 1,
  /* 8 */ LOAD, 1, LOAD, 0, MUL, PUSH, 13, ADD, DUP, PUSH, 3, SHR, XOR, STORE, 1, LOAD, 0, PUSH, 1, SUB, DUP, STORE, 0, JNZ, 8,
  LOAD, 1, HALT,
};
static NOINLINE uint32_t run_code(uint32_t seed) {
  uint32_t stack[32], variable[8] = {0};
  int top = 0;
  const uint8_t *p = code;
  stack[0] = seed;
  for (;;) {
    switch (*p++) {
      case PUSH: stack[top++] = *p++; break;
      case ADD: top--; stack[top - 1] += stack[top]; break;
      case SUB: top--; stack[top - 1] -= stack[top]; break;
      case MUL: top--; stack[top - 1] *= stack[top]; break;
      case XOR: top--; stack[top - 1] ^= stack[top]; break;
      case DUP: stack[top] = stack[top - 1]; top++; break;
      case SWAP: {
        uint32_t t = stack[top - 1];
        stack[top - 1] = stack[top - 2];
        stack[top - 2] = t;
        break;
      }
      case JNZ: p = stack[--top] ? code + *p : p + 1; break;
      case LOAD: stack[top++] = variable[*p++]; break;
      case STORE: variable[*p++] = stack[--top] + (seed & 1); break;
      case SHR: top--; stack[top - 1] >>= stack[top] & 31; break;
      case HALT: return stack[top - 1];
    }
  }
}
uint32_t interp(uint32_t n) {
  uint32_t sum = 0;
  for (uint32_t k = 0; k < n; k++) sum = sum * 31 + run_code(k << 1);
  return sum;
}
