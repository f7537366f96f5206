"""How the programs of one number of all ranks meet inside a kernel, by flags that count uses.

A program stores the number of the use in its flag in every rank's memory (release, system scope:
what the program wrote before is there for whoever sees the flag), then waits until the flags of
all ranks in its own memory have got there (acquire). Flags only grow, so a rank that is ahead is
as good as one that is there. They have 64 bits, which no count of uses exceeds.
"""

import triton
import triton.language as tl


@triton.jit
def slot_of(address, like, epoch, START: tl.constexpr, CAPACITY: tl.constexpr):
    """A pointer, of the type of ``like``, to the slot that use ``epoch`` takes in a rank's memory
    at ``address``."""
    place = address + START + (epoch & 1) * CAPACITY
    return tl.multiple_of(place.to(like.dtype), 16)


@triton.jit
def least_ahead(flags, known, number):
    """How far the last rank is beyond use ``number``: negative while it is not there; 0 at most."""
    heard = tl.atomic_add(flags, 0, mask=known, sem="acquire", scope="sys")
    return tl.min(tl.where(known, heard - number, 0), axis=0)


@triton.jit
def meet(
    peers,
    own,
    rank,
    epoch,
    PHASE: tl.constexpr,
    PROGRAMS: tl.constexpr,
    RANKS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Return when this program of every rank is in meeting ``PHASE`` of use ``epoch`` or further.
    ``peers``: the address of each rank's memory, ``own`` that of this rank's."""
    lane = tl.arange(0, WIDE)
    known = lane < RANKS
    theirs = tl.zeros([WIDE], dtype=tl.int64)
    for peer in tl.static_range(RANKS):
        theirs = tl.where(lane == peer, peers[peer], theirs)
    row = (PHASE * PROGRAMS + tl.program_id(0)) * RANKS
    told = theirs.to(tl.pointer_type(tl.int64)) + row + rank
    heard = own.to(tl.pointer_type(tl.int64)) + row + lane
    number = tl.zeros([WIDE], dtype=tl.int64) + epoch
    tl.debug_barrier()  # the stores of all threads, before the flag of one
    tl.atomic_xchg(told, number, mask=known, sem="release", scope="sys")
    behind = least_ahead(heard, known, number)
    while behind < 0:
        behind = least_ahead(heard, known, number)
    tl.debug_barrier()  # the flags of a few threads, before the loads of all


@triton.jit
def leave(state, epoch):
    """The last program of a kernel counts the use, when all have read how many there were."""
    tl.debug_barrier()
    before = tl.atomic_add(state + 1, 1, sem="acq_rel", scope="gpu")
    if before == tl.num_programs(0) - 1:
        tl.store(state + 1, 0)
        tl.store(state, epoch)
