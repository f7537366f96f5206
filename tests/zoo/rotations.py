"""Spellings of tables and rotations, and twists that look like them."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.zoo.attention import Block, Parts, neox, partial, plain_table


def _angles(block: Block, positions: Tensor) -> Tensor:
    return positions[..., None].float() * block.frequencies


def half_table(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    angles = _angles(block, positions)
    return angles.cos(), angles.sin()


def matmul_table(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Up to transformers 5.16."""
    frequencies = block.frequencies[None, :, None].float().expand(positions.shape[0], -1, 1)
    angles = (frequencies @ positions[:, None, :].float()).transpose(1, 2)
    angles = torch.cat((angles, angles), -1)
    return angles.cos() * 1.0, angles.sin() * 1.0


def scaled_table(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = plain_table(block, positions)
    return cos * 1.25, sin * 1.25


def interleaved_table(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = half_table(block, positions)
    return cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)


def multiaxis_table(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Three rows of positions that are one and the same, as text has them."""
    rows = positions[None].expand(3, -1, -1)
    angles = rows[..., None].float() * block.frequencies
    parts = angles.split([1, 1, block.sizes.rotary_dim // 2 - 2], -1)
    angles = torch.cat([part[index] for index, part in enumerate(parts)], -1)
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def interleaved(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)

    def rotated(part: Tensor) -> Tensor:
        turned = torch.stack((-part[..., 1::2], part[..., 0::2]), -1).flatten(-2)
        return part * cos + turned * sin

    return partial(block, x, rotated)


def interleaved_from_halves(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The spelling of glm and glm4: tables cut in half and repeated."""
    width = cos.shape[-1] // 2
    cos, sin = (each[..., :width].repeat_interleave(2, -1) for each in (cos, sin))
    return interleaved(block, x, cos, sin)


def neox_without_neg(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)

    def rotated(part: Tensor) -> Tensor:
        first, second = part.chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    return partial(block, x, rotated)


def interleaved_without_neg(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)

    def rotated(part: Tensor) -> Tensor:
        first, second = part[..., 0::2], part[..., 1::2]
        pairs = torch.stack((first * cos - second * sin, second * cos + first * sin), -1)
        return pairs.flatten(-2)

    return partial(block, x, rotated)


def neox_token_major(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotated before the transpose, with the operands the other way round."""
    cos, sin = cos.unsqueeze(2), sin.unsqueeze(2)

    def rotated(part: Tensor) -> Tensor:
        first, second = part.chunk(2, -1)
        return cos * part + sin * torch.cat((-second, first), -1)

    return partial(block, x, rotated)


# name -> (parts, interleaved, scaling)
SPELLINGS: dict[str, tuple[Parts, bool, float]] = {
    "neox": (Parts(), False, 1.0),
    "neox_matmul": (Parts(table=matmul_table), False, 1.0),
    "neox_scaled": (Parts(table=scaled_table), False, 1.25),
    "neox_without_neg": (Parts(table=half_table, rotate=neox_without_neg), False, 1.0),
    "neox_token_major": (Parts(rotate=neox_token_major, heads_first=False), False, 1.0),
    "neox_three_equal_rows": (Parts(table=multiaxis_table), False, 1.0),
    "interleaved": (Parts(table=interleaved_table, rotate=interleaved), True, 1.0),
    "interleaved_halves": (Parts(rotate=interleaved_from_halves), True, 1.0),
    "interleaved_halves_matmul": (
        Parts(table=matmul_table, rotate=interleaved_from_halves),
        True,
        1.0,
    ),
    "interleaved_without_neg": (
        Parts(table=half_table, rotate=interleaved_without_neg),
        True,
        1.0,
    ),
}


def _trained(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    angles = positions[..., None].float() * block.trained
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def _learned(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    return block.learned[positions], block.learned[positions + 1]


def _shifted(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    angles = _angles(block, positions) + 0.01
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def _scaled_by_a_tensor(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = plain_table(block, positions)
    return cos * block.factor, sin * block.factor


def _scaled_apart(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = plain_table(block, positions)
    return cos * 2.0, sin


def _different_rows(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    rows = torch.stack((positions, positions + 1, positions // 2))
    angles = rows[..., None].float() * block.frequencies
    parts = angles.split([1, 1, block.sizes.rotary_dim // 2 - 2], -1)
    angles = torch.cat([part[index] for index, part in enumerate(parts)], -1)
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def _swapped(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = plain_table(block, positions)
    return sin, cos


def _clipped(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Right for short texts only."""
    angles = _angles(block, positions).clamp(max=3000.0)
    angles = torch.cat((angles, angles), -1)
    return angles.cos(), angles.sin()


def _deinterleaved(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Reads pairs (2i, 2i + 1) and writes (i, i + half), as MLA models do."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)

    def rotated(part: Tensor) -> Tensor:
        first, second = part[..., 0::2], part[..., 1::2]
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)

    return partial(block, x, rotated)


def _backwards(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return neox(block, x, cos, -sin)


def _other_way(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)

    def rotated(part: Tensor) -> Tensor:
        first, second = part.chunk(2, -1)
        return part * cos + torch.cat((second, -first), -1) * sin

    return partial(block, x, rotated)


def _read_elsewhere(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)

    def rotated(part: Tensor) -> Tensor:
        first, second = part.chunk(2, -1)
        straight = part * cos
        block.leaks.append(straight)
        return straight + torch.cat((-second, first), -1) * sin

    return partial(block, x, rotated)


def _in_float32(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return neox(block, x, cos.double(), sin.double()).to(x.dtype)


# name -> (parts, part of the reason)
TWISTS: dict[str, tuple[Parts, str]] = {
    "trained_frequencies": (Parts(table=_trained), "must be constant, not a parameter"),
    "learned_table": (Parts(table=_learned), "the table must come from aten.cos"),
    "shifted_angle": (Parts(table=_shifted), "cos and sin of positions times frequencies"),
    "scaled_by_a_tensor": (Parts(table=_scaled_by_a_tensor), "scaling of the table must be a num"),
    "scaled_apart": (Parts(table=_scaled_apart), "scaled alike"),
    "different_rows": (Parts(table=_different_rows), "the positions must be [batch, tokens]"),
    "swapped": (Parts(table=_swapped), "the table must come from aten.cos"),
    "clipped": (Parts(table=_clipped), "cos and sin of positions times frequencies"),
    "deinterleaved": (Parts(table=half_table, rotate=_deinterleaved), "pairs must be"),
    "other_way": (Parts(rotate=_other_way), "pairs must be"),
    "backwards": (Parts(rotate=_backwards), "the table must come from aten.sin"),
    "read_elsewhere": (Parts(rotate=_read_elsewhere), "inside the rotation is also read"),
    "wider_table": (Parts(rotate=_in_float32), "the table must have x's dtype"),
}
