/* Attention of one new token per sequence over the paged cache.

   Keys and values are read where they lie, each once for all query heads of their kv head. A
   context is cut into chunks, so that threads share a long one; each chunk has its own largest score,
   sum and weighted values, which are joined in the order of the chunks. So bits depend on the length
   of a context alone. Scores and weights are float32 throughout.

   Returns 0, 1 where there is no memory, or 2 where a table names no block or a length no token. */

#include "vectors.h"

#define CHUNK 256 /* tokens */
#if defined(__AVX512F__)
#define TOGETHER 4 /* query heads whose sums fit into the registers, beside each other */
#else
#define TOGETHER 2
#endif

typedef struct {
    const void *keys, *values;
    const int32_t *tables, *lengths;
    long table, q_heads, kv_heads, head_dim, block_size;
    long by_block, by_token, by_head; /* strides of both caches, in elements */
    float scale;
} Attention;

INLINE const void *place_of(const Attention *a, const void *cache, const int32_t *blocks,
                            long position, long head, const int kind) {
    return offset(cache, blocks[position / a->block_size] * a->by_block +
                             position % a->block_size * a->by_token + head * a->by_head, kind);
}

/* scores[q][i]: keys of ``count`` tokens from ``start`` on times spread queries. */
INLINE void score(const Attention *a, const int32_t *blocks, long head, long start, long count,
                  const void *const *queries, long group, float *scores, const int kind) {
    for (long i = 0; i < count;) {
        const long position = start + i;
        const void *key = place_of(a, a->keys, blocks, position, head, kind);
        /* Tokens of one block lie evenly apart. */
        long run = a->block_size - position % a->block_size;
        run = run < count - i ? run : count - i;
        const long stride = a->by_token;
        long at = 0;
        for (; at < run; at += 4) {
            float found[32];
            const long rows = run - at < 4 ? run - at : 4;
            const void *from = offset(key, at * stride, kind);
            long q = 0;
            for (; rows == 4 && q + 4 <= group; q += 4) {
                products(from, stride, queries + q, a->head_dim, found, offset(from, 4 * stride, kind), 4,
                         kind, 4, 4);
                for (int row = 0; row < 4; row++)
                    for (int one = 0; one < 4; one++)
                        scores[(q + one) * CHUNK + i + at + row] = found[row * 4 + one] * a->scale;
            }
            for (; q < group; q++)
                for (long row = 0; row < rows; row++) {
                    products(offset(from, row * stride, kind), stride, queries + q, a->head_dim,
                             found, 0, 0, kind, 1, 1);
                    scores[q * CHUNK + i + at + row] = found[0] * a->scale;
                }
        }
        i += run;
    }
}

/* Scores become weights of the largest; ``state`` gets the largest and the sum. */
INLINE void weigh(float *scores, long count, float *state) {
    float most = scores[0];
    for (long i = 1; i < count; i++) most = scores[i] > most ? scores[i] : most;
    floats sums[4] = {{0}, {0}, {0}, {0}};
    for (long i = 0; i < count; i += LANES) {
        const long left = count - i;
        floats weights = exponentials(load_some(scores, i, left, 0) - most);
        if (left < LANES) {
            float rest[LANES] = {0};
            memcpy(rest, &weights, (size_t)left * sizeof(float));
            memcpy(&weights, rest, sizeof rest);
        }
        store_some(scores, i, left, weights, 0);
        sums[0] += weights;
    }
    float sum[4];
    joined(sums, sum);
    state[0] = most;
    state[1] = sum[0];
}

/* out[q][dim:dim + 4 * LANES] = weights[q] @ values, for HEADS query heads. */
INLINE void add_values(const Attention *a, const int32_t *blocks, long head, long start, long count,
                       const float *weights, float *out, long dim, const int kind, const int HEADS,
                       const int VECTORS) {
    floats sums[TOGETHER][4];
    for (int q = 0; q < HEADS; q++)
        for (int one = 0; one < VECTORS; one++) sums[q][one] = (floats){0};
    for (long i = 0; i < count; i++) {
        const void *value = place_of(a, a->values, blocks, start + i, head, kind);
        floats row[4];
        for (int one = 0; one < VECTORS; one++)
            row[one] = load_some(value, dim + one * LANES, a->head_dim - dim - one * LANES, kind);
        for (int q = 0; q < HEADS; q++)
            for (int one = 0; one < VECTORS; one++) 
                sums[q][one] = fused(all(weights[q * CHUNK + i]), row[one], sums[q][one]);
    }
    for (int q = 0; q < HEADS; q++)
        for (int one = 0; one < VECTORS; one++)
            store_some(out + q * a->head_dim, dim + one * LANES, a->head_dim - dim - one * LANES,
                       sums[q][one], 0);
}

INLINE void values_of(const Attention *a, const int32_t *blocks, long head, long start, long count,
                      const float *weights, long group, float *out, const int kind) {
    for (long q = 0; q < group;) {
        const int heads = group - q >= TOGETHER ? TOGETHER : 1;
        const float *of = weights + q * CHUNK;
        float *to = out + q * a->head_dim;
        for (long dim = 0; dim < a->head_dim;) {
            const int four = a->head_dim - dim > 3 * LANES;
            if (heads == TOGETHER && four)
                add_values(a, blocks, head, start, count, of, to, dim, kind, TOGETHER, 4);
            else if (heads == TOGETHER)
                add_values(a, blocks, head, start, count, of, to, dim, kind, TOGETHER, 1);
            else add_values(a, blocks, head, start, count, of, to, dim, kind, 1, 1);
            dim += heads == TOGETHER && four ? 4 * LANES : LANES;
        }
        q += heads;
    }
}

