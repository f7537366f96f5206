/* All kernels of a decode step that are ours: one library, compiled once. */

#include "few_rows.c"
#include "rows.c"
#include "router.c"
#include "attention.c"
#include "calls.c"
