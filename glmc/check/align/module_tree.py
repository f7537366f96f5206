"""Modules of two implementations of a model, one to one by their place in the tree.

A place is the layer and the names within it, in one spelling; outside the layers it is the last
name. So ``model.layers.0.self_attn.o_proj`` is ``encoder.layers.0.self_attention.dense``, and
``blocks.0.attn.proj`` is ``visual.blocks.0.attn.proj``. Classes don't count. Where several modules
of a side have one place, such as layers of a text and of a vision tower, what is around them
decides, as far as other modules have shown it; what stays open is left alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

_SPELLINGS = {
    "model": "transformer",
    "embed_tokens": "word_embeddings wte tok_embeddings",
    "norm": "final_layernorm final_layer_norm ln_f",
    "lm_head": "output_layer",
    "input_layernorm": "ln_1 attention_norm",
    "post_attention_layernorm": "ln_2 ffn_norm",
    "self_attn": "self_attention attention attn",
    "qkv_proj": "query_key_value qkv c_attn",
    "q_norm": "q_layernorm query_layernorm",
    "k_norm": "k_layernorm key_layernorm",
    "o_proj": "dense out_proj proj",
    "mlp": "feed_forward ffn",
    "gate_up_proj": "dense_h_to_4h",
    "down_proj": "dense_4h_to_h",
    "gate": "router",
    "shared_experts": "shared_expert",
}
_ONE = {other: name for name, others in _SPELLINGS.items() for other in others.split()}

MERGED = {"qkv_proj": ("q_proj", "k_proj", "v_proj"), "gate_up_proj": ("gate_proj", "up_proj")}
"""Projections that are one matrix in some implementations: whose columns are whose."""

Place = tuple[int | None, tuple[str, ...]]


def layer_number(module: str) -> int | None:
    """The first number in a path, whatever the list of layers is called."""
    return next((int(name) for name in module.split(".") if name.isdecimal()), None)


def place_of(module: str) -> Place:
    """The layer and the names within it, in one spelling; outside the last name alone."""
    names = module.split(".")
    number = next((at for at, name in enumerate(names) if name.isdecimal()), None)
    if number is None:
        return None, (spelled(names[-1]),)
    return int(names[number]), tuple(map(spelled, names[number + 1 :]))


def spelled(name: str) -> str:
    """The spelling of Hugging Face's GLM for a module's own name."""
    return _ONE.get(name, name)


def aligned_modules(expected: Iterable[str], actual: Iterable[str]) -> dict[str, str]:
    """The module of the other side for each that has one."""
    left, right = dict.fromkeys(expected), dict.fromkeys(actual)
    found = {module: module for module in left if module in right}
    rest = _by_place(module for module in left if module not in found)
    others = _by_place(module for module in right if module not in found)
    around: Counter[tuple[str, str]] = Counter()
    for place, modules in rest.items():
        if len(modules) == len(others.get(place, ())) == 1:
            (module,), (other,) = modules, others[place]
            found[module] = other
            around[_around(module), _around(other)] += 1
    for place, modules in rest.items():
        if len(modules) > 1 or len(others.get(place, ())) > 1:
            found |= _by_surroundings(modules, others.get(place, []), around)
    return found


def _by_place(modules: Iterable[str]) -> dict[Place, list[str]]:
    places: dict[Place, list[str]] = defaultdict(list)
    for module in modules:
        places[place_of(module)].append(module)
    return places


def _around(module: str) -> str:
    """What is before the layer's number or, outside the layers, before the last name."""
    names = module.split(".")
    number = next((at for at, name in enumerate(names) if name.isdecimal()), len(names) - 1)
    return ".".join(names[:number])


def _by_surroundings(
    modules: list[str], others: list[str], around: Mapping[tuple[str, str], int]
) -> dict[str, str]:
    pairs = [
        (module, other)
        for module in modules
        for other in others
        if _around(module) == _around(other) or (_around(module), _around(other)) in around
    ]
    seen = Counter(name for pair in pairs for name in set(pair))
    both = {pair: seen[pair[0]] == seen[pair[1]] == 1 for pair in pairs}
    return {module: other for (module, other), alone in both.items() if alone}
