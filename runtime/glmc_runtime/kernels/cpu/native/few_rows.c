/* Products of few rows with weights that are read where they lie, once.

   Each sum is made by one thread, in one order, whatever the number of threads and of rows: the
   same row always gives the same bits. Functions return 0, 1 where there is no memory, or 2 where an
   index is beyond what it counts. */

#include "stretches.h"
#include "vectors.h"

#define BLOCK 12 /* rows of the weight that a thread takes at least */
#define TOGETHER_ROWS 64 /* rows of x for which the weight is read once */

/* Rows of x, spread, and of out, wherever they are. */
typedef struct {
    const void **x;
    void **out;
    long count;
} Rows;

/* WEIGHTS rows of the weight from ``first`` on times ROWS rows of x from ``row`` on. Meanwhile the rows
   behind these are fetched, a share by each tile of these, so that memory is read all the time. */
INLINE void tile(const void *weight, const void *bias, const Rows *rows, long first, long row,
                 long k, const int kind, const int WEIGHTS, const int ROWS) {
    float totals[32];
    uint32_t rounded_to[32]; /* of the kind */
    const long wide = ROWS < 4 ? 4 : ROWS, tiles = (rows->count + wide - 1) / wide;
    const long begun = WEIGHTS * (row / wide) / tiles, ended = WEIGHTS * (row / wide + 1) / tiles;
    const char *ahead = offset(weight, (first + WEIGHTS + begun) * k, kind);
    const void *from = offset(weight, first * k, kind);
    /* A number of lines that is known when this is compiled asks for nothing in the loop. */
    if (tiles == 1) products(from, k, rows->x + row, k, totals, ahead, WEIGHTS, kind, WEIGHTS, ROWS);
    else products(from, k, rows->x + row, k, totals, ahead, (int)(ended - begun), kind, WEIGHTS, ROWS);
    for (int one = 0; bias && one < WEIGHTS; one++)
        for (int at = 0; at < ROWS; at++) totals[one * ROWS + at] += load(bias, first + one, kind);
    for (int at = 0; at < WEIGHTS * ROWS; at += LANES)
        store_lanes(rounded_to, at, *(const floats *)(totals + at), kind);
    if (ROWS == 1) {
        memcpy(offset(rows->out[row], first, kind), rounded_to, (size_t)(WEIGHTS * SIZE(kind)));
        return;
    }
    for (int one = 0; one < WEIGHTS; one++)
        for (int at = 0; at < ROWS; at++)
            memcpy(offset(rows->out[row + at], first + one, kind),
                   offset(rounded_to, one * ROWS + at, kind), SIZE(kind));
}

/* WEIGHTS rows of the weight, which stay in the nearest cache, times all rows of x, COLUMNS at most
   at a time. */
INLINE void strip(const void *weight, const void *bias, const Rows *rows, long first, long k,
                  const int kind, const int WEIGHTS) {
    long row = 0;
    if (WEIGHTS == 3)
        for (; row + 8 <= rows->count; row += 8) tile(weight, bias, rows, first, row, k, kind, WEIGHTS, 8);
    for (; row + 4 <= rows->count; row += 4) tile(weight, bias, rows, first, row, k, kind, WEIGHTS, 4);
    for (; row + 2 <= rows->count; row += 2) tile(weight, bias, rows, first, row, k, kind, WEIGHTS, 2);
    for (; row < rows->count; row++) tile(weight, bias, rows, first, row, k, kind, WEIGHTS, 1);
}

/* Rows first:stop of the weight times the only row of x, two at a time: one of each half, so that each
   half is read from its begin to its end. What a processor fetches by itself ahead of two such readers
   is all that memory gives; rows beside each other that are fetched by instructions are up to a tenth
   less. */
