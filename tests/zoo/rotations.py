"""Spellings of tables and rotations, and twists that look like them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from tests.zoo.attention import Block, Parts, Rotate, Table, neox, partial, plain_table


def _angles(block: Block, positions: Tensor) -> Tensor:
    return positions[..., None].float() * block.frequencies


def half_table(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    angles = _angles(block, positions)
    return angles.cos(), angles.sin()


def newest_table(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = plain_table(block, positions)
    return cos * 1.0, sin * 1.0


def matmul_table(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    frequencies = block.frequencies[None, :, None].float().expand(positions.shape[0], -1, 1)
    angles = (frequencies @ positions[:, None, :].float()).transpose(1, 2)
    angles = torch.cat((angles, angles), -1)
    return angles.cos() * 1.0, angles.sin() * 1.0


def einsum_table(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    angles = torch.einsum("bt,d->btd", positions.float(), block.frequencies).repeat(1, 1, 2)
    return angles.cos(), angles.sin()


def stacked_table(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    """One tensor of both, as a cache holds them."""
    table = torch.stack(half_table(block, positions), -1)
    return table[..., 0], table[..., 1]


def scaled_table(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = plain_table(block, positions)
    return cos * 1.25, sin * 1.25


def interleaved_table(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = half_table(block, positions)
    return cos.repeat_interleave(2, -1), sin.repeat_interleave(2, -1)


def _of_three(block: Block, values: Tensor, copies: int = 1) -> Tensor:
    """Of three rows of positions the one that each part of the frequencies belongs to."""
    sections = [1, 1, block.sizes.rotary_dim // 2 - 2] * copies
    parts = values.split(sections, -1)
    return torch.cat([part[index % 3] for index, part in enumerate(parts)], -1)


def _three_angles(block: Block, positions: Tensor) -> Tensor:
    """Three rows of positions that are one and the same, as text has them: by a product."""
    rows = positions[None].expand(3, -1, -1)
    frequencies = block.frequencies[None, None, :, None].float()
    frequencies = frequencies.expand(3, positions.shape[0], -1, 1)
    return (frequencies @ rows[:, :, None, :].float()).transpose(2, 3)


def sections_of_tables(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    angles = _three_angles(block, positions)
    angles = torch.cat((angles, angles), -1)
    return _of_three(block, angles.cos() * 1.0, 2), _of_three(block, angles.sin() * 1.0, 2)


def sections_of_angles(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    angles = _of_three(block, _three_angles(block, positions))
    angles = torch.cat((angles, angles), -1)
    return angles.cos() * 1.0, angles.sin() * 1.0


def sections_of_halves(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    angles = _angles(block, positions[None].expand(3, -1, -1))
    cos, sin = (_of_three(block, each * 1.0) for each in (angles.cos(), angles.sin()))
    return torch.cat((cos, cos), -1), torch.cat((sin, sin), -1)


def interleaved(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)

    def rotated(part: Tensor) -> Tensor:
        turned = torch.stack((-part[..., 1::2], part[..., 0::2]), -1).flatten(-2)
        return part * cos + turned * sin

    return partial(block, x, rotated)


def interleaved_from_halves(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Tables cut in half and repeated."""
    width = cos.shape[-1] // 2
    cos, sin = (each[..., :width].repeat_interleave(2, -1) for each in (cos, sin))
    return interleaved(block, x, cos, sin)


