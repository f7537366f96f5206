"""Rotation and attention over a program's own tensors: the plain torch calls of the CPU family.

They write into given memory, read nothing on the host and know no device, so that a device graph
holds them as well. A traced program alone calls them; a plan of an artifact has fused kernels.
"""

from __future__ import annotations

from glmc_runtime.kernels import register
from glmc_runtime.kernels.cpu.masked_attention import additive_mask, masked_attention
from glmc_runtime.kernels.cpu.rope import rope, rope_table

register("cuda.rope_table")(rope_table)
register("cuda.rope")(rope)
register("cuda.masked_attention")(masked_attention)
register("cuda.additive_mask")(additive_mask)
