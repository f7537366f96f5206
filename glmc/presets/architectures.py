"""Architectures that glmc compiles, and what is missing for the others of the GLM line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glmc.errors import ConfigError

MODEL_TYPES: dict[str, str] = {
    "glm": "GlmForCausalLM",
    "glm4": "Glm4ForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
}
ARCHITECTURES: tuple[str, ...] = tuple(MODEL_TYPES.values())
_SUPPORTED = "use a GLM-4-0414, GLM-Z1, GLM-4.5, 4.5-Air, 4.6 or 4.7 checkpoint"
_ENGINES = "serve it with transformers, vLLM or SGLang, or " + _SUPPORTED


@dataclass(frozen=True)
class Refused:
    """A known model that is not compiled: its published names, what glmc lacks, what to do."""

    models: str
    lacks: str
    remedy: str = _ENGINES


_VISION = "the image encoder and the multimodal rope (M-RoPE) of its text part"
_LITE = Refused("GLM-4.7-Flash", "multi-head latent attention (MLA)")
_DSA = Refused(
    "GLM-5, 5.1, 5.2 and 5.3",
    "multi-head latent attention (MLA) and the DSA indexer (sparse attention)",
)
_NEXT = Refused(
    "GLM-5.3-Flash",
    "linear attention (KDA), latent attention with the DSA indexer, hyper-connections "
    "and the image encoder",
)
_V = Refused("GLM-4.1V-9B and GLM-4.6V-Flash", _VISION)
_V_MOE = Refused("GLM-4.5V and GLM-4.6V", _VISION)
_46V = Refused("GLM-4.6V", _VISION)
_OCR = Refused("GLM-OCR", _VISION)
_IMAGE = Refused("GLM-Image", "the image decoder after its text part")
_ASR = Refused("GLM-ASR", "the audio encoder and its Llama text part")
_CHATGLM = Refused(
    "ChatGLM2, ChatGLM3 and GLM-4-9B as first published",
    "the model code that comes in the checkpoint (auto_map): glmc runs no code of a checkpoint",
    "use the checkpoint converted for transformers (zai-org/glm-4-9b-chat-hf, GlmForCausalLM)",
)
# By architecture and by model_type: config.json of a text part alone names only the second.
REFUSED: dict[str, Refused] = {
    **dict.fromkeys(("Glm4MoeLiteForCausalLM", "glm4_moe_lite"), _LITE),
    **dict.fromkeys(("GlmMoeDsaForCausalLM", "glm_moe_dsa"), _DSA),
    **dict.fromkeys(
        ("Glm5NextForConditionalGeneration", "Glm5NextForCausalLM", "glm5_next", "glm5_next_text"),
        _NEXT,
    ),
    **dict.fromkeys(("Glm4vForConditionalGeneration", "Glm4vTextModel", "glm4v", "glm4v_text"), _V),
    **dict.fromkeys(
        ("Glm4vMoeForConditionalGeneration", "Glm4vMoeTextModel", "glm4v_moe", "glm4v_moe_text"),
        _V_MOE,
    ),
    **dict.fromkeys(
        ("Glm46VForConditionalGeneration", "GlmgaForConditionalGeneration", "glm46v", "glmga"),
        _46V,
    ),
    **dict.fromkeys(("GlmOcrForConditionalGeneration", "glm_ocr", "glm_ocr_text"), _OCR),
    **dict.fromkeys(("GlmImageForConditionalGeneration", "glm_image", "glm_image_text"), _IMAGE),
    **dict.fromkeys(("GlmAsrForConditionalGeneration", "glmasr"), _ASR),
    **dict.fromkeys(("ChatGLMModel", "ChatGLMForConditionalGeneration", "chatglm"), _CHATGLM),
}
# Heads of the compiled families that give no logits over the vocabulary.
_OTHER_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")


def read_architecture(data: Mapping[str, Any], place: str) -> str:
    """The architecture of a config.json; raises :class:`ConfigError` by name for any other.

    transformers chooses the class by ``model_type``, vLLM by ``architectures``: when both are
    given they must mean the same.
    """
    listed = data.get("architectures") or []
    named = [str(name) for name in listed] if isinstance(listed, (list, tuple)) else [str(listed)]
    kind = data.get("model_type")
    for name in (*named, *([] if kind is None else [str(kind)])):
        if name in REFUSED:
            raise _refusal(REFUSED[name], name, named, kind, place)
    architecture = named[0] if named else MODEL_TYPES.get(str(kind))
    if len(named) > 1 or architecture not in ARCHITECTURES:
        raise _unknown(named, kind, data, place)
    if kind is not None and MODEL_TYPES.get(str(kind)) != architecture:
        raise ConfigError(
            "'architectures' and 'model_type' of config.json name two models",
            place=place,
            expected=f"model_type '{next(k for k, n in MODEL_TYPES.items() if n == architecture)}' "
            f"beside {architecture}",
            found=f"architectures {architecture}, model_type {kind!r}",
            remedy="correct the one that is wrong: transformers obeys model_type",
        )
    return str(architecture)


def _refusal(
    refused: Refused, name: str, named: list[str], kind: object, place: str
) -> ConfigError:
    field = "architectures" if name in named else "model_type"
    return ConfigError(
        f"glmc does not compile {name} ({refused.models}): it lacks {refused.lacks}",
        place=f"{place}, field '{field}'",
        expected=" or ".join(ARCHITECTURES),
        found=f"architectures {', '.join(named) or 'absent'}, model_type {kind!r}",
        remedy=refused.remedy,
    )


def _unknown(named: list[str], kind: object, data: Mapping[str, Any], place: str) -> ConfigError:
    remedy = _SUPPORTED
    if any(name.endswith(_OTHER_HEADS) for name in named):
        remedy = "use the checkpoint of the causal language model: this one ends in another head"
    elif len(named) == 1 and named[0] in ("GlmModel", "Glm4Model", "Glm4MoeModel"):
        remedy = "save the model with its lm_head: this is the trunk, which gives no logits"
    elif "auto_map" in data:
        remedy = f"glmc runs no code of a checkpoint (auto_map); {_SUPPORTED}"
    return ConfigError(
        "glmc does not compile this architecture",
        place=place,
        expected=" or ".join(ARCHITECTURES),
        found=", ".join(named) or f"model_type {kind!r}",
        remedy=remedy,
    )