/* The chunks of a head: each [group, head_dim] of weighted values and [group, 2] of states, whose
   largest scores become factors. */
INLINE void join(float *chunks, long number, long group, long head_dim, void *out, const int kind) {
    const long size = group * (head_dim + 2);
    for (long q = 0; q < group; q++) {
        float *states = chunks + group * head_dim + 2 * q, most = states[0], sum = 0.0f;
        for (long one = 0; one < number; one++)
            if (!(states[one * size] <= most)) most = states[one * size]; /* not a number wins */
        for (long one = 0; one < number; one++) {
            states[one * size] = exponential(states[one * size] - most);
            sum += states[one * size + 1] * states[one * size];
        }
        for (long at = 0; at < head_dim; at += LANES) {
            floats total = {0};
            for (long one = 0; one < number; one++)
                total += load_some(chunks + one * size + q * head_dim, at, head_dim - at, 0) *
                         states[one * size];
            store_some(out, q * head_dim + at, head_dim - at, total / sum, kind);
        }
    }
}

INLINE int attention_of(const Attention *a, const void *query, void *out, long sequences,
                        int threads, const int kind) {
    const long group = a->q_heads / a->kv_heads, size = group * (a->head_dim + 2);
    const long row = spread_bytes(a->head_dim, kind), pairs = sequences * a->kv_heads;
    long *first = malloc((size_t)(pairs + 1) * sizeof(long)), tokens = 0;
    if (!first) return 1;
    first[0] = 0;
    for (long pair = 0; pair < pairs; pair++) {
        const long length = a->lengths[pair / a->kv_heads];
        first[pair + 1] = first[pair] + (length + CHUNK - 1) / CHUNK;
        tokens += length;
    }
    const long items = first[pairs];
    long *owners = malloc((size_t)(items + 1) * sizeof(long));
    float *chunks = malloc((size_t)(items * size) * sizeof(float) + 1);
    int failed = !owners || !chunks;
    for (long pair = 0; !failed && pair < pairs; pair++)
        for (long item = first[pair]; item < first[pair + 1]; item++) owners[item] = pair;
#pragma omp parallel num_threads(threads) if (!failed && tokens * group * a->head_dim > SMALL)
    {
        char *spread = failed ? 0 : malloc((size_t)(group * row) + BYTES);
        const void **queries = malloc((size_t)group * sizeof(void *));
        float *scores = malloc((size_t)(group * CHUNK) * sizeof(float));
        if (!spread || !queries || !scores) {
#pragma omp atomic write
            failed = 1;
        }
#pragma omp barrier
        if (!failed) {
#pragma omp for schedule(static)
            for (long item = 0; item < items; item++) {
                const long pair = owners[item], sequence = pair / a->kv_heads, head = pair % a->kv_heads;
                const int32_t *blocks = a->tables + sequence * a->table;
                const long start = (item - first[pair]) * CHUNK, left = a->lengths[sequence] - start;
                const long count = left < CHUNK ? left : CHUNK;
                for (long q = 0; q < group; q++) {
                    const long at = (sequence * a->q_heads + head * group + q) * a->head_dim;
                    queries[q] = spread + q * row;
                    spread_row(offset(query, at, kind), spread + q * row, a->head_dim, kind);
                }
                float *chunk = chunks + item * size;
                score(a, blocks, head, start, count, queries, group, scores, kind);
                for (long q = 0; q < group; q++)
                    weigh(scores + q * CHUNK, count, chunk + group * a->head_dim + 2 * q);
                values_of(a, blocks, head, start, count, scores, group, chunk, kind);
            }
#pragma omp for schedule(static)
            for (long pair = 0; pair < pairs; pair++)
                join(chunks + first[pair] * size, first[pair + 1] - first[pair], group, a->head_dim,
                     offset(out, pair * group * a->head_dim, kind), kind);
        }
        free(spread);
        free(queries);
        free(scores);
    }
    free(first);
    free(owners);
    free(chunks);
    return failed;
}

/* query and out [sequences, q_heads, head_dim]; caches of ``blocks`` blocks; tables [sequences, table], lengths [sequences]. */
int decode_attention(const void *query, const void *keys, const void *values, void *out,
                     const int32_t *tables, const int32_t *lengths, long sequences, long table,
                     long blocks, long q_heads, long kv_heads, long head_dim, long block_size,
                     long by_block, long by_token, long by_head, float scale, int kind, int threads) {
    Attention a = {.keys = keys, .values = values, .tables = tables, .lengths = lengths,
                   .table = table, .q_heads = q_heads, .kv_heads = kv_heads, .head_dim = head_dim,
                   .block_size = block_size,
                   .by_block = by_block, .by_token = by_token, .by_head = by_head, .scale = scale};
    for (long one = 0; one < sequences; one++) {
        if (lengths[one] < 1 || lengths[one] > table * block_size) return 2;
        for (long at = 0; at * block_size < lengths[one]; at++)
            if (tables[one * table + at] < 0 || tables[one * table + at] >= blocks) return 2;
    }
    return kind ? attention_of(&a, query, out, sequences, threads, 1)
                : attention_of(&a, query, out, sequences, threads, 0);
}
