/* Which blocks of a weight a thread takes: a long stretch of its own, as memory is read best by few
   readers that each go far, and then short ones of what is left, so that none waits at the end for one
   that was slower. */

#ifndef GLMC_STRETCHES
#define GLMC_STRETCHES

#include "numbers.h"

#define SHORT_STRETCH (128L << 10) /* bytes */

/* A compiler may come without the header of OpenMP. */
int omp_get_thread_num(void);
int omp_get_num_threads(void);

typedef struct {
    long first, stop;
} Stretch;

/* How many blocks each thread of the team has for its own; they come first, by number of the thread. */
INLINE long own_blocks(long blocks) {
    const long threads = omp_get_num_threads();
    return threads == 1 ? blocks : blocks * 7 / (8 * threads);
}

INLINE Stretch own_stretch(long blocks) {
    const long own = own_blocks(blocks), first = omp_get_thread_num() * own;
    return (Stretch){first, first + own};
}

/* The next stretch of those that are nobody's own, ``taken`` blocks of which are taken; whether there
   is one. */
INLINE int shared_stretch(Stretch *stretch, long blocks, long block_bytes, long *taken) {
    /* Blocks of no bytes, rows of no elements, are as good as any. */
    const long wide = block_bytes < 1 || SHORT_STRETCH < block_bytes ? 1 : SHORT_STRETCH / block_bytes;
    const long own = own_blocks(blocks) * omp_get_num_threads();
    const long first = own + __atomic_fetch_add(taken, wide, __ATOMIC_RELAXED);
    *stretch = (Stretch){first, first + wide < blocks ? first + wide : blocks};
    return first < blocks;
}

#endif
