"""Make a rank's weights of the tensors that an engine's loader hands over, one after the other.

All weights are there, unfilled, before the first tensor comes. Each one is put where it belongs at
once, on the device, and dropped: at no time are there more than the weights and one tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import torch

from glmc_runtime.arguments import shown
from glmc_runtime.errors import WeightsError
from glmc_runtime.format.dtypes import dtype_of
from glmc_runtime.format.engine_weights import (
    FROM_ENGINE,
    EngineWeights,
    Part,
    Window,
    engine_weights_from_json,
    window_of,
)
from glmc_runtime.format.json_file import json_of
from glmc_runtime.loading.loader import Artifact
from glmc_runtime.loading.recipe_places import places_of, whole

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_NAMED = 5


def weights_of_engine(
    artifact: Artifact, device: torch.device, tensors: Iterable[tuple[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """The weights of the artifact's rank that are made of ``tensors``, which are gone through once.

    Raises :class:`WeightsError` for one that the model does not have, of another shape or kind, or
    with values that its weight can't hold, and for those that are missing at the end;
    :class:`ArtifactError` for an artifact that does not say what they are; and what torch raises
    where memory runs out.
    """
    data = artifact.files.read(FROM_ENGINE)
    known = engine_weights_from_json(
        json_of(data, FROM_ENGINE, str(artifact.path / FROM_ENGINE)), artifact.manifest
    )
    with torch.inference_mode(False), torch.no_grad():
        filling = _Filling(artifact, known, device)
        for name, tensor in tensors:
            filling.put(name, tensor)
        filling.require_all()
    return filling.weights


class _Filling:
    """Weights that tensors are put into."""

    def __init__(self, artifact: Artifact, known: EngineWeights, device: torch.device) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        self._known, self._model = known, artifact.manifest.model.name
        # Of each parameter, where windows of it go.
        self._places: dict[str, list[tuple[Window, torch.Tensor]]] = {}
        # What was put: whole parameters, and the first elements of parts of others.
        self._whole: set[str] = set()
        self._put: dict[str, set[int]] = {name: set() for name in known.parameters}
        for name, node in known.weights.items():
            entry = artifact.manifest.weights[name]
            weight = torch.empty(entry.shape, dtype=dtype_of(entry.dtype), device=device)
            self.weights[name] = weight
            for place in places_of(node, whole(node.shape), weight, artifact.rank):
                if place.stored is None:
                    place.target.zero_()
                    continue
                (each,) = place.stored.elements
                shape = known.parameters[each.tensor].shape
                stored = window_of(shape, each.first, place.stored.shape)
                assert stored is not None  # it was checked when the recipes were read
                window = _within(stored, place.window)
                target = _with_dimensions(place.target, len(shape))
                self._places.setdefault(each.tensor, []).append((window, target))

    def put(self, name: str, tensor: torch.Tensor) -> None:
        """Copy a tensor to its places."""
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise WeightsError(
                "what is handed over is no named tensor",
                expected="pairs of a name and a tensor",
                found=f"{shown(name)} and {shown(tensor)}",
            )
        if self._known.skips(name):
            return
        part = self._known.part(name)
        if part is None:
            raise self._refused(
                f"the model has no tensor '{name}'",
                expected=f"the parameters of {self._model}, by the names of its checkpoint",
                found=_kind(tensor),
            )
        if tuple(tensor.shape) != part.shape or tensor.dtype not in FLOATS:
            raise self._refused(
                f"tensor '{name}' is another one than the model's",
                expected=f"{list(part.shape)} of 16 bits or more, not quantised",
                found=_kind(tensor),
            )
        parameter = self._known.parameters[part.parameter]
        window = window_of(parameter.shape, part.first, part.shape)
        assert window is not None  # the same
        again = self._again(name, part)
        values = _with_dimensions(tensor.detach(), len(window))
        for place, target in self._places.get(part.parameter, ()):
            both = _common(window, place)
            if both is not None:
                value = _cut(values, both, window)
                self._copy(name, value, _cut(target, both, place), parameter.exact, again)

    def require_all(self) -> None:
        """Raise :class:`WeightsError` unless all that this rank needs has been put."""
        parts: dict[str, list[tuple[str, Part]]] = {}
        for name, part in self._known.names.items():
            if not self._is_whole(part):
                parts.setdefault(part.parameter, []).append((name, part))
        missing = []
        for parameter in self._places:
            if parameter not in self._whole and parameter not in parts:
                missing.append(parameter)
            elif parameter not in self._whole:
                put = self._put[parameter]
                missing += [
                    name
                    for name, part in parts[parameter]
                    if part.first not in put and self._needs(part)
                ]
        if missing:
            more = len(missing) - _NAMED
            raise self._refused(
                "tensors of the model are missing among those handed over",
                expected=f"all parameters of {self._model} that this rank has",
                found=f"no {', '.join(missing[:_NAMED])}" + (f" and {more} more" * (more > 0)),
            )

    def _needs(self, part: Part) -> bool:
        window = window_of(self._known.parameters[part.parameter].shape, part.first, part.shape)
        places = self._places[part.parameter]
        return window is not None and any(_common(window, place) for place, _ in places)

    def _is_whole(self, part: Part) -> bool:
        return prod(part.shape) == prod(self._known.parameters[part.parameter].shape)

    def _again(self, name: str, part: Part) -> bool:
        """Whether the part was put before: then it has to be the same once more."""
        put = self._put[part.parameter]
        if part.parameter in self._whole or (part.first in put and not self._is_whole(part)):
            return True
        if not self._is_whole(part):
            put.add(part.first)
        elif put:
            raise self._refused(
                f"tensor '{name}' was handed over in parts before",
                expected="each parameter whole, or each of its parts",
                found=f"{len(put)} parts, and the whole",
            )
        else:
            self._whole.add(part.parameter)
        return False

    def _copy(
        self, name: str, value: torch.Tensor, target: torch.Tensor, exact: bool, again: bool
    ) -> None:
        cast = value
        if value.dtype != target.dtype:
            cast = value.to(target.dtype)
            if exact and not torch.equal(cast.to(value.dtype), value):
                raise self._refused(
                    f"tensor '{name}' would be rounded, on which the choice of experts depends",
                    expected=f"values that {_named(target.dtype)} has",
                    found=_kind(value),
                    remedy="name an artifact that was compiled from the checkpoint itself, which "
                    "keeps them: glmc compile DIR --weights from-checkpoint",
                )
            if target.dtype == torch.float16 and not torch.equal(cast.isfinite(), value.isfinite()):
                raise self._refused(
                    f"values of tensor '{name}' are too large for float16",
                    expected="magnitudes up to 65504",
                    found=f"{float(value[value.isfinite()].abs().max()):g}",
                    remedy="serve with bfloat16 or float32",
                )
        if not again:
            target.copy_(cast)
        elif not torch.equal(target, cast.to(target.device)):
            raise self._refused(
                f"tensor '{name}' is there twice, with two contents",
                expected="one content, also of an embedding and a head that are tied",
                found=_kind(value),
                remedy="remove the one that does not belong to the model, or correct "
                "tie_word_embeddings in config.json",
            )

    def _refused(
        self, message: str, *, expected: str, found: str, remedy: str = ""
    ) -> WeightsError:
        return WeightsError(
            message, place=FROM_ENGINE, expected=expected, found=found, remedy=remedy
        )


def _within(outer: Window, inner: Window) -> Window:
    """A window of a window's value as one of the whole: leading dimensions that the value lacks
    have one entry."""
    leading = len(outer) - len(inner)
    return outer[:leading] + tuple(
        (first + start, length)
        for (first, _), (start, length) in zip(outer[leading:], inner, strict=True)
    )


def _common(one: Window, other: Window) -> Window | None:
    """What is in both windows; None where nothing is."""
    found = []
    for (start, length), (first, count) in zip(one, other, strict=True):
        low, high = max(start, first), min(start + length, first + count)
        if low >= high:
            return None
        found.append((low, high - low))
    return tuple(found)


def _cut(tensor: torch.Tensor, window: Window, of: Window) -> torch.Tensor:
    """The view of ``window`` in a tensor that is the window ``of``."""
    for axis, ((low, length), (start, _)) in enumerate(zip(window, of, strict=True)):
        tensor = tensor.narrow(axis, low - start, length)
    return tensor


def _with_dimensions(tensor: torch.Tensor, count: int) -> torch.Tensor:
    """The tensor with dimensions of one entry before its own."""
    return tensor[(None,) * (count - tensor.dim())] if tensor.dim() < count else tensor


def _kind(tensor: torch.Tensor) -> str:
    return f"{_named(tensor.dtype)} {list(tensor.shape)}"


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
