"""A stock transformers model on the meta device, ready to be traced; no weight is ever made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from glmc.capture.legacy import stack_experts
from glmc.errors import CaptureError

# The class of a decoder layer's parent list; the same attribute in every GLM text model.
LAYERS = "model.layers"


@dataclass(frozen=True)
class CaptureOptions:
    """How the model is asked to spell itself while it is traced.

    ``attention``: sdpa or eager. ``experts``: batched_mm or grouped_mm. ``marked`` has
    attention and experts come as named nodes through transformers' own registries.
    ``folded`` traces one layer of each kind and instantiates the rest.
    """

    attention: str = "sdpa"
    experts: str = "batched_mm"
    marked: bool = False
    folded: bool = True


def build_on_meta(config: Any, dtype: torch.dtype, options: CaptureOptions) -> nn.Module:
    """The stock ``ForCausalLM`` class of ``config`` with meta parameters, in eval mode."""
    import transformers

    if options.marked:
        from glmc.capture.markers import ATTENTION, EXPERTS, register

        register()
        attention, experts = ATTENTION, EXPERTS
    else:
        attention, experts = options.attention, options.experts
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            config, dtype=dtype, attn_implementation=attention
        )
    # transformers 5.0 leaves tied weights apart on the meta device: they would be stored twice.
    model.tie_weights()
    model.config._experts_implementation = experts
    stack_experts(model)
    model.eval()
    model.requires_grad_(False)
    return model  # type: ignore[no-any-return]


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The list of decoder layers; raises CaptureError for a model built otherwise."""
    try:
        layers = model.get_submodule(LAYERS)
    except AttributeError as error:
        raise CaptureError(
            f"{type(model).__name__} has no '{LAYERS}'",
            expected="a decoder-only model with its layers in one list",
            remedy="compile one of the supported architectures; see 'glmc presets'",
        ) from error
    if not isinstance(layers, nn.ModuleList):
        raise CaptureError(f"'{LAYERS}' is a {type(layers).__name__}", expected="a ModuleList")
    return layers


def computed_buffers(model: nn.Module, config: Any) -> dict[str, torch.Tensor]:
    """Real values of the buffers that no checkpoint holds (inverse frequencies of rope).

    Their owners are small modules whose constructor takes the config; each is made once more on
    the CPU, where its buffers get their values.
    """
    values: dict[str, torch.Tensor] = {}
    for path, module in model.named_modules():
        names = [name for name in module._non_persistent_buffers_set if name in module._buffers]
        if not names:
            continue
        try:
            with torch.device("cpu"):
                twin = type(module)(config)
        except TypeError as error:
            raise CaptureError(
                f"{type(module).__name__} at {path} computes buffers that glmc can't rebuild",
                place=path,
                expected="a module that is constructed from the config alone",
                found=str(error),
                remedy="report the model class and the transformers version",
            ) from error
        for name in names:
            values[f"{path}.{name}" if path else name] = twin.get_buffer(name).detach()
    return values
