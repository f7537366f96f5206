/* Sums whose order follows from their length alone: not from the number of rows, a row's place among
   them, the number of threads or the processor.

   A sum has eight lanes. Each element goes to the lane that its number says, in ascending order, by
   one multiply-add that rounds once; the lanes are joined by one tree. All of it is compiled without contraction, so
   that each operation is what is written here: vectors and the plain loop give the same bits.

   ``kind`` is 0 for float32 and 1 for bfloat16. Functions return 0, 1 where there is no memory, or 2
   where an index is beyond what it counts. */

#include "ordered_product.c"
#include "ordered_rows.c"
#include "ordered_attention.c"
