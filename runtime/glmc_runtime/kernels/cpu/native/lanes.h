/* Eight lanes of a sum in a fixed order, and the trees that join lanes and segments. */

#ifndef GLMC_LANES
#define GLMC_LANES

#include "numbers.h"

#if defined(__FMA__) && defined(__AVX2__)
#include <immintrin.h>
#endif

#define LANES 8
#define MOST_SEGMENTS 8

typedef float floats __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint32_t words __attribute__((vector_size(32), aligned(2), may_alias));

/* a * b + c, rounded once. */
INLINE floats fused(floats a, floats b, floats c) {
#if defined(__FMA__) && defined(__AVX2__)
    return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    floats found;
    for (int lane = 0; lane < LANES; lane++) found[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
    return found;
#endif
}

INLINE float joined(floats sum) {
    return ((sum[0] + sum[4]) + (sum[1] + sum[5])) + ((sum[2] + sum[6]) + (sum[3] + sum[7]));
}

/* The tree of neighbours over ``segments`` (1, 2, 4 or 8) sums, which are used up. */
INLINE float joined_segments(float *parts, long segments) {
    for (long left = segments; left > 1; left /= 2)
        for (long pair = 0; pair < left / 2; pair++)
            parts[pair] = parts[2 * pair] + parts[2 * pair + 1];
    return parts[0];
}

#endif
