"""Names of msprobe's dumps as keys."""

from __future__ import annotations

import pytest

from glmc.check.align.readers.msprobe_names import Calls, entry_key, file_key
from glmc_runtime.format.tensor_key import TensorKey


@pytest.mark.parametrize(
    ("stem", "key"),
    [
        (
            "Module.model.layers.0.mlp.Glm4MoeMLP.forward.0.output.0",
            "model.layers.0.mlp.Glm4MoeMLP.0.forward_output.0",
        ),
        ("Module.conv1.Conv2d.forward.2.input.1.1", "conv1.Conv2d.2.forward_input.1.1"),
        ("Module.conv1.Conv2d.forward.0.kwargs.scale", "conv1.Conv2d.0.forward_input.scale"),
        ("Module.conv1.Conv2d.forward.0.parameters.bias", "conv1.Conv2d.0.forward_params.bias"),
        ("Cell.relu.ReLU.forward.0.input.0", "relu.ReLU.0.forward_input.0"),
        ("Torch.linear.3.forward.input.0", "linear.3.forward_input.0"),
        ("Functional.silu.5.forward.output", "silu.5.forward_output.0"),
        ("Module.Net.forward.0.output.0", "Net.0.forward_output.0"),
    ],
)
def test_a_file_is_named_by_what_it_holds(stem: str, key: str) -> None:
    assert str(file_key(stem)) == key


@pytest.mark.parametrize(
    "stem",
    [
        "Module.conv1.Conv2d.backward.0.input.0",
        "Module.conv1.Conv2d.parameters_grad.weight",
        "Functional.linear.5.backward.output",
        "weights",
        "Tensor.permute.1.forward",
    ],
)
def test_what_is_no_tensor_of_a_forward_call_has_no_key(stem: str) -> None:
    assert file_key(stem) is None


def test_an_op_is_one_of_the_module_that_called_it() -> None:
    parent = "Module.model.layers.0.mlp.MLP.forward.0"
    key = entry_key("Functional.silu.7.forward", "forward_output", "0", parent)
    assert key == TensorKey("model.layers.0.mlp", "silu", 7, "forward_output", "0")


def counted(calls: Calls, entry: str) -> int:
    key = entry_key(entry, "forward_output", "0", calls.parent(entry))
    assert key is not None
    return calls.counted(entry, key).call


def test_calls_are_counted_within_the_parent() -> None:
    """As torch_xray counts them: the second norm of a block is LayerNorm.1, whatever its own."""
    block = "Module.blocks.0.Block.forward.{}".format
    calls = Calls(
        {
            block(0): None,
            **{f"Module.blocks.0.norm{each}.LayerNorm.forward.0": block(0) for each in (1, 2)},
            **{f"Module.blocks.0.norm{each}.LayerNorm.forward.1": block(1) for each in (1, 2)},
        }
    )
    names = [f"Module.blocks.0.norm{each}.LayerNorm.forward" for each in (1, 2)]
    assert [counted(calls, f"{name}.{call}") for call in (0, 1) for name in names] == [0, 1, 0, 1]
    assert counted(calls, f"{names[1]}.0") == 1  # of another of its tensors


def test_without_a_structure_the_path_says_who_the_parent_is() -> None:
    calls = Calls({})
    names = ("a.norm1", "a.norm2", "b.norm1")
    assert [counted(calls, f"Module.{each}.LayerNorm.forward.0") for each in names] == [0, 1, 0]
