"""A barrier of the programs of one number of all ranks inside a kernel, by flags that count uses.

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
def last_arrived(flags, is_rank, number):
    """How far the last rank is beyond use ``number``: negative while it is not there; 0 at most."""
    arrived = tl.atomic_add(flags, 0, mask=is_rank, sem="acquire", scope="sys")
    return tl.min(tl.where(is_rank, arrived - number, 0), axis=0)


@triton.jit
def barrier(
    peers,
    own,
    rank,
    epoch,
    PHASE: tl.constexpr,
    PROGRAMS: tl.constexpr,
    RANKS: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Return when this program of every rank is at barrier ``PHASE`` of use ``epoch`` or further.
    ``peers``: the address of each rank's memory, ``own`` that of this rank's."""
    lane = tl.arange(0, WIDE)
    is_rank = lane < RANKS
    theirs = tl.zeros([WIDE], dtype=tl.int64)
    for peer in tl.static_range(RANKS):
        theirs = tl.where(lane == peer, peers[peer], theirs)
    row = (PHASE * PROGRAMS + tl.program_id(0)) * RANKS
    signals = theirs.to(tl.pointer_type(tl.int64)) + row + rank
    arrivals = own.to(tl.pointer_type(tl.int64)) + row + lane
    number = tl.zeros([WIDE], dtype=tl.int64) + epoch
    tl.debug_barrier()  # the stores of all threads, before the flag of one
    tl.atomic_xchg(signals, number, mask=is_rank, sem="release", scope="sys")
    last = last_arrived(arrivals, is_rank, number)
    while last < 0:
        last = last_arrived(arrivals, is_rank, number)
    tl.debug_barrier()  # the flags of a few threads, before the loads of all


@triton.jit
def count_use(state, epoch):
    """The last program of a kernel counts the use, when all have read how many there were."""
    tl.debug_barrier()
    before = tl.atomic_add(state + 1, 1, sem="acq_rel", scope="gpu")
    if before == tl.num_programs(0) - 1:
        tl.store(state + 1, 0)
        tl.store(state, epoch)