INLINE void two_halves(const void *weight, const void *bias, const Rows *rows, long first, long stop,
                       long k, const int kind) {
    const long half = (stop - first) / 2, middle = first + half;
    for (; first < middle; first++) {
        float totals[32];
        products(offset(weight, first * k, kind), half * k, rows->x, k, totals, 0, 0, kind, 2, 1);
        for (int one = 0; one < 2; one++) {
            const long at = first + one * half;
            store(*rows->out, at, bias ? totals[one] + load(bias, at, kind) : totals[one], kind);
        }
    }
    if (middle + half < stop) strip(weight, bias, rows, stop - 1, k, kind, 1);
}

/* Rows first:stop of the weight times all rows of x. As many sums at a time as there are registers:
   each waits for its last step, so that one alone would be slower than memory. */
INLINE void block(const void *weight, const void *bias, const Rows *rows, long first, long stop,
                  long k, const int kind) {
#if defined(__AVX512F__)
    if (rows->count == 1) {
        two_halves(weight, bias, rows, first, stop, k, kind);
        return;
    }
    /* Six rows of float32 beside so many of x would be too much for a cache. */
    if (!kind && rows->count >= 8)
        for (; first + 3 <= stop; first += 3) strip(weight, bias, rows, first, k, kind, 3);
    for (; first + 6 <= stop; first += 6) strip(weight, bias, rows, first, k, kind, 6);
#else
    if (rows->count > 1)
        for (; first + 2 <= stop; first += 2) strip(weight, bias, rows, first, k, kind, 2);
    else
        for (; first + 6 <= stop; first += 6) tile(weight, bias, rows, first, 0, k, kind, 6, 1);
#endif
    for (; first < stop; first++) strip(weight, bias, rows, first, k, kind, 1);
}

/* Functions of their own: there are many tiles, and each is compiled for each of its users. */
static void float32_block(const void *weight, const void *bias, const Rows *rows, long first,
                          long stop, long k) {
    block(weight, bias, rows, first, stop, k, 0);
}

static void bfloat16_block(const void *weight, const void *bias, const Rows *rows, long first,
                           long stop, long k) {
    block(weight, bias, rows, first, stop, k, 1);
}

INLINE long blocks_of(long n) { return (n + BLOCK - 1) / BLOCK; }

/* Blocks first:stop of a weight of n rows. */
INLINE void some_blocks(const void *weight, const void *bias, const Rows *rows, long first, long stop,
                        long n, long k, const int kind) {
    const long end = stop * BLOCK < n ? stop * BLOCK : n;
    if (kind) bfloat16_block(weight, bias, rows, first * BLOCK, end, k);
    else float32_block(weight, bias, rows, first * BLOCK, end, k);
}

/* Rows of k as sums want them, in memory to be freed; 0 where there is none. */
INLINE char *spread_rows(const void *x, long rows, long k, const int kind) {
    const long row = spread_bytes(k, kind);
    char *spread = malloc((size_t)(rows * row) + BYTES);
    for (long one = 0; spread && one < rows; one++)
        spread_row(offset(x, one * k, kind), spread + one * row, k, kind);
    return spread;
}

INLINE int product_of(const void *x, const void *weight, const void *bias, void *out, long rows,
                      long n, long k, int threads, const int kind) {
    const long row = spread_bytes(k, kind), most = rows < TOGETHER_ROWS ? rows : TOGETHER_ROWS;
    void **places = malloc((size_t)most * 2 * sizeof(void *));
    int failed = !places;
    for (long first = 0; !failed && first < rows; first += most) {
        const Rows all = {(const void **)places, places + most, rows - first < most ? rows - first : most};
        char *spread = spread_rows(offset(x, first * k, kind), all.count, k, kind);
        if (!spread) failed = 1;
        for (long one = 0; spread && one < all.count; one++) {
            all.x[one] = spread + one * row;
            all.out[one] = offset(out, (first + one) * n, kind);
        }
        const long blocks = failed ? 0 : blocks_of(n);
        long taken = 0;
#pragma omp parallel num_threads(threads) if (all.count * n * k > SMALL)
        {
            Stretch part = own_stretch(blocks);
            do some_blocks(weight, bias, &all, part.first, part.stop, n, k, kind);
            while (shared_stretch(&part, blocks, BLOCK * k * SIZE(kind), &taken));
        }
        free(spread);
    }
    free(places);
    return failed;
}

