/* What a step does between its products: norms, SwiGLU, and heads that are rotated and cached.

   Each is one pass over its rows, rounded where eager code rounds. Functions return 0, 1 where there
   is no memory, or 2 where an index is beyond what it counts. */

#include "vectors.h"

INLINE void norm_of(const void *x, const void *weight, void *out, long width, float eps,
                    const int kind) {
    floats sums[4] = {{0}, {0}, {0}, {0}};
    for (long at = 0; at < width; at += LANES) {
        const floats value = load_some(x, at, width - at, kind);
        sums[0] = fused(value, value, sums[0]);
    }
    float sum[4];
    joined(sums, sum);
    const floats scale = all(1.0f / sqrtf(sum[0] / (float)width + eps));
    for (long at = 0; at < width; at += LANES) {
        const floats normed = rounded_lanes(load_some(x, at, width - at, kind) * scale, kind);
        store_some(out, at, width - at, normed * load_some(weight, at, width - at, kind), kind);
    }
}

INLINE void add_of(const void *x, const void *more, void *total, long width, const int kind) {
    for (long at = 0; at < width; at += LANES)
        store_some(total, at, width - at,
                   load_some(x, at, width - at, kind) + load_some(more, at, width - at, kind), kind);
}

/* RMSNorm of each row, cast to the kind before the weight; with ``residual`` (or null) of x + residual,
   which goes to ``total``. */
int rows_norm(const void *x, const void *residual, const void *weight, void *total, void *out,
              long rows, long width, float eps, int kind, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * width > SMALL)
    for (long row = 0; row < rows; row++) {
        const void *from = offset(x, row * width, kind);
        void *to = offset(out, row * width, kind);
        if (residual) {
            void *sum = offset(total, row * width, kind);
            if (kind) add_of(from, offset(residual, row * width, 1), sum, width, 1);
            else add_of(from, offset(residual, row * width, 0), sum, width, 0);
            from = sum;
        }
        if (kind) norm_of(from, weight, to, width, eps, 1);
        else norm_of(from, weight, to, width, eps, 0);
    }
    return 0;
}

/* out = x + more, flat. */
int rows_add(const void *x, const void *more, void *out, long count, int kind, int threads) {
    const long piece = SMALL, pieces = (count + piece - 1) / piece;
#pragma omp parallel for schedule(static) num_threads(threads) if (pieces > 1)
    for (long one = 0; one < pieces; one++) {
        const long at = one * piece, size = count - at < piece ? count - at : piece;
        if (kind) add_of(offset(x, at, 1), offset(more, at, 1), offset(out, at, 1), size, 1);
        else add_of(offset(x, at, 0), offset(more, at, 0), offset(out, at, 0), size, 0);
    }
    return 0;
}

INLINE void gated_of(const void *gate, const void *up, void *out, long width, const int kind) {
    for (long at = 0; at < width; at += LANES)
        store_some(out, at, width - at,
                   gated(load_some(gate, at, width - at, kind), load_some(up, at, width - at, kind), kind),
                   kind);
}

/* out = silu(gate) * up; rows of gate and up are ``stride`` apart. */
int rows_gated(const void *gate, const void *up, void *out, long rows, long width, long stride,
               int kind, int threads) {
#pragma omp parallel for schedule(static) num_threads(threads) if (rows * width > SMALL)
    for (long row = 0; row < rows; row++) {
        const void *left = offset(gate, row * stride, kind), *right = offset(up, row * stride, kind);
        if (kind) gated_of(left, right, offset(out, row * width, 1), width, 1);
        else gated_of(left, right, offset(out, row * width, 0), width, 0);
    }
    return 0;
}

/* ---- heads ---------------------------------------------------------------------------------- */

typedef struct {
    const void *qkv, *q_norm, *k_norm, *cos_sin; /* norms may be null */
    void *query, *keys, *values;
    const int64_t *positions, *slots;
    long q_heads, kv_heads, head_dim, half, interleaved, block_size;
    long by_block, by_token, by_head; /* strides of both caches, in elements */
    float eps;
} Heads;

/* Two vectors of a head turned by their waves; each product is rounded to the kind. */
INLINE void turn(floats *first, floats *second, floats cosine, floats sine, const int kind) {
    const floats less = rounded_lanes(*second * sine, kind), more = rounded_lanes(*first * sine, kind);
    *first = rounded_lanes(*first * cosine, kind) - less;
    *second = rounded_lanes(*second * cosine, kind) + more;
}

