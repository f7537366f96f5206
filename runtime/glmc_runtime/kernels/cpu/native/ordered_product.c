/* Products in a fixed order of sums (see ordered.c). */

#include <stdlib.h>

#include "lanes.h"

/* Elements that a step of a product takes: of bfloat16 two for each lane. */
#define STEP(kind) ((kind) ? 2 * LANES : LANES)

/* One step of x as the lanes want it, zeros behind its end. */
INLINE void spread(const void *x, float *wide, long count, const int kind) {
    const int step = STEP(kind);
    for (int at = 0; at < step; at++) {
        const int place = kind ? (at % 2) * LANES + at / 2 : at;
        wide[place] = at < count ? load(x, at, kind) : 0.0f;
    }
}

/* x [rows, k] in float32, each segment of ``length`` padded to whole steps. */
static void spread_rows(const void *x, float *wide, long rows, long k, long length, long segments,
                        const int kind) {
    const int step = STEP(kind);
    for (long row = 0; row < rows; row++)
        for (long segment = 0; segment < segments; segment++) {
            const long start = segment * length;
            const long stop = start + length < k ? start + length : k;
            for (long at = start; at < start + length; at += step) {
                const long left = stop - at;
                spread(offset(x, row * k + (at < k ? at : 0), kind), wide,
                       left < 0 ? 0 : left < step ? left : step, kind);
                wide += step;
            }
        }
}

/* Adds one step of WEIGHTS rows of the weight, ``stride`` apart, times ROWS rows of x. */
INLINE void step_of(const void *weight, long stride, const float *wide, long width,
                    floats (*sums)[8], const int kind, const int WEIGHTS, const int ROWS) {
    floats even[8], odd[8];
#pragma GCC unroll 8
    for (int row = 0; row < ROWS; row++) {
        even[row] = *(const floats *)(wide + row * width);
        if (kind) odd[row] = *(const floats *)(wide + row * width + LANES);
    }
#pragma GCC unroll 8
    for (int one = 0; one < WEIGHTS; one++) {
        if (kind) {
            words pairs = *(const words *)((const uint16_t *)weight + one * stride);
            floats low = (floats)(pairs << 16), high = (floats)(pairs & 0xffff0000u);
#pragma GCC unroll 8
            for (int row = 0; row < ROWS; row++) {
                sums[one][row] = fused(low, even[row], sums[one][row]);
                sums[one][row] = fused(high, odd[row], sums[one][row]);
            }
        } else {
            floats all = *(const floats *)((const float *)weight + one * stride);
#pragma GCC unroll 8
            for (int row = 0; row < ROWS; row++) sums[one][row] = fused(all, even[row], sums[one][row]);
        }
    }
}

typedef struct {
    const void *weight, *bias;
    const float *wide;
    void *out;
    long n, k, length, segments, width; /* ``width``: of a row of ``wide`` */
    int out_kind, apart; /* ``apart``: segments are not joined: out [rows, segments, n] */
    const int64_t *places; /* rows of out that rows of x are added to, times ``scales``, or null */
    const float *scales;
} Product;

/* WEIGHTS rows of the weight from ``first`` on, times ROWS rows of x from ``start`` on. */
INLINE void tile(const Product *p, long first, long start, const int kind, const int WEIGHTS,
                 const int ROWS) {
    const int step = STEP(kind);
    float totals[MOST_SEGMENTS][8][8];
    const float *wide = p->wide + start * p->width;
    for (long segment = 0; segment < p->segments; segment++) {
        floats sums[8][8];
        for (int one = 0; one < WEIGHTS; one++)
            for (int row = 0; row < ROWS; row++) sums[one][row] = (floats){0};
        const long begin = segment * p->length;
        const long end = begin + p->length < p->k ? begin + p->length : p->k;
        const long skip = segment * ((p->length + step - 1) / step * step);
        long at = begin;
        for (; at + step <= end; at += step)
            step_of(offset(p->weight, first * p->k + at, kind), p->k, wide + skip + at - begin,
                    p->width, sums, kind, WEIGHTS, ROWS);
        if (at < end) {
            uint32_t rest[8 * 2 * LANES] = {0};
            for (int one = 0; one < WEIGHTS; one++)
                memcpy((char *)rest + one * step * (kind ? 2 : 4),
                       offset(p->weight, (first + one) * p->k + at, kind),
                       (size_t)(end - at) * (kind ? 2 : 4));
            step_of(rest, step, wide + skip + at - begin, p->width, sums, kind, WEIGHTS, ROWS);
        }
        for (int one = 0; one < WEIGHTS; one++)
            for (int row = 0; row < ROWS; row++) totals[segment][one][row] = joined(sums[one][row]);
    }
    for (int one = 0; one < WEIGHTS; one++)
        for (int row = 0; row < ROWS; row++) {
            const long at = start + row;
            if (p->places) {
                float *to = (float *)p->out + p->places[at] * p->segments * p->n + first + one;
                for (long segment = 0; segment < p->segments; segment++)
                    to[segment * p->n] += totals[segment][one][row] * p->scales[at];
                continue;
            }
            if (p->apart) {
                for (long segment = 0; segment < p->segments; segment++)
                    ((float *)p->out)[(at * p->segments + segment) * p->n + first + one] =
                        totals[segment][one][row];
                continue;
            }
            float parts[MOST_SEGMENTS];
            for (long segment = 0; segment < p->segments; segment++)
                parts[segment] = totals[segment][one][row];
            float total = joined_segments(parts, p->segments);
            if (p->bias) total += load(p->bias, first + one, kind);
            store(p->out, at * p->n + first + one, total, p->out_kind);
        }
}

