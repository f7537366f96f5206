"""What a request can ask for and compiled plans lack, refused by name before it is scheduled.

Once a request is in a batch, an error ends the server; here it is the answer to that request.
"""

from __future__ import annotations

from typing import Any

from glmc_engines.core.errors import UnsupportedError

ARCHITECTURES = frozenset({"Glm4MoeForCausalLM", "Glm4ForCausalLM", "GlmForCausalLM"})
FIELDS = {
    "input_embeds": "prompts of embeddings",
    "positional_embed_overrides": "prompts with embeddings of the caller's in them",
    "image_data": "images",
    "video_data": "videos",
    "audio_data": "sound",
}


class UnsupportedRequestError(UnsupportedError, ValueError):
    """A request asks for something that compiled plans do not have."""

    # A ValueError is what SGLang answers as the client's error.


def refuse_request(manager: Any, request: Any, *others: object, **named: object) -> None:
    """Called before SGLang looks at a request of its own accord."""
    served = set(manager.model_config.hf_config.architectures or ()) & ARCHITECTURES
    for field, feature in FIELDS.items() if served else ():
        if getattr(request, field, None) is not None:
            raise UnsupportedRequestError(
                f"compiled plans do not have {feature}",
                place=f"'{field}' of the request",
                remedy="send text, or token ids as 'input_ids'",
            )
