"""A record whose tokens are computed again (``--like``), and whether it is of this model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glmc_runtime.errors import RequestError
from glmc_runtime.format.manifest import Manifest
from glmc_runtime.record.h5_facts import facts_of_file


@dataclass(frozen=True)
class ModelOfRecord:
    """What a record says of the model that it is of."""

    name: str
    layers: int
    vocabulary: int

    @classmethod
    def of(cls, manifest: Manifest) -> ModelOfRecord:
        """The model of an artifact."""
        model = manifest.model
        return cls(model.name, model.layers, model.vocabulary)

    def facts(self) -> dict[str, Any]:
        """As the root of a record has them."""
        return {"model": self.name, "layers": self.layers, "vocabulary": self.vocabulary}


def require_like(path: Path, model: ModelOfRecord) -> str | None:
    """A remark where the record is of a model of another name; None where nothing is to be said.

    Raises :class:`RequestError` for a record of a model with other layers or another vocabulary,
    as far as it says, and :class:`RecordError`.
    """
    was, now = facts_of_file(path), model.facts()
    apart = [name for name in ("layers", "vocabulary") if was.get(name, now[name]) != now[name]]
    other = was.get("model")
    if apart:
        raise RequestError(
            "the record of --like is of another model: no value of one would be one of the other",
            place=str(path),
            expected=_shown(now, apart),
            found=_shown(was, apart),
            remedy="pass a record of this model, or --prompt or --ids in place of --like",
        )
    if isinstance(other, str) and other != model.name:
        return f"note: {path} is of the model {other}, and this one is {model.name}"
    return None


def _shown(facts: dict[str, Any], names: list[str]) -> str:
    values = ", ".join(f"{name} {facts[name]}" for name in names)
    return f"{facts.get('model', 'a model')}, {values}"