INLINE void tiles(const Product *p, long first, long stop, long start, const int kind,
                  const int WEIGHTS, const int ROWS) {
    long one = first;
    for (; one + WEIGHTS <= stop; one += WEIGHTS) tile(p, one, start, kind, WEIGHTS, ROWS);
    for (; one < stop; one++) tile(p, one, start, kind, 1, ROWS);
}

INLINE int product_of(const void *x, Product *p, long rows, int threads, const int kind) {
    const long block = 16;   /* rows of the weight that stay in the cache for all rows of x */
    const long together = 64; /* rows of x for which the weight is read once */
    const int step = STEP(kind);
    if (rows == 0) return 0;
    p->width = p->segments * ((p->length + step - 1) / step * step);
    const long most = rows < together ? rows : together, columns = p->apart ? p->segments : 1;
    float *wide = malloc((size_t)(most * p->width + LANES) * sizeof(float));
    if (!wide) return 1;
    char *const out = p->out;
    const int64_t *const places = p->places;
    const float *const scales = p->scales;
    p->wide = wide;
    for (long first = 0; first < rows; first += together) {
        const long count = rows - first < together ? rows - first : together;
        spread_rows(offset(x, first * p->k, kind), wide, count, p->k, p->length, p->segments, kind);
        if (places) p->places = places + first, p->scales = scales + first;
        else p->out = out + first * p->n * columns * (p->out_kind ? 2 : 4);
#pragma omp parallel for schedule(static) num_threads(threads) if (count * p->n * p->k > SMALL)
        for (long start = 0; start < p->n; start += block) {
            const long stop = start + block < p->n ? start + block : p->n;
            long row = 0;
            for (; row + 4 <= count; row += 4) tiles(p, start, stop, row, kind, 2, 4);
            for (; row + 2 <= count; row += 2) tiles(p, start, stop, row, kind, 4, 2);
            for (; row < count; row++) tiles(p, start, stop, row, kind, 8, 1);
        }
    }
    free(wide);
    return 0;
}

/* out [rows, n] = x [rows, k] @ weight [n, k].T (+ bias [n]).

   k is cut into ``segments`` (1, 2, 4 or 8) of ``length``, of which the last may be short or empty:
   each is a sum of its own, and they are joined by the tree of neighbours. ``apart`` leaves them as
   they are, float32 [rows, segments, n]; with ``places`` row r of them, times scales[r], is added to
   row places[r] of the ``out_rows`` of out, where no place is twice. ``out_kind`` is that of out. */
int ordered_product(const void *x, const void *weight, const void *bias, void *out, long rows,
                    long n, long k, long segments, long length, long out_rows,
                    const int64_t *places, const float *scales, int kind, int out_kind, int apart,
                    int threads) {
    for (long row = 0; places && row < rows; row++)
        if (places[row] < 0 || places[row] >= out_rows) return 2;
    Product p = {.weight = weight, .bias = bias, .out = out, .n = n, .k = k, .length = length,
                 .segments = segments, .out_kind = apart ? 0 : out_kind, .apart = apart,
                 .places = places, .scales = scales};
    return kind ? product_of(x, &p, rows, threads, 1) : product_of(x, &p, rows, threads, 0);
}
