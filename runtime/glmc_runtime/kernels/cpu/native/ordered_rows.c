/* What is between products, in a fixed order of sums (see ordered.c): norms, SwiGLU, weighted sums. */

#include <math.h>

#include "lanes.h"

INLINE void norm_of(const void *x, const void *weight, void *out, long width, float eps,
                    const int kind) {
    float lanes[LANES] = {0};
    for (long at = 0; at < width; at += LANES)
        for (int lane = 0; lane < LANES; lane++) {
            const float value = at + lane < width ? load(x, at + lane, kind) : 0.0f;
            lanes[lane] = __builtin_fmaf(value, value, lanes[lane]);
        }
    floats sum;
    memcpy(&sum, lanes, sizeof sum);
    const float scale = 1.0f / sqrtf(joined(sum) / (float)width + eps);
    for (long at = 0; at < width; at++) {
        const float normed = rounded(load(x, at, kind) * scale, kind);
        store(out, at, normed * load(weight, at, kind), kind);
    }
}

/* RMSNorm of each row: cast to the dtype before the weight. Row r of x is at
   (r / inner) * x_stride + (r % inner) * width, that of out likewise. */
int ordered_norm(const void *x, const void *weight, void *out, long rows, long inner, long width,
                 long x_stride, long out_stride, float eps, int kind, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * width > SMALL)
    for (long row = 0; row < rows; row++) {
        const long outer = row / inner, rest = row % inner * width;
        const void *from = offset(x, outer * x_stride + rest, kind);
        void *to = offset(out, outer * out_stride + rest, kind);
        if (kind) norm_of(from, weight, to, width, eps, 1);
        else norm_of(from, weight, to, width, eps, 0);
    }
    return 0;
}

INLINE void gated_row(const void *gate, const void *up, void *out, long width, const int kind) {
    for (long at = 0; at < width; at++) {
        const float x = load(gate, at, kind);
        const float silu = rounded(x / (1.0f + exponential(-x)), kind);
        store(out, at, silu * load(up, at, kind), kind);
    }
}

/* out = silu(gate) * up, silu rounded to the dtype first; rows ``stride`` apart in gate and up. */
int ordered_gated(const void *gate, const void *up, void *out, long rows, long width, long stride,
                  int kind, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * width > SMALL)
    for (long row = 0; row < rows; row++) {
        const void *left = offset(gate, row * stride, kind), *right = offset(up, row * stride, kind);
        void *to = offset(out, row * width, kind);
        if (kind) gated_row(left, right, to, width, 1);
        else gated_row(left, right, to, width, 0);
    }
    return 0;
}

/* x = 1 / (1 + exp(-x)), float32, in place. */
int ordered_sigmoid(float *x, long count) {
    for (long at = 0; at < count; at++) x[at] = 1.0f / (1.0f + exponential(-x[at]));
    return 0;
}

/* out [rows, n] = the sum over slots, in their order, of weights [rows, slots] (1 where null) times x
   [rows, slots, segments, n]; segments are joined last, by the tree of neighbours. x is of ``kind``, out of
   ``out_kind``. */
int ordered_combine(const void *x, const float *weights, void *out, long rows, long slots,
                    long segments, long n, int kind, int out_kind, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * slots * n > SMALL)
    for (long row = 0; row < rows; row++)
        for (long at = 0; at < n; at++) {
            float parts[MOST_SEGMENTS];
            for (long segment = 0; segment < segments; segment++) {
                float sum = 0.0f;
                for (long slot = 0; slot < slots; slot++) {
                    const long place = ((row * slots + slot) * segments + segment) * n + at;
                    const float value = kind ? load(x, place, 1) : load(x, place, 0);
                    sum += weights ? value * weights[row * slots + slot] : value;
                }
                parts[segment] = sum;
            }
            const float total = joined_segments(parts, segments);
            if (out_kind) store(out, row * n + at, total, 1);
            else store(out, row * n + at, total, 0);
        }
    return 0;
}