/* Elements that lie beside each other, pair by pair. */
INLINE void rotate_pairs(const void *head, const void *waves, void *out, long half,
                         const int kind) {
    long at = 0;
    for (; kind && at + LANES <= half; at += LANES) {
        const words pairs = *(const words *)((const uint16_t *)head + 2 * at);
        floats first = (floats)(pairs << 16), second = (floats)(pairs & 0xffff0000u);
        turn(&first, &second, load_lanes(waves, at, kind), load_lanes(waves, half + at, kind), kind);
        *(words *)((uint16_t *)out + 2 * at) =
            (narrow_bits(first) >> 16) | (narrow_bits(second) & 0xffff0000u);
    }
    for (; at < half; at++) {
        const float first = load(head, 2 * at, kind), second = load(head, 2 * at + 1, kind);
        const float cosine = load(waves, at, kind), sine = load(waves, half + at, kind);
        const float less = rounded(second * sine, kind), more = rounded(first * sine, kind);
        store(out, 2 * at, rounded(first * cosine, kind) - less, kind);
        store(out, 2 * at + 1, rounded(second * cosine, kind) + more, kind);
    }
}

INLINE void rotate(const void *head, const void *waves, void *out, const Heads *h, const int kind) {
    const long half = h->half;
    if (h->interleaved) rotate_pairs(head, waves, out, half, kind);
    for (long at = 0; !h->interleaved && at < half; at += LANES) {
        const long left = half - at;
        floats first = load_some(head, at, left, kind), second = load_some(head, half + at, left, kind);
        turn(&first, &second, load_some(waves, at, left, kind),
             load_some(waves, half + at, left, kind), kind);
        store_some(out, at, left, first, kind);
        store_some(out, half + at, left, second, kind);
    }
    memcpy(offset(out, 2 * half, kind), offset(head, 2 * half, kind),
           (size_t)((h->head_dim - 2 * half) * SIZE(kind)));
}

INLINE void *slot_of(void *cache, const Heads *h, long token, long head, const int kind) {
    const int64_t slot = h->slots[token];
    return offset(cache, slot / h->block_size * h->by_block + slot % h->block_size * h->by_token +
                             head * h->by_head, kind);
}

/* ``normed``: room for a head. */
INLINE void token_of(const Heads *h, long token, void *normed, const int kind) {
    const long heads = h->q_heads + 2 * h->kv_heads, rotated = h->q_heads + h->kv_heads;
    const void *waves = offset(h->cos_sin, h->positions[token] * 2 * h->half, kind);
    for (long head = 0; head < heads; head++) {
        const void *from = offset(h->qkv, (token * heads + head) * h->head_dim, kind);
        if (head >= rotated) {
            memcpy(slot_of(h->values, h, token, head - rotated, kind), from,
                   (size_t)(h->head_dim * SIZE(kind)));
            continue;
        }
        const void *weight = head < h->q_heads ? h->q_norm : h->k_norm;
        if (weight) {
            norm_of(from, weight, normed, h->head_dim, h->eps, kind);
            from = normed;
        }
        void *to = head < h->q_heads
                       ? offset(h->query, (token * h->q_heads + head) * h->head_dim, kind)
                       : slot_of(h->keys, h, token, head - h->q_heads, kind);
        rotate(from, waves, to, h, kind);
    }
}

/* Heads of qkv [tokens, q_heads + 2 * kv_heads, head_dim], normed where there are norms and rotated
   by rows ``positions`` of cos_sin [places, 2 * half]; queries go to query, keys and values to
   ``slots`` of the caches, which have ``all_slots``. */
int rows_heads(const void *qkv, const void *q_norm, const void *k_norm, const void *cos_sin,
               void *query, void *keys, void *values, const int64_t *positions,
               const int64_t *slots, long tokens, long q_heads, long kv_heads, long head_dim,
               long half, long places, long all_slots, long block_size, long by_block,
               long by_token, long by_head, int interleaved, float eps, int kind, int threads) {
    Heads h = {.qkv = qkv, .q_norm = q_norm, .k_norm = k_norm, .cos_sin = cos_sin, .query = query,
               .keys = keys, .values = values, .positions = positions, .slots = slots,
               .q_heads = q_heads, .kv_heads = kv_heads, .head_dim = head_dim, .half = half,
               .interleaved = interleaved, .block_size = block_size, .by_block = by_block,
               .by_token = by_token, .by_head = by_head, .eps = eps};
    for (long token = 0; token < tokens; token++)
        if (positions[token] < 0 || positions[token] >= places || slots[token] < 0 ||
            slots[token] >= all_slots)
            return 2;
    const long room = (head_dim * SIZE(kind) + 63) / 64 * 64;
    char *normed = malloc((size_t)(room * tokens) + 1);
    if (!normed) return 1;
#pragma omp parallel for schedule(static) num_threads(threads) \
    if (tokens * (q_heads + kv_heads) * head_dim > SMALL)
    for (long token = 0; token < tokens; token++) {
        if (kind) token_of(&h, token, normed + token * room, 1);
        else token_of(&h, token, normed + token * room, 0);
    }
    free(normed);
    return 0;
}
