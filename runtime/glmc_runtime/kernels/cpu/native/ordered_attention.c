/* Attention over the paged caches in a fixed order of sums (see ordered.c). */

#include <stdlib.h>

#include "lanes.h"

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
