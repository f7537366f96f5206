/* Vectors of the widest registers that this processor has, and sums of products over them.

   Numbers are float32 (kind 0) or bfloat16 (kind 1); every sum is float32. Where the processor
   multiplies bfloat16, operands are taken as they lie; elsewhere a pair of bfloat16 is a word whose
   halves, shifted, are two float32, and the other operand was turned into float32 in that order.

   A sum of products is one chain in ascending order and then one tree, whatever is computed beside
   it: the same row has the same bits in any tile. */

#ifndef GLMC_VECTORS
#define GLMC_VECTORS

#include <math.h>
#include <stdlib.h>

#include "numbers.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define BYTES 64
#else
#define BYTES 32
#endif
#define LANES (BYTES / 4)

typedef float floats __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(BYTES), aligned(2), may_alias));
typedef int32_t integers __attribute__((vector_size(BYTES), aligned(4), may_alias));
typedef uint16_t halves __attribute__((vector_size(BYTES / 2), aligned(2), may_alias));

#if defined(__AVX512BF16__) && defined(__AVX512F__)
#define MULTIPLIES_BFLOAT16 1
#else
#define MULTIPLIES_BFLOAT16 0
#endif

/* Elements of a row that one step of a sum takes. */
#define STEP(kind) ((kind) ? 2 * LANES : LANES)
/* Bytes of an element of the other operand, as sums want it. */
#define SPREAD(kind) ((kind) && MULTIPLIES_BFLOAT16 ? 2 : 4)

/* a * b + c, rounded once: written out, as this is compiled without contraction. */
INLINE floats fused(floats a, floats b, floats c) {
#if defined(__AVX512F__)
    return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__) && defined(__AVX2__)
    return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__FP_FAST_FMAF)
    floats found;
    for (int lane = 0; lane < LANES; lane++) found[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
    return found;
#else
    return a * b + c; /* in two roundings, where one would be a call of a function */
#endif
}

INLINE floats all(float value) { return (floats){0} + value; }

/* LANES elements from ``at`` on, in float32. */
INLINE floats load_lanes(const void *from, long at, const int kind) {
    if (!kind) return *(const floats *)((const float *)from + at);
    return (floats)(__builtin_convertvector(*(const halves *)((const uint16_t *)from + at), words) << 16);
}

/* The sums of the lanes of four vectors. */
INLINE void joined(const floats *of, float *sums) {
#if defined(__AVX512F__)
    __m256 parts[4];
    for (int one = 0; one < 4; one++)
        parts[one] = _mm256_add_ps(
            _mm512_castps512_ps256((__m512)of[one]),
            _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd((__m512)of[one]), 1)));
#elif defined(__AVX2__)
    const __m256 parts[4] = {(__m256)of[0], (__m256)of[1], (__m256)of[2], (__m256)of[3]};
#endif
#if defined(__AVX2__)
    const __m256 pairs = _mm256_hadd_ps(_mm256_hadd_ps(parts[0], parts[1]), _mm256_hadd_ps(parts[2], parts[3]));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(pairs), _mm256_extractf128_ps(pairs, 1)));
#else
    for (int one = 0; one < 4; one++) {
        float lanes[LANES];
        memcpy(lanes, &of[one], sizeof lanes);
        for (int half = LANES / 2; half; half /= 2)
            for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
        sums[one] = lanes[0];
    }
#endif
}

/* ``yes`` in lanes where ``mask`` is all ones, ``no`` where it is zero. */
INLINE floats chosen(integers mask, floats yes, floats no) {
    return (floats)(((words)mask & (words)yes) | (~(words)mask & (words)no));
}

/* e to the x in each lane, within an ulp or two; below what float32 holds, the smallest normal. */
INLINE floats exponentials(floats x) {
    const floats low = all(-87.33f), high = all(88.72f), shift = all(12582912.0f); /* 1.5 * 2^23 */
    floats held = chosen((integers)(x < low), low, x);
    held = chosen((integers)(held > high), high, held);
    const floats moved = fused(held, all(1.44269504088896341f), shift), whole = moved - shift;
    const floats part = fused(whole, all(-0.693145751953125f), held);
    const floats rest = fused(whole, all(-1.428606765330187e-6f), part);
    floats sum = all(1.9875691500e-4f);
    sum = fused(sum, rest, all(1.3981999507e-3f));
    sum = fused(sum, rest, all(8.3334519073e-3f));
    sum = fused(sum, rest, all(4.1665795894e-2f));
    sum = fused(sum, rest, all(1.6666665459e-1f));
    sum = fused(sum, rest, all(5.0000001201e-1f));
    sum = fused(sum, rest * rest, rest) + 1.0f;
    const integers found = (integers)sum + (((integers)moved - 0x4b400000) << 23);
    return chosen((integers)(x == x), chosen((integers)(x > high), all(INFINITY), (floats)found), x);
}

/* Each lane rounded to the kind. */
INLINE words narrow_bits(floats value) {
    const words bits = (words)value, up = bits + 0x7fff + ((bits >> 16) & 1);
    return (words)chosen((integers)(value == value), (floats)up, (floats)((words){0} + 0x7fc00000u));
}

INLINE floats rounded_lanes(floats value, const int kind) {
    return kind ? (floats)(narrow_bits(value) & 0xffff0000u) : value;
}

