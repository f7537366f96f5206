/* Several calls of the functions here as one: without the caller's Python between them. */

#define COUNT(array) (long)(sizeof(array) / sizeof((array)[0]))
/* An element whose place is checked when this is compiled. */
#define AT(array, place) ((array)[(place) + 0 * sizeof(char[(place) < COUNT(array) ? 1 : -1])])
#define P(place) AT(call->pointers, place)
#define L(place) AT(call->longs, place)
#define F(place) AT(call->floats, place)

/* In the order of FUNCTIONS of decode_library.py. */
enum { PRODUCT, EXPERTS, NORM, ADD, GATED, ROUTER, HEADS, ATTENTION };

/* The arguments of one call, by type and in the order of its function. */
typedef struct {
    void *pointers[9];
    long longs[12];
    float floats[3];
    int function, kind;
} Call;

const long call_size = sizeof(Call);

static int run_call(const Call *call, int threads) {
    const int kind = call->kind;
    switch (call->function) {
    case PRODUCT:
        return few_rows_product(P(0), P(1), P(2), P(3), L(0), L(1), L(2), kind, threads);
    case EXPERTS:
        return few_rows_experts(P(0), P(1), P(2), P(3), P(4), P(5), P(6), P(7), L(0), L(1), L(2),
                                L(3), L(4), P(8), kind, threads);
    case NORM:
        return rows_norm(P(0), P(1), P(2), P(3), P(4), L(0), L(1), F(0), kind, threads);
    case ADD:
        return rows_add(P(0), P(1), P(2), L(0), kind, threads);
    case GATED:
        return rows_gated(P(0), P(1), P(2), L(0), L(1), L(2), kind, threads);
    case ROUTER:
        return rows_router(P(0), P(1), P(2), P(3), P(4), P(5), P(6), L(0), L(1), L(2), L(3), L(4),
                           L(5), F(0), L(6) != 0, F(1), F(2), kind, threads);
    case HEADS:
        return rows_heads(P(0), P(1), P(2), P(3), P(4), P(5), P(6), P(7), P(8), L(0), L(1), L(2),
                          L(3), L(4), L(5), L(6), L(7), L(8), L(9), L(10), L(11) != 0, F(0), kind,
                          threads);
    case ATTENTION:
        return decode_attention(P(0), P(1), P(2), P(3), P(4), P(5), L(0), L(1), L(2), L(3), L(4),
                                L(5), L(6), L(7), L(8), L(9), F(0), kind, threads);
    }
    return 3; /* no function that is known here */
}

/* One call after the other, until one fails: what it returned, and ``failed`` is its place. */
int run_calls(const Call *calls, long count, int threads, long *failed) {
    for (long one = 0; one < count; one++) {
        const int reason = run_call(&calls[one], threads);
        if (reason) {
            *failed = one;
            return reason;
        }
    }
    return 0;
}
