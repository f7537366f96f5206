"""What a rank says arrives as it was said, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from glmc_runtime.errors import RankError
from glmc_runtime.record.plan_values import NamedTensor, RecordedValue
from glmc_runtime.record.ranks import wire
from glmc_runtime.record.ranks.wire import ValuesToController, read_message
from tests.runtime.record.ranks.ranked import Messages
from tests.runtime.record.recorded import same_bits
from tests.runtime.record.test_shares import KEY, VALUE

EACH = RecordedValue(VALUE, (), (NamedTensor((KEY,), {}),))


def told(tensor: Tensor) -> Messages:
    channel = Messages()
    ValuesToController(channel).take(EACH, tensor)
    return channel


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12, dtype=torch.float32).view(3, 4),
        torch.arange(12, dtype=torch.float32).view(3, 4).T[1:],
        torch.full((2, 3), torch.nan, dtype=torch.bfloat16),
        torch.tensor(7),
        torch.tensor([True, False]),
        torch.zeros(0, 5, dtype=torch.float16),
    ],
    ids=["plain", "view", "bfloat16", "scalar", "bool", "empty"],
)
@pytest.mark.parametrize("piece", [1 << 26, 5])
def test_a_tensor_is_whole_however_it_is_cut(
    tensor: Tensor, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "_PIECE", piece)
    message, found = read_message(told(tensor))
    assert (message["kind"], message["name"]) == ("value", str(KEY))
    assert found is not None
    assert found.shape == tensor.shape
    assert same_bits(found, tensor.contiguous())


def test_other_messages_have_no_tensor() -> None:
    channel = Messages()
    rank = ValuesToController(channel)
    rank.begin(2, [3, 1])
    rank.run("decode", 1)
    rank.replayed(4, 2)
    rank.describe({"tokens": [[1]]})
    assert [read_message(channel) for _ in range(4)] == [
        ({"kind": "begin", "step": 2, "lengths": [3, 1]}, None),
        ({"kind": "run", "phase": "decode", "replays": 1}, None),
        ({"kind": "replayed", "tokens": 4, "sequences": 2}, None),
        ({"kind": "facts", "facts": {"tokens": [[1]]}}, None),
    ]


def test_a_tensor_of_other_bytes_is_refused() -> None:
    channel = Messages()
    first = told(torch.zeros(4))
    channel.send(first.receive())
    channel.send(bytes(17))
    with pytest.raises(RankError, match="not whole") as caught:
        read_message(channel)
    assert (caught.value.expected, caught.value.found) == (f"16 bytes of {KEY}", "17")