INLINE void store_lanes(void *to, long at, floats value, const int kind) {
    if (kind)
        *(halves *)((uint16_t *)to + at) = __builtin_convertvector(narrow_bits(value) >> 16, halves);
    else
        *(floats *)((float *)to + at) = value;
}

/* silu(gate) * up, silu rounded to the kind first, as eager code does. */
INLINE floats gated(floats gate, floats up, const int kind) {
    return rounded_lanes(gate / (1.0f + exponentials(-gate)), kind) * up;
}

/* ``count`` lanes of a row from ``at`` on, at most LANES; zeros behind them. */
INLINE floats load_some(const void *from, long at, long count, const int kind) {
    if (count >= LANES) return load_lanes(from, at, kind);
    char rest[BYTES] = {0};
    memcpy(rest, offset(from, at, kind), (size_t)(count * SIZE(kind)));
    return load_lanes(rest, 0, kind);
}

INLINE void store_some(void *to, long at, long count, floats value, const int kind) {
    if (count >= LANES) {
        store_lanes(to, at, value, kind);
        return;
    }
    char rest[BYTES];
    store_lanes(rest, 0, value, kind);
    memcpy(offset(to, at, kind), rest, (size_t)(count * SIZE(kind)));
}

/* One step of a sum: STEP elements of ``row``, as they lie, times as many that were spread. */
INLINE floats step_of(const void *row, const void *spread, floats sum, const int kind) {
    if (!kind) return fused(*(const floats *)row, *(const floats *)spread, sum);
#if MULTIPLIES_BFLOAT16
    return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_loadu_si512(row),
                                    (__m512bh)_mm512_loadu_si512(spread));
#else
    const words pairs = *(const words *)row;
    sum = fused((floats)(pairs << 16), *(const floats *)spread, sum);
    return fused((floats)(pairs & 0xffff0000u), *((const floats *)spread + 1), sum);
#endif
}

INLINE long whole_steps(long count, const int kind) {
    return (count + STEP(kind) - 1) / STEP(kind) * STEP(kind);
}

/* Bytes from one spread row to the next. A line more than it takes: rows of a power of two would all
   lie in the same few places of the nearest cache. */
INLINE long spread_bytes(long count, const int kind) {
    return whole_steps(count, kind) * SPREAD(kind) + 64;
}

/* ``count`` elements as the sums want them, zeros behind them up to whole steps. */
INLINE void spread_row(const void *from, void *to, long count, const int kind) {
    const long whole = whole_steps(count, kind);
    if (SPREAD(kind) == SIZE(kind)) {
        memcpy(to, from, (size_t)(count * SIZE(kind)));
        memset((char *)to + count * SIZE(kind), 0, (size_t)((whole - count) * SIZE(kind)));
        return;
    }
    for (long start = 0; start < whole; start += 2 * LANES)
        for (long lane = 0; lane < LANES; lane++)
            for (int odd = 0; odd < 2; odd++) {
                const long at = start + 2 * lane + odd;
                ((float *)to)[start + odd * LANES + lane] = at < count ? load(from, at, kind) : 0.0f;
            }
}

/* ``sums`` [ROWS, COLUMNS] get one step more. Loads of the rows serve all columns; every loop is
   unrolled, as sums that are counted through by a variable would lie in memory. */
INLINE void add_step(const char *row, long stride, const void *const *spread, long at,
                     floats *sums, const int kind, const int ROWS, const int COLUMNS) {
#pragma GCC unroll 8
    for (int column = 0; column < COLUMNS; column++)
#pragma GCC unroll 8
        for (int one = 0; one < ROWS; one++)
            sums[one * COLUMNS + column] =
                step_of(row + one * stride, (const char *)spread[column] + at * SPREAD(kind),
                        sums[one * COLUMNS + column], kind);
}

/* totals [ROWS, COLUMNS], with room for 32: ROWS rows of ``weight``, ``stride`` elements apart, times
   COLUMNS spread rows. ``lines`` rows ``ahead``, at most ROWS, which will be read next, are fetched
   meanwhile: a processor's own guess ends with a page and with a row. */
INLINE void products(const void *weight, long stride, const void *const *spread, long count,
                     float *totals, const char *ahead, int lines, const int kind, const int ROWS,
                     const int COLUMNS) {
    floats sums[32];
    const long bytes = stride * SIZE(kind);
#pragma GCC unroll 32
    for (int one = 0; one < 32; one++) sums[one] = (floats){0};
    long at = 0;
    for (; at + STEP(kind) <= count; at += STEP(kind)) {
        const char *from = offset(weight, at, kind);
#pragma GCC unroll 8
        for (int row = 0; row < ROWS; row++)
            if (row < lines) __builtin_prefetch(ahead + row * bytes + at * SIZE(kind), 0, 2);
        add_step(from, bytes, spread, at, sums, kind, ROWS, COLUMNS);
    }
    if (at < count) {
        char rest[8][BYTES];
        for (int row = 0; row < ROWS; row++) {
            memset(rest[row], 0, BYTES);
            memcpy(rest[row], offset(weight, row * stride + at, kind),
                   (size_t)((count - at) * SIZE(kind)));
        }
        add_step(rest[0], BYTES, spread, at, sums, kind, ROWS, COLUMNS);
    }
    /* Four at a time, whichever lie beside each other. */
#pragma GCC unroll 8
    for (int one = 0; one < ROWS * COLUMNS; one += 4) joined(sums + one, totals + one);
}

#endif
