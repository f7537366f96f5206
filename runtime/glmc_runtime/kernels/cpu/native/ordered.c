/* Sums whose order follows from their length alone: not from the number of rows, a row's place among
   them, the number of threads or the processor.

   A sum has eight lanes. Each element goes to the lane that its number says, in ascending order, by
   one multiply-add that rounds once; the lanes are joined by one tree. This file is compiled without contraction, so
   that each operation is what is written here: vectors and the plain loop give the same bits.

   ``kind`` is 0 for float32 and 1 for bfloat16. Functions return 0, 1 where there is no memory, or 2
   where an index is beyond what it counts. */

#include <math.h>
#include <stdlib.h>

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

/* ---- products ------------------------------------------------------------------------------- */

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
            for (long left = p->segments; left > 1; left /= 2)
                for (long pair = 0; pair < left / 2; pair++)
                    parts[pair] = parts[2 * pair] + parts[2 * pair + 1];
            float total = parts[0];
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

/* ---- rows ----------------------------------------------------------------------------------- */

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
            for (long left = segments; left > 1; left /= 2)
                for (long pair = 0; pair < left / 2; pair++)
                    parts[pair] = parts[2 * pair] + parts[2 * pair + 1];
            if (out_kind) store(out, row * n + at, parts[0], 1);
            else store(out, row * n + at, parts[0], 0);
        }
    return 0;
}

/* ---- attention ------------------------------------------------------------------------------ */

typedef struct {
    const void *query, *keys, *values;
    void *out;
    const int32_t *tables, *starts, *lengths; /* [sequences, table], [sequences + 1], [sequences] */
    long sequences, table, q_heads, kv_heads, head_dim, block_size;
    long by_block, by_token, by_head; /* strides of both caches, in elements */
    float scale;
} Attention;

/* A row of a cache in float32, zeros behind it up to whole lanes. */
INLINE void wide_row(const void *row, float *wide, long size, long padded, const int kind) {
    for (long at = 0; at < size; at++) wide[at] = load(row, at, kind);
    for (long at = size; at < padded; at++) wide[at] = 0.0f;
}

INLINE long place_of(const Attention *a, const int32_t *blocks, long position, long head) {
    return blocks[position / a->block_size] * a->by_block +
           position % a->block_size * a->by_token + head * a->by_head;
}

/* One token's queries of one kv head. Scores of all keys, their largest, then the weighted values in
   the order of the keys: blocks of the cache, chunks of a prompt and other sequences are no part of
   it. ``work``: [group * (padded + padded + visible) + padded]. */
INLINE void attend(const Attention *a, long sequence, long token, long head, long visible,
                   float *work, const int kind) {
    const long group = a->q_heads / a->kv_heads, size = a->head_dim;
    const long padded = (size + LANES - 1) / LANES * LANES;
    const int32_t *blocks = a->tables + sequence * a->table;
    float *row = work, *queries = row + padded, *sums = queries + group * padded;
    float *scores = sums + group * padded;
    const long first = (token * a->q_heads + head * group) * size;
    for (long one = 0; one < group; one++)
        wide_row(offset(a->query, first + one * size, kind), queries + one * padded, size, padded, kind);
    for (long position = 0; position < visible; position++) {
        wide_row(offset(a->keys, place_of(a, blocks, position, head), kind), row, size, padded, kind);
        for (long one = 0; one < group; one++) {
            floats sum = {0};
            for (long at = 0; at < padded; at += LANES)
                sum = fused(*(const floats *)(row + at),
                            *(const floats *)(queries + one * padded + at), sum);
            scores[one * visible + position] = joined(sum) * a->scale;
        }
    }
    for (long one = 0; one < group; one++) {
        float *of = scores + one * visible, most = of[0], lanes[LANES] = {0};
        for (long position = 1; position < visible; position++)
            most = of[position] > most ? of[position] : most;
        for (long position = 0; position < visible; position++)
            of[position] = exponential(of[position] - most);
        for (long position = 0; position < visible; position++)
            lanes[position % LANES] += of[position];
        floats sum;
        memcpy(&sum, lanes, sizeof sum);
        const float whole = joined(sum);
        for (long position = 0; position < visible; position++) of[position] /= whole;
    }
    memset(sums, 0, (size_t)(group * padded) * sizeof(float));
    for (long position = 0; position < visible; position++) {
        wide_row(offset(a->values, place_of(a, blocks, position, head), kind), row, size, padded, kind);
        for (long one = 0; one < group; one++) {
            const float weight = scores[one * visible + position];
            const floats all = {weight, weight, weight, weight, weight, weight, weight, weight};
            float *to = sums + one * padded;
            for (long at = 0; at < padded; at += LANES)
                *(floats *)(to + at) = fused(all, *(const floats *)(row + at), *(floats *)(to + at));
        }
    }
    for (long one = 0; one < group; one++)
        for (long at = 0; at < size; at++)
            store(a->out, first + one * size + at, sums[one * padded + at], kind);
}

