"""Whether an artifact was compiled of the checkpoint that an engine loads.

Two models of a family differ in a field or two, or in their weights alone: GLM-4.6 and 4.7 have one
config. So every field counts that is not known to change no number, and where the artifact has
weights of its own, they are held against the checkpoint's: files by the hashes that the compiler
wrote down, of large ones only the header, and a few tensors by their numbers.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from glmc_engines.core.compiler import CONFIG
from glmc_engines.core.errors import NoArtifactError
from glmc_engines.core.header import Header
from glmc_engines.core.weights import wants_tensors
from glmc_runtime.errors import GlmcError
from glmc_runtime.loading.loader import listed_files

# Facts of a manifest, and the fields of config.json that say the same.
_FACTS = {
    "layers": "num_hidden_layers",
    "vocabulary": "vocab_size",
    "hidden": "hidden_size",
    "query_heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
}
# Fields that no number of a step depends on, or that are compared by another name.
_PASSED_OVER = frozenset(
    """architectures transformers_version torch_dtype dtype use_cache initializer_range
    attention_dropout bos_token_id eos_token_id pad_token_id _name_or_path name_or_path auto_map
    output_router_logits output_attentions output_hidden_states return_dict router_aux_loss_coef
    num_nextn_predict_layers num_mtp_layers rope_scaling rope_parameters rope_theta
    partial_rotary_factor num_local_experts""".split()
)
_INPUTS = "inputs.json"  # what the compiler wrote of what it had read
_OWN = ("checkpoint", "from-checkpoint")  # options of weights that are the checkpoint's
# Tensors that an artifact keeps as they are: no pass and no target packs or merges them.
_KEPT = ("embed_tokens.weight", "input_layernorm.weight", "e_score_correction_bias")
_COMPARED = 4  # of each of these
_ROWS = 16
_NAMED = 8
_LARGEST_HEADER = 128 << 20
_LOG = logging.getLogger("glmc.engines")


def require_model(header: Header, checkpoint: Path, require: bool = False) -> None:
    """Raise :class:`NoArtifactError` for an artifact of another model than the checkpoint; with
    ``require`` also where there is no config.json to say so."""
    try:
        data = (checkpoint / CONFIG).read_bytes()
        config = json.loads(data)
    except (OSError, ValueError):
        config, data = None, b""
    if not isinstance(config, dict):
        if require:
            raise NoArtifactError(
                "there is no config.json to hold the artifact against, and GLMC_REQUIRE=1 asks for "
                "plans of the engine's model",
                place=str(checkpoint),
                expected="the directory of a checkpoint, or of what a hub's client has downloaded",
                found="none",
                remedy="give the engine a directory",
            )
        _LOG.warning("%s has no config.json to compare with %s", checkpoint, header.path)
        return
    inputs = _inputs(header)
    _require_config(header, inputs, config, sha256(data).hexdigest(), checkpoint)
    if not wants_tensors(header) and _at(inputs, "options", "weights") in _OWN:
        _require_weights(header, inputs, checkpoint)


def _inputs(header: Header) -> Mapping[str, Any]:
    try:
        data = json.loads(listed_files(header.path)[1].read(_INPUTS, compare=True))
    except (GlmcError, ValueError, LookupError):
        return {}
    return data if isinstance(data, dict) else {}


def _at(data: Any, *keys: str) -> Any:
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def _require_config(
    header: Header, inputs: Mapping[str, Any], config: dict[str, Any], digest: str, checkpoint: Path
) -> None:
    if digest == _at(inputs, "files", CONFIG, "sha256"):
        return
    compiled = inputs.get("config")
    differing = list(_differing_facts(header, config))
    if isinstance(compiled, dict):
        named = {name for name, _, _ in differing}
        differing += [row for row in _differing(compiled, config) if row[0] not in named]
    if differing:
        raise NoArtifactError(
            "the artifact is of another model than the engine's",
            place=str(header.path),
            expected=", ".join(f"{name} {value}" for name, value, _ in differing[:_NAMED]),
            found=", ".join(f"{name} {has}" for name, _, has in differing[:_NAMED]),
            remedy="name an artifact of this checkpoint, or compile one",
        )
    if not isinstance(compiled, dict):
        raise NoArtifactError(
            "the artifact does not say which fields of config.json it was compiled of",
            place=str(header.path),
            expected=f"the config.json of {checkpoint}",
            found="another one, or none: a compiler before this release did not write it down",
            remedy="compile it again",
        )
    _LOG.info("%s was compiled of a config.json that says the same", header.path)


def _differing_facts(
    header: Header, config: Mapping[str, Any]
) -> Iterator[tuple[str, object, object]]:
    model = header.manifest.model
    architectures = config.get("architectures") or [model.architecture]
    if model.architecture not in architectures:
        yield "architecture", ", ".join(map(str, architectures)), model.architecture
    for fact, field in _FACTS.items():
        value, has = config.get(field), getattr(model, fact)
        if value is not None and value != has:
            yield field, value, has


def _differing(
    compiled: Mapping[str, Any], config: Mapping[str, Any]
) -> Iterator[tuple[str, object, object]]:
    """Fields with two values; null is the same as absent."""
    one, other = _in_one_spelling(config), _in_one_spelling(compiled)
    for name in sorted({*one, *other}):
        if one.get(name) != other.get(name):
            yield name, one.get(name, "absent"), other.get(name, "absent")


def _in_one_spelling(config: Mapping[str, Any]) -> dict[str, object]:
    """The fields that count; transformers 4 and 5 write the rope in two ways."""
    fields = {name: value for name, value in config.items() if name not in _PASSED_OVER}
    block = config.get("rope_scaling") or config.get("rope_parameters")
    rope = dict(block) if isinstance(block, dict) else {}
    rope["rope_type"] = rope.pop("type", None) or rope.get("rope_type") or "default"
    for name in ("rope_theta", "partial_rotary_factor"):
        fields[name] = rope.pop(name, None) or config.get(name)
    fields.update({f"rope.{name}": value for name, value in rope.items()})
    fields.setdefault("n_routed_experts", config.get("num_local_experts"))
    return {name: value for name, value in fields.items() if value is not None}


def _require_weights(header: Header, inputs: Mapping[str, Any], checkpoint: Path) -> None:
    """A checkpoint without files of weights has none that could be others."""
    there = {path.name: path for path in sorted(checkpoint.glob("*.safetensors"))}
    listed = {
        name: entry
        for name, entry in (_at(inputs, "files") or {}).items()
        if name.endswith(".safetensors")
    }
    if not there:
        return
    differing = [
        name
        for name, path in there.items()
        if name in listed
        and _hash(path, whole=bool(_at(listed, name, "whole"))) != _at(listed, name, "sha256")
    ]
    if not there.keys() & listed.keys():
        differing = list(there)
    if not differing:
        differing = list(_differing_tensors(header, there.values()))
    if differing:
        raise NoArtifactError(
            "the artifact has the weights of another checkpoint",
            place=str(header.path),
            expected=f"those of {checkpoint}",
            found=f"others in {', '.join(differing[:3])}",
            remedy="name an artifact of this checkpoint, or compile one",
        )


def _hash(path: Path, whole: bool) -> str:
    """Of the bytes of a file, or of its safetensors header, as the compiler takes it."""
    digest = sha256()
    try:
        with path.open("rb") as file:
            if whole:
                while piece := file.read(1 << 22):
                    digest.update(piece)
            else:
                length = file.read(8)
                size = min(struct.unpack("<Q", length)[0], _LARGEST_HEADER)
                digest.update(length + file.read(size))
    except (OSError, struct.error):
        return "unreadable"
    return digest.hexdigest()


def _differing_tensors(header: Header, files: Iterable[Path]) -> Iterator[str]:
    """Of the tensors that an artifact keeps as they are in the checkpoint, some whose numbers
    differ."""
    kept: dict[str, list[tuple[str, Path]]] = {kind: [] for kind in _KEPT}
    for path in files:
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 - it is no dict
                    kind = next((kind for kind in _KEPT if name.endswith(kind)), None)
                    if kind is not None and _is_kept(header, name, file):
                        kept[kind].append((name, path))
        except (OSError, SafetensorError):
            yield path.name
    for rows in kept.values():
        for name, path in rows[:: max(1, len(rows) // _COMPARED)]:
            if not torch.equal(*_both(header, name, path)):
                yield name


def _is_kept(header: Header, name: str, file: Any) -> bool:
    entry = header.manifest.weights.get(name)
    return (
        entry is not None
        and (header.path / entry.files[0]).is_file()
        and list(entry.shape) == file.get_slice(name).get_shape()
    )


def _both(header: Header, name: str, path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """A tensor of the checkpoint and of the artifact, in its dtype; a few rows of a matrix."""
    own = header.path / header.manifest.weights[name].files[0]
    parts = []
    for place in (path, own):
        with safe_open(place, framework="pt") as file:
            part = file.get_slice(name)
            parts.append(part[:] if len(part.get_shape()) == 1 else part[:_ROWS])
    return parts[0].to(parts[1].dtype), parts[1]
