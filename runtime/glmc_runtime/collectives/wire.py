"""Point-to-point messages between ranks of one process group.

On host memory sends and receives go to the process group itself: ``torch.distributed.isend`` and
``irecv`` do no more, and are slower. On a device the two of an exchange are one batch, without
which NCCL waits for the other side for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

Thunk = Callable[[], Any]
_TAG = 1616
"""Of all messages here: those between two ranks arrive in the order in which they were sent."""


class Wire:
    """Messages to and from the ranks of ``process_group``, by their ranks in it."""

    def __init__(self, process_group: Any, rank: int, size: int) -> None:
        self.process_group = process_group
        self.rank = rank
        self.size = size

    def exchange(
        self, sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]]
    ) -> Thunk:
        """A thunk that sends and receives contiguous tensors, each to or from a rank, and returns
        when all are there (on a device: in the order of the stream). Empty ones are left out."""
        sends = [(tensor, peer) for tensor, peer in sends if tensor.numel()]
        receives = [(tensor, peer) for tensor, peer in receives if tensor.numel()]
        if not sends and not receives:
            return _nothing
        first = (*sends, *receives)[0][0]
        return (
            self._on_host(sends, receives)
            if first.device.type == "cpu"
            else self._batch(sends, receives)
        )

    def _on_host(
        self, sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]]
    ) -> Thunk:
        send, receive = self.process_group.send, self.process_group.recv
        if len(sends) == len(receives) == 1:
            ((sent, to),), ((received, source),) = sends, receives
            sent_list, received_list = [sent], [received]

            def exchange() -> None:
                coming = receive(received_list, source, _TAG)
                going = send(sent_list, to, _TAG)
                coming.wait()
                going.wait()

            return exchange
        calls = [(receive, [tensor], peer) for tensor, peer in receives]
        calls += [(send, [tensor], peer) for tensor, peer in sends]

        def exchange_all() -> None:
            for work in [call(tensors, peer, _TAG) for call, tensors, peer in calls]:
                work.wait()

        return exchange_all

    def _batch(
        self, sends: Sequence[tuple[Tensor, int]], receives: Sequence[tuple[Tensor, int]]
    ) -> Thunk:
        group = self.process_group
        operations = [
            dist.P2POp(call, tensor, dist.get_global_rank(group, peer), group)
            for call, pairs in ((dist.irecv, receives), (dist.isend, sends))
            for tensor, peer in pairs
        ]

        def exchange() -> None:
            for work in dist.batch_isend_irecv(operations):
                work.wait()

        return exchange


def meeting(wire: Wire) -> Thunk:
    """A thunk that returns when all ranks have called theirs: in step k each tells the rank 2**k
    after it and hears from the one 2**k before."""
    token, heard = torch.zeros(1, dtype=torch.uint8), torch.zeros(1, dtype=torch.uint8)
    steps = []
    distance = 1
    while distance < wire.size:
        after, before = (wire.rank + distance) % wire.size, (wire.rank - distance) % wire.size
        steps.append(wire.exchange([(token, after)], [(heard, before)]))
        distance *= 2

    def meet() -> None:
        for step in steps:
            step()

    return meet


def _nothing() -> None:
    """An exchange of empty tensors."""


def add_in_rank_order(own: Tensor, other: Tensor, own_first: bool, out: Tensor) -> Thunk:
    """A thunk for ``out = own + other``, rounded to the dtype, with the tensor of the lower rank
    first: then both sides compute the same bits, those of NaN included."""
    first, second = (own, other) if own_first else (other, own)

    def add() -> None:
        torch.add(first, second, out=out)

    return add