/* out [rows, n] = x [rows, k] @ weight [n, k].T (+ bias [n], or null). */
int few_rows_product(const void *x, const void *weight, const void *bias, void *out, long rows,
                     long n, long k, int kind, int threads) {
    if (rows == 0) return 0;
    return kind ? product_of(x, weight, bias, out, rows, n, k, threads, 1)
                : product_of(x, weight, bias, out, rows, n, k, threads, 0);
}

/* ---- experts -------------------------------------------------------------------------------- */

/* Tokens of one expert: ``slots`` of the step, [tokens, top_k] flat. */
typedef struct {
    long expert, first, count;
} Group;

typedef struct {
    const void *x, *gate_up, *down;
    const float *weights;
    void *merged, *results, *out; /* [slots, 2 * width], [slots, hidden], [tokens, hidden] */
    const int64_t *ids;
    int64_t first;
    long tokens, top_k, experts, hidden, width;
} Experts;

/* The expert of a slot among those that are here; ``experts`` or more for another rank's. */
INLINE uint64_t expert_of(const Experts *e, long slot) {
    return (uint64_t)e->ids[slot] - (uint64_t)e->first;
}

/* Slots sorted by expert, and the groups of ``experts`` from ``first`` on; how many of these. */
static long group_slots(const Experts *e, long *order, long *counts, Group *groups) {
    const long slots = e->tokens * e->top_k;
    memset(counts, 0, (size_t)(e->experts + 1) * sizeof(long));
    for (long slot = 0; slot < slots; slot++) {
        const uint64_t expert = expert_of(e, slot);
        if (expert < (uint64_t)e->experts) counts[expert + 1]++;
    }
    long found = 0;
    for (long expert = 0; expert < e->experts; expert++) {
        if (counts[expert + 1]) groups[found++] = (Group){expert, counts[expert], counts[expert + 1]};
        counts[expert + 1] += counts[expert];
    }
    for (long slot = 0; slot < slots; slot++) {
        const uint64_t expert = expert_of(e, slot);
        if (expert < (uint64_t)e->experts) order[counts[expert]++] = slot;
    }
    return found;
}

/* silu(gate) * up of a merged row, as the next product wants it; ``plain`` is room for it. */
INLINE void gated_row(const void *merged, void *spread, void *plain, long width, const int kind) {
    for (long at = 0; at < width; at += LANES) {
        const floats gate = load_some(merged, at, width - at, kind);
        const floats up = load_some(merged, width + at, width - at, kind);
        store_some(plain, at, width - at, gated(gate, up, kind), kind);
    }
    spread_row(plain, spread, width, kind);
}

/* The weighted sum of a token's results, in the order of its slots; rounded once. */
INLINE void combine(const Experts *e, long token, long first, long stop, const int kind) {
    for (long at = first; at < stop; at++) {
        float sum = 0.0f;
        for (long slot = token * e->top_k; slot < (token + 1) * e->top_k; slot++)
            if (expert_of(e, slot) < (uint64_t)e->experts)
                sum += load(e->results, slot * e->hidden + at, kind) * e->weights[slot];
        store(e->out, token * e->hidden + at, sum, kind);
    }
}

/* Blocks of the weights [n, k] of all groups, counted through; ``x`` and ``out`` say where rows are, in
   the order of the groups. */
INLINE void group_blocks(const void *weights, const Group *groups, void **x, void **out, Stretch part,
                         long n, long k, const int kind) {
    const long blocks = blocks_of(n);
    for (long at = part.first, stop; at < part.stop; at = stop) {
        const Group *g = groups + at / blocks;
        const Rows rows = {(const void **)x + g->first, out + g->first, g->count};
        const long begin = at - at % blocks;
        stop = begin + blocks < part.stop ? begin + blocks : part.stop;
        some_blocks(offset(weights, g->expert * n * k, kind), 0, &rows, at - begin, stop - begin, n, k, kind);
    }
}

