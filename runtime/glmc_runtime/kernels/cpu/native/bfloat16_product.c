/* out [rows, n] = x [rows, k] @ weight [n, k].T (+ bias [n]), all bfloat16, sums in float32.

   A pair of bfloat16 is a 32-bit word whose upper half is one float32 cut short, and whose lower
   half is another one, shifted: so eight words are two vectors of eight floats, without a
   conversion. x is turned into float32 in the same order once, for all rows of the weight.

   Each sum is made by one thread, in one order, whatever the number of threads and of rows: the
   same row always gives the same bits. k must be a multiple of 16. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint32_t words __attribute__((vector_size(32), aligned(2), may_alias));
typedef float floats __attribute__((vector_size(32), aligned(4), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE uint16_t rounded(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0; /* not a number */
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16); /* to the nearest, ties to even */
}

INLINE float widen(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float found;
    memcpy(&found, &bits, 4);
    return found;
}

/* wide [rows, k]: of every 16 elements those at even places, then those at odd ones. */
static void split(const uint16_t *x, float *wide, long count) {
    for (long start = 0; start < count; start += 16)
        for (long pair = 0; pair < 8; pair++) {
            wide[start + pair] = widen(x[start + 2 * pair]);
            wide[start + 8 + pair] = widen(x[start + 2 * pair + 1]);
        }
}

/* WEIGHTS rows of the weight times ROWS rows of x. */
INLINE void tile(const uint16_t *weight, const float *wide, uint16_t *out, const uint16_t *bias,
                 long n, long k, const int WEIGHTS, const int ROWS) {
    floats sums[WEIGHTS][ROWS];
    memset(sums, 0, sizeof sums);
    for (long at = 0; at < k; at += 16) {
        floats even[ROWS], odd[ROWS];
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; row++) {
            even[row] = *(const floats *)(wide + row * k + at);
            odd[row] = *(const floats *)(wide + row * k + at + 8);
        }
#pragma GCC unroll 8
        for (int one = 0; one < WEIGHTS; one++) {
            words pairs = *(const words *)(weight + one * k + at);
            /* The rows behind these: where rows are short, the processor's own guess ends with each. */
            __builtin_prefetch(weight + (WEIGHTS + one) * k + at, 0, 2);
            floats low = (floats)(pairs << 16), high = (floats)(pairs & 0xffff0000u);
#pragma GCC unroll 8
            for (int row = 0; row < ROWS; row++) {
                sums[one][row] += low * even[row];
                sums[one][row] += high * odd[row];
            }
        }
    }
    for (int one = 0; one < WEIGHTS; one++)
        for (int row = 0; row < ROWS; row++) {
            floats sum = sums[one][row];
            float total = ((sum[0] + sum[4]) + (sum[1] + sum[5])) +
                          ((sum[2] + sum[6]) + (sum[3] + sum[7]));
            out[row * n + one] = rounded(bias ? total + widen(bias[one]) : total);
        }
}

/* Eight sums at a time: as many as the latency of a multiply-add asks for. */
INLINE void rows_of_x(const uint16_t *weight, const float *wide, uint16_t *out,
                      const uint16_t *bias, long count, long n, long k, const int WEIGHTS,
                      const int ROWS) {
    long one = 0;
    for (; one + WEIGHTS <= count; one += WEIGHTS)
        tile(weight + one * k, wide, out + one, bias ? bias + one : 0, n, k, WEIGHTS, ROWS);
    for (; one < count; one++)
        tile(weight + one * k, wide, out + one, bias ? bias + one : 0, n, k, 1, ROWS);
}

/* 0, or 1 where there is no memory. ``bias`` may be null. */
int bfloat16_product(const uint16_t *x, const uint16_t *weight, const uint16_t *bias,
                     uint16_t *out, long rows, long n, long k, int threads) {
    const long block = 16;   /* rows of the weight that stay in the cache for all rows of x */
    const long together = 64; /* rows of x for which the weight is read once */
    if (rows == 0) return 0;
    const long most = rows < together ? rows : together;
    float *wide = malloc((size_t)(most * k) * sizeof(float));
    if (!wide) return 1;
    for (long first = 0; first < rows; first += together) {
        const long count = rows - first < together ? rows - first : together;
        split(x + first * k, wide, count * k);
#pragma omp parallel for schedule(static) num_threads(threads)
        for (long start = 0; start < n; start += block) {
            const long width = n - start < block ? n - start : block;
            const uint16_t *part = weight + start * k, *shift = bias ? bias + start : 0;
            uint16_t *place = out + first * n + start;
            long row = 0;
            for (; row + 4 <= count; row += 4)
                rows_of_x(part, wide + row * k, place + row * n, shift, width, n, k, 2, 4);
            for (; row + 2 <= count; row += 2)
                rows_of_x(part, wide + row * k, place + row * n, shift, width, n, k, 4, 2);
            for (; row < count; row++)
                rows_of_x(part, wide + row * k, place + row * n, shift, width, n, k, 8, 1);
        }
    }
    free(wide);
    return 0;
}
