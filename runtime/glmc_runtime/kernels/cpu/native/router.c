/* The router of experts: float32 sums of products, sigmoid, biased choice, weights; see
   ``cpu/moe_gate.py``. Functions return 0, or 1 where there is no memory. */

#include "topk.c"
#include "vectors.h"

#define ROUTED 8 /* tokens that one thread chooses for */

typedef struct {
    const float *bias;
    float *scores, *choice, *weights; /* [tokens, experts] twice, [tokens, top_k] */
    int64_t *ids;
    long experts, top_k, groups, top_groups;
    float fill, eps, scale;
    int normalize;
} Router;

/* Experts first:stop times rows of x: sums of one chain each, as in ``few_rows.c``. */
INLINE void logits_of(const void *weight, const void *const *x, long tokens, long first, long stop,
                      long experts, long hidden, float *logits, const int kind) {
    float totals[32];
    while (first < stop) {
        const long wide = stop - first >= 4 ? 4 : 1;
        const void *rows = offset(weight, first * hidden, kind);
        const char *next = offset(weight, (first + wide) * hidden, kind);
        for (long token = 0; token < tokens;) {
            const long high = tokens - token >= 4 ? 4 : 1;
            const int lines = token == 0 ? (int)wide : 0;
            const void *const *of = x + token;
            if (wide == 4 && high == 4) products(rows, hidden, of, hidden, totals, next, lines, kind, 4, 4);
            else if (wide == 4) products(rows, hidden, of, hidden, totals, next, lines, kind, 4, 1);
            else if (high == 4) products(rows, hidden, of, hidden, totals, next, lines, kind, 1, 4);
            else products(rows, hidden, of, hidden, totals, next, lines, kind, 1, 1);
            for (long one = 0; one < wide; one++)
                for (long at = 0; at < high; at++)
                    logits[(token + at) * experts + first + one] = totals[one * high + at];
            token += high;
        }
        first += wide;
    }
}

/* Scores of all but the best groups, by the sum of their two best, become the fill. */
static void keep_best_groups(const Router *r, float *choice, Scored *room) {
    const long size = r->experts / r->groups;
    for (long group = 0; group < r->groups; group++) {
        const float *of = choice + group * size;
        float best = of[0], second = -INFINITY;
        int none = of[0] != of[0];
        for (long at = 1; at < size; at++) {
            none |= of[at] != of[at];
            if (of[at] > best) {
                second = best;
                best = of[at];
            } else if (of[at] > second) {
                second = of[at];
            }
        }
        room[group] = (Scored){none ? NAN : best + second, group};
    }
    choose(room, r->groups, r->top_groups);
    for (long dropped = r->top_groups; dropped < r->groups; dropped++)
        for (long at = 0; at < size; at++) choice[room[dropped].at * size + at] = r->fill;
}

static void route(const Router *r, long token, Scored *room) {
    float *scores = r->scores + token * r->experts, *choice = r->choice + token * r->experts;
    float *weights = r->weights + token * r->top_k, sum = 0.0f;
    for (long at = 0; at < r->experts; at += LANES) {
        const long left = r->experts - at;
        const floats score = 1.0f / (1.0f + exponentials(-load_some(scores, at, left, 0)));
        store_some(scores, at, left, score, 0);
        store_some(choice, at, left, score + load_some(r->bias, at, left, 0), 0);
    }
    if (r->groups != r->top_groups) keep_best_groups(r, choice, room);
    for (long at = 0; at < r->experts; at++) room[at] = (Scored){choice[at], at};
    choose(room, r->experts, r->top_k);
    for (long one = 0; one < r->top_k; one++) {
        r->ids[token * r->top_k + one] = room[one].at;
        weights[one] = scores[room[one].at];
        sum += weights[one];
    }
    sum += r->eps;
    for (long one = 0; one < r->top_k; one++)
        weights[one] = (r->normalize ? weights[one] / sum : weights[one]) * r->scale;
}

INLINE int routed(const Router *r, const void *x, const void *weight, long tokens, long hidden,
                  int threads, const int kind) {
    const long row = spread_bytes(hidden, kind), teams = (tokens + ROUTED - 1) / ROUTED;
    char *spread = malloc((size_t)(tokens * row) + BYTES);
    const void **rows = malloc((size_t)tokens * sizeof(void *));
    Scored *room = malloc((size_t)(teams * r->experts) * sizeof(Scored));
    const int failed = !spread || !rows || !room;
    for (long token = 0; !failed && token < tokens; token++) {
        rows[token] = spread + token * row;
        spread_row(offset(x, token * hidden, kind), spread + token * row, hidden, kind);
    }
#pragma omp parallel for schedule(static) num_threads(threads) \
    if (!failed && tokens * r->experts * hidden > SMALL)
    for (long first = 0; first < (failed ? 0 : r->experts); first += 4)
        logits_of(weight, rows, tokens, first, first + 4 < r->experts ? first + 4 : r->experts,
                  r->experts, hidden, r->scores, kind);
#pragma omp parallel for schedule(static) num_threads(threads) if (!failed && teams > 1)
    for (long team = 0; team < (failed ? 0 : teams); team++)
        for (long token = team * ROUTED; token < tokens && token < (team + 1) * ROUTED; token++)
            route(r, token, room + team * r->experts);
    free(spread);
    free(rows);
    free(room);
    return failed;
}

/* x [tokens, hidden] and weight [experts, hidden] -> weights and ids [tokens, top_k]; scores and
   choice are work space [tokens, experts], the first of which keeps the sigmoid. */
int rows_router(const void *x, const void *weight, const float *bias, float *scores, float *choice,
                float *weights, int64_t *ids, long tokens, long hidden, long experts, long top_k,
                long groups, long top_groups, float fill, int normalize, float eps, float scale,
                int kind, int threads) {
    const Router r = {bias, scores, choice, weights, ids, experts, top_k, groups, top_groups,
                      fill, eps, scale, normalize};
    if (tokens == 0) return 0;
    return kind ? routed(&r, x, weight, tokens, hidden, threads, 1)
                : routed(&r, x, weight, tokens, hidden, threads, 0);
}