/* Whether an index is beyond what it counts: a query of no token, a token of no block. Each sequence
   has at least as many tokens as queries; of one without queries nothing is read. */
INLINE int is_beyond(const Attention *a, long tokens, long blocks) {
    if (a->starts[0] != 0 || a->starts[a->sequences] > tokens) return 1;
    for (long one = 0; one < a->sequences; one++) {
        const long queries = (long)a->starts[one + 1] - a->starts[one], length = a->lengths[one];
        if (queries == 0) continue;
        if (queries < 0 || length < queries || length > a->table * a->block_size) return 1;
        for (long at = 0; at * a->block_size < length; at++) {
            const int32_t block = a->tables[one * a->table + at];
            if (block < 0 || block >= blocks) return 1;
        }
    }
    return 0;
}

/* Causal attention over the paged caches, of ``blocks`` blocks. query and out [all_tokens, q_heads,
   head_dim]; the queries starts[s]:starts[s + 1] are the last tokens of the lengths[s] of sequence s. */
int ordered_attention(const void *query, const void *keys, const void *values, void *out,
                      const int32_t *tables, const int32_t *starts, const int32_t *lengths,
                      long all_tokens, long sequences, long table, long blocks, long q_heads,
                      long kv_heads, long head_dim, long block_size, long by_block, long by_token,
                      long by_head, float scale, int kind, int threads) {
    const Attention a = {query, keys, values, out, tables, starts, lengths, sequences, table,
                         q_heads, kv_heads, head_dim, block_size, by_block, by_token, by_head, scale};
    if (is_beyond(&a, all_tokens, blocks)) return 2;
    const long tokens = starts[sequences], group = q_heads / kv_heads;
    const long padded = (head_dim + LANES - 1) / LANES * LANES;
    long longest = 0, keys_read = 0;
    for (long one = 0; one < sequences; one++) {
        const long queries = starts[one + 1] - starts[one];
        if (queries && lengths[one] > longest) longest = lengths[one];
        keys_read += queries * lengths[one];
    }
    if (tokens == 0) return 0;
    int32_t *owner = malloc((size_t)tokens * sizeof(int32_t));
    if (!owner) return 1;
    for (long one = 0; one < sequences; one++)
        for (long token = starts[one]; token < starts[one + 1]; token++) owner[token] = (int32_t)one;
    int failed = 0;
#pragma omp parallel num_threads(threads) if (keys_read * q_heads * head_dim > SMALL)
    {
        float *work = malloc((size_t)(padded + group * (2 * padded + longest) + LANES) * sizeof(float));
        if (!work) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp for schedule(dynamic, 1)
        for (long item = 0; item < tokens * kv_heads; item++) {
            const long token = item / kv_heads, head = item % kv_heads, sequence = owner[token];
            const long visible = lengths[sequence] - (starts[sequence + 1] - 1 - token);
            if (!work) continue;
            if (kind) attend(&a, sequence, token, head, visible, work, 1);
            else attend(&a, sequence, token, head, visible, work, 0);
        }
        free(work);
    }
    free(owner);
    return failed;
}