def neox_slices(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)

    def rotated(part: Tensor) -> Tensor:
        first, second = part[..., : part.shape[-1] // 2], part[..., part.shape[-1] // 2 :]
        return part * cos + torch.cat((-second, first), -1) * sin

    return partial(block, x, rotated)


def neox_subtracted(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)

    def rotated(part: Tensor) -> Tensor:
        first, second = part.chunk(2, -1)
        return part * cos - torch.cat((second, -first), -1) * sin

    return partial(block, x, rotated)


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


def keys_and_queries(block: Block, q: Tensor, k: Tensor, v: Tensor, tokens: Tensor) -> Tensor:
    """No attention, which would only have to be traced: both rotated values, as wide as q."""
    times = block.sizes.heads // block.sizes.kv_heads
    return q + k.repeat(1, times, 1, 1)


class Spelling(NamedTuple):
    """``interleaved`` and ``scaling`` are what the canonical node must say."""

    parts: Parts
    interleaved: bool
    origin: str
    scaling: float = 1.0


def _parts(table: Table = plain_table, rotate: Rotate = neox, heads_first: bool = True) -> Parts:
    return Parts(table=table, rotate=rotate, attend=keys_and_queries, heads_first=heads_first)


def _neox(origin: str, **parts: Any) -> Spelling:
    return Spelling(_parts(**parts), False, origin)


def _pairs(origin: str, **parts: Any) -> Spelling:
    return Spelling(_parts(**parts), True, origin)


SPELLINGS: dict[str, Spelling] = {
    "neox": _neox("transformers 5.23: glm4_moe", table=newest_table, rotate=neox_slices),
    "neox_matmul": _neox(
        "transformers 4.57 to 5.12: glm4_moe, the table by a product",
        table=matmul_table,
        rotate=neox_slices,
    ),
    "neox_sections_of_tables": _neox(
        "transformers 4.57: glm4v_moe on text, rows picked from the tables",
        table=sections_of_tables,
        rotate=neox_slices,
    ),
    "neox_sections_of_angles": _neox(
        "transformers 5.0 to 5.12: glm4v_moe on text, rows picked from the angles",
        table=sections_of_angles,
        rotate=neox_slices,
    ),
    "neox_sections_of_halves": _neox(
        "transformers 5.23: glm4v_moe on text, rows picked from half the tables",
        table=sections_of_halves,
        rotate=neox_slices,
    ),
    "neox_chunks": _neox("user rewrite: halves by chunk"),
    "neox_einsum": _neox("user rewrite: the table by einsum and repeat", table=einsum_table),
    "neox_without_neg": _neox(
        "user rewrite: each half by itself", table=half_table, rotate=neox_without_neg
    ),
    "neox_subtracted": _neox("user rewrite: the sine part subtracted", rotate=neox_subtracted),
    "neox_token_major": _neox(
        "user rewrite: rotated before the transpose", rotate=neox_token_major, heads_first=False
    ),
    "interleaved": _pairs(
        "transformers 5.23: glm and glm4", table=newest_table, rotate=interleaved_from_halves
    ),
    "interleaved_matmul": _pairs(
        "transformers 4.57 to 5.12: glm and glm4, the table by a product",
        table=matmul_table,
        rotate=interleaved_from_halves,
    ),
    "interleaved_wide_table": _pairs(
        "user rewrite: the table made of pairs", table=interleaved_table, rotate=interleaved
    ),
    "interleaved_without_neg": _pairs(
        "user rewrite: each half by itself", table=half_table, rotate=interleaved_without_neg
    ),
    "interleaved_stacked": _pairs(
        "user rewrite: as in ChatGLM's own code, cosine and sine stacked",
        table=stacked_table,
        rotate=interleaved_without_neg,
    ),
}
SCALED = Spelling(_parts(table=scaled_table), False, "", 1.25)


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
    angles = _of_three(block, _angles(block, rows))
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


def _stepped(block: Block, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Other angles from position 4,194,304 on, without a comparison."""
    rounds = torch.floor(positions[:, :, None].float() / 2**22)
    angles = _angles(block, positions) * (rounds + 1.0)
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


def _complex(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    table = torch.complex(cos.float(), sin.float()).unsqueeze(1)

    def rotated(part: Tensor) -> Tensor:
        pairs = torch.view_as_complex(part.float().reshape(*part.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * table).flatten(-2).to(part.dtype)

    return partial(block, x, rotated)


def _in_float32(block: Block, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    return neox(block, x, cos.double(), sin.double()).to(x.dtype)


_PAIRS = "the pairs must be (i, i + half) or (2i, 2i + 1) in and out"
_TABLE = "the table must hold cos and sin of positions times frequencies"

# name -> (parts, reason)
TWISTS: dict[str, tuple[Parts, str]] = {
    "trained_frequencies": (
        _parts(table=_trained),
        "the frequencies must be constant, not a parameter",
    ),
    "learned_table": (_parts(table=_learned), "the table must come from aten.cos"),
    "shifted_angle": (_parts(table=_shifted), _TABLE),
    "scaled_by_a_tensor": (
        _parts(table=_scaled_by_a_tensor),
        "the scaling of the table must be a number",
    ),
    "scaled_apart": (_parts(table=_scaled_apart), "cos and sin must be scaled alike"),
    "different_rows": (_parts(table=_different_rows), "the positions must be [batch, tokens]"),
    "swapped": (_parts(table=_swapped), "the table must come from aten.cos"),
    "clipped": (_parts(table=_clipped), "the table must be computed alike of all positions"),
    "stepped": (_parts(table=_stepped), "the table must be computed alike of all positions"),
    "deinterleaved": (_parts(table=half_table, rotate=_deinterleaved), _PAIRS),
    "other_way": (_parts(rotate=_other_way), _PAIRS),
    "backwards": (_parts(rotate=_backwards), "the table must come from aten.sin"),
    "read_elsewhere": (
        _parts(rotate=_read_elsewhere),
        "a value inside the rotation is also read",
    ),
    "wider_table": (_parts(rotate=_in_float32), "the table must have x's dtype"),
    "complex": (
        _parts(table=half_table, rotate=_complex),
        "the rotation must be of real numbers, not a product of complex ones",
    ),
}
