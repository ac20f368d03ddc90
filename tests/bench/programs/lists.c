/* A linked list: find, reverse, merge sort through function pointers. */
#include "bench.h"

typedef struct node {
  struct node *next;
  struct data {
    int16_t value, index;
  } *info;
} node;
enum { LENGTH = 300 };
static node nodes[LENGTH];
static struct data data[LENGTH];

static NOINLINE int by_value(struct data *a, struct data *b) { return a->value - b->value; }
static NOINLINE int by_index(struct data *a, struct data *b) { return a->index - b->index; }

static NOINLINE node *find(node *at, int value) {
  while (at && at->info->value != value) at = at->next;
  return at;
}

static NOINLINE node *reverse(node *from) {
  node *done = 0;
  while (from) {
    node *next = from->next;
    from->next = done;
    done = from;
    from = next;
  }
  return done;
}

static NOINLINE node *merge_sort(node *head, int (*compare)(struct data *, struct data *)) {
  for (int size = 1;; size *= 2) {
    node *p = head, *tail = 0;
    int merges = 0;
    head = 0;
    while (p) {
      node *q = p;
      int left = 0, right = size;
      merges++;
      for (int i = 0; i < size && q; i++) left++, q = q->next;
      while (left > 0 || (right > 0 && q)) {
        node *least;
        if (left == 0 || (right > 0 && q && compare(p->info, q->info) > 0)) {
          least = q;
          q = q->next;
          right--;
        } else {
          least = p;
          p = p->next;
          left--;
        }
        if (tail) tail->next = least;
        else head = least;
        tail = least;
      }
      p = q;
    }
    tail->next = 0;
    if (merges <= 1) return head;
  }
}

uint32_t list(uint32_t n) {
  uint32_t sum = 0;
  for (int i = 0; i < LENGTH; i++) {
    nodes[i].next = i + 1 < LENGTH ? &nodes[i + 1] : 0;
    nodes[i].info = &data[i];
    data[i].value = (i * 7919) & 0x7fff;
    data[i].index = i;
  }
  node *head = nodes;
  for (uint32_t k = 0; k < n; k++) {
    for (int j = 0; j < 8; j++) {
      node *found = find(head, data[(k * 13 + j * 37) % LENGTH].value);
      if (found) sum += found->info->index;
    }
    head = merge_sort(reverse(head), k & 1 ? by_value : by_index);
    data[k % LENGTH].value = (data[k % LENGTH].value * 31 + k) & 0x7fff;
    sum = sum * 31 + head->info->value;
  }
  return sum;
}
