/* Numbers of float32 (kind 0) and bfloat16 (kind 1), one at a time. */

#ifndef GLMC_NUMBERS
#define GLMC_NUMBERS

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define SIZE(kind) ((kind) ? 2 : 4)
#define SMALL 16384 /* multiply-adds that are not worth waking threads for */

INLINE float widen(uint16_t value) {
    uint32_t bits = (uint32_t)value << 16;
    float found;
    memcpy(&found, &bits, 4);
    return found;
}

INLINE uint16_t narrowed(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fc0; /* not a number */
    return (uint16_t)((bits + 0x7fff + ((bits >> 16) & 1)) >> 16); /* to the nearest, ties to even */
}

INLINE float load(const void *from, long at, const int kind) {
    return kind ? widen(((const uint16_t *)from)[at]) : ((const float *)from)[at];
}

INLINE void store(void *to, long at, float value, const int kind) {
    if (kind) ((uint16_t *)to)[at] = narrowed(value);
    else ((float *)to)[at] = value;
}

INLINE float rounded(float value, const int kind) { return kind ? widen(narrowed(value)) : value; }

INLINE void *offset(const void *from, long at, const int kind) {
    return (char *)from + at * SIZE(kind);
}

/* e to the x, within an ulp or two; beyond what float32 holds, the smallest or largest normal. */
INLINE float exponential(float x) {
    const float low = -87.33f, high = 88.72f, shift = 12582912.0f; /* 1.5 * 2^23 */
    x = x < low ? low : x;
    x = x > high ? high : x;
    const float moved = __builtin_fmaf(x, 1.44269504088896341f, shift);
    const float whole = moved - shift;
    float rest = __builtin_fmaf(whole, -0.693145751953125f, x);
    rest = __builtin_fmaf(whole, -1.428606765330187e-6f, rest);
    float sum = 1.9875691500e-4f;
    sum = __builtin_fmaf(sum, rest, 1.3981999507e-3f);
    sum = __builtin_fmaf(sum, rest, 8.3334519073e-3f);
    sum = __builtin_fmaf(sum, rest, 4.1665795894e-2f);
    sum = __builtin_fmaf(sum, rest, 1.6666665459e-1f);
    sum = __builtin_fmaf(sum, rest, 5.0000001201e-1f);
    sum = __builtin_fmaf(sum, rest * rest, rest) + 1.0f;
    int32_t bits, exponent;
    memcpy(&exponent, &moved, 4);
    exponent = (exponent - 0x4b400000) << 23;
    memcpy(&bits, &sum, 4);
    bits += exponent;
    float found;
    memcpy(&found, &bits, 4);
    return x != x ? x : found;
}

#endif
