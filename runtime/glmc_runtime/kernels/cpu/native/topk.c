/* The largest of some scores, chosen as torch.topk chooses them: it has no order of its own where
   scores are equal but that of the algorithms of the C++ library that it is built with, and the
   same experts in the same order is what a router must have. So these are those algorithms: a
   sorted heap where few are chosen of many, quickselect elsewhere. Not a number is the largest. */

#include <stdint.h>

#include "numbers.h"

typedef struct {
    float score;
    int64_t at;
} Scored;

INLINE int before(Scored one, Scored other) {
    return (one.score != one.score && other.score == other.score) || one.score > other.score;
}

INLINE void swap(Scored *one, Scored *other) {
    const Scored kept = *one;
    *one = *other;
    *other = kept;
}

/* ``value`` into a heap of ``count`` whose place ``hole`` is free. */
static void sift(Scored *heap, long hole, long count, Scored value) {
    const long top = hole;
    long child = hole;
    while (child < (count - 1) / 2) {
        child = 2 * (child + 1);
        if (before(heap[child], heap[child - 1])) child--;
        heap[hole] = heap[child];
        hole = child;
    }
    if (count % 2 == 0 && child == (count - 2) / 2) {
        child = 2 * (child + 1);
        heap[hole] = heap[child - 1];
        hole = child - 1;
    }
    for (long parent = (hole - 1) / 2; hole > top && before(heap[parent], value); parent = (hole - 1) / 2) {
        heap[hole] = heap[parent];
        hole = parent;
    }
    heap[hole] = value;
}

/* The first ``middle`` become a heap of the largest, whose smallest is on top. */
static void select_by_heap(Scored *of, long middle, long count) {
    for (long parent = (middle - 2) / 2; middle >= 2 && parent >= 0; parent--)
        sift(of, parent, middle, of[parent]);
    for (long at = middle; at < count; at++)
        if (before(of[at], of[0])) {
            const Scored value = of[at];
            of[at] = of[0];
            sift(of, 0, middle, value);
        }
}

static void sort_heap(Scored *heap, long count) {
    while (count > 1) {
        const Scored value = heap[--count];
        heap[count] = heap[0];
        sift(heap, 0, count, value);
    }
}

/* The middle one of three goes to ``to``. */
static void median_to(Scored *to, Scored *a, Scored *b, Scored *c) {
    if (before(*a, *b))
        swap(to, before(*b, *c) ? b : before(*a, *c) ? c : a);
    else
        swap(to, before(*a, *c) ? a : before(*b, *c) ? c : b);
}

static Scored *partition(Scored *first, Scored *last) {
    median_to(first, first + 1, first + (last - first) / 2, last - 1);
    const Scored pivot = *first;
    for (first++;; first++) {
        while (before(*first, pivot)) first++;
        last--;
        while (before(pivot, *last)) last--;
        if (first >= last) return first;
        swap(first, last);
    }
}

static void sort_by_insertion(Scored *first, Scored *last) {
    for (Scored *at = first + 1; at < last; at++) {
        const Scored value = *at;
        Scored *hole = at;
        if (before(value, *first))
            for (; hole > first; hole--) *hole = hole[-1];
        else
            for (; before(value, hole[-1]); hole--) *hole = hole[-1];
        *hole = value;
    }
}

/* Nothing before ``nth`` comes after anything behind it in the order. */
static void select_nth(Scored *first, Scored *nth, Scored *last) {
    int depth = 0;
    for (long count = last - first; count > 1; count /= 2) depth += 2;
    while (last - first > 3) {
        if (depth-- == 0) {
            select_by_heap(first, nth - first + 1, last - first);
            swap(first, nth);
            return;
        }
        Scored *cut = partition(first, last);
        if (cut <= nth) first = cut;
        else last = cut;
    }
    if (first < last) sort_by_insertion(first, last);
}

/* ``of`` [count], numbered in its order: the ``most`` largest come to its begin. */
static void choose(Scored *of, long count, long most) {
    if (most * 64 <= count) {
        select_by_heap(of, most, count);
        sort_heap(of, most);
    } else {
        select_nth(of, of + most - 1, of + count);
    }
}