INLINE int experts_of(const Experts *e, int threads, const int kind) {
    const long slots = e->tokens * e->top_k, deep = spread_bytes(e->hidden, kind);
    const long wide = spread_bytes(e->width, kind);
    const long lower = blocks_of(e->hidden);
    long taken[2] = {0, 0};
    char *x = spread_rows(e->x, e->tokens, e->hidden, kind);
    char *activated = malloc((size_t)(slots * (wide + e->width * SIZE(kind))) + BYTES);
    long *order = malloc((size_t)(slots + e->experts + 1) * sizeof(long));
    Group *groups = malloc((size_t)(slots + 1) * sizeof(Group));
    void **places = malloc((size_t)slots * 4 * sizeof(void *));
    const int failed = !x || !activated || !order || !groups || !places;
    if (!failed) {
        char *plain = activated + slots * wide;
        const long found = group_slots(e, order, order + slots, groups);
        const long chosen = found ? groups[found - 1].first + groups[found - 1].count : 0;
        for (long at = 0; at < chosen; at++) {
            const long slot = order[at];
            places[at] = x + slot / e->top_k * deep;
            places[slots + at] = offset(e->merged, slot * 2 * e->width, kind);
            places[2 * slots + at] = activated + slot * wide;
            places[3 * slots + at] = offset(e->results, slot * e->hidden, kind);
        }
#pragma omp parallel num_threads(threads) if (slots * e->hidden * e->width > SMALL)
        {
            const long upper = found * blocks_of(2 * e->width), under = found * lower;
            Stretch part = own_stretch(upper);
            do group_blocks(e->gate_up, groups, places, places + slots, part, 2 * e->width, e->hidden, kind);
            while (shared_stretch(&part, upper, BLOCK * e->hidden * SIZE(kind), &taken[0]));
#pragma omp barrier
#pragma omp for schedule(static)
            for (long at = 0; at < chosen; at++)
                gated_row(places[slots + at], places[2 * slots + at],
                          plain + at * e->width * SIZE(kind), e->width, kind);
            part = own_stretch(under);
            do group_blocks(e->down, groups, places + 2 * slots, places + 3 * slots, part, e->hidden,
                            e->width, kind);
            while (shared_stretch(&part, under, BLOCK * e->width * SIZE(kind), &taken[1]));
#pragma omp barrier
#pragma omp for schedule(static)
            for (long item = 0; item < e->tokens * lower; item++) {
                const long start = item % lower * BLOCK;
                combine(e, item / lower, start,
                        start + BLOCK < e->hidden ? start + BLOCK : e->hidden, kind);
            }
        }
    }
    free(x);
    free(activated);
    free(order);
    free(groups);
    free(places);
    return failed;
}

/* out [tokens, hidden]: for each token the sum over its slots of weights [tokens, top_k] times
   down[expert] @ (silu(gate) * up) of gate_up[expert] @ x. Where ``first`` is null, an id beyond
   ``experts`` is an error (2); else ids count from it on, and one beyond is another rank's and adds
   nothing. Results are rounded to the dtype where eager code does. merged [slots, 2 * width] and
   results [slots, hidden] are work space. */
int few_rows_experts(const void *x, const int64_t *ids, const float *weights, const void *gate_up,
                     const void *down, void *merged, void *results, void *out, long tokens,
                     long top_k, long experts, long hidden, long width, const int64_t *first,
                     int kind, int threads) {
    const Experts e = {x, gate_up, down, weights, merged, results, out, ids,
                       first ? *first : 0, tokens, top_k, experts, hidden, width};
    for (long slot = 0; !first && slot < tokens * top_k; slot++)
        if (ids[slot] < 0 || ids[slot] >= experts) return 2;
    if (tokens == 0) return 0;
    return kind ? experts_of(&e, threads, 1) : experts_of(&e, threads, 0);
}
