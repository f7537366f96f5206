from __future__ import annotations

import json
from typing import Any

import torch

from glmc.observe.dump.records import program_record
from tests.observe.dump.steps import cut, steps


def record(family: str, name: str) -> dict[str, Any]:
    program = steps(family)[name]
    values, made = cut(program)
    data: dict[str, Any] = json.loads(program_record({"pass": name}, program, made, values))
    return data


def nodes(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {node["id"]: node for block in data["blocks"] for node in block["nodes"]}


def test_a_merged_node_names_what_it_came_from_and_who_made_it() -> None:
    found = nodes(record("glm4_moe", "decode"))
    linear = found["model.layers.1.self_attn.qkv_proj#linear"]
    assert linear["origins"] == [
        f"model.layers.1.self_attn.{part}_proj#linear" for part in ("q", "k", "v")
    ]
    assert "qkv_merge" in linear["passes"]
    assert linear["source"].startswith("modeling_glm4_moe.py:") and linear["layer"] == 1
    assert linear["op"] == "glmc.linear" and linear["value"] == "[tokens, 128] float32"
    assert linear["args"][0] == {"node": "model.layers.1.input_layernorm#rsqrt[0]"}


def test_every_origin_is_an_id_of_the_capture() -> None:
    captured = set(nodes(record("glm4_moe", "capture")))
    folded = {f"model.layers.{layer}" for layer in (2, 3)}  # printed as layer 1
    for name in ("moe_gate", "add_rms_norm"):
        for node in nodes(record("glm4_moe", name)).values():
            for origin in node["origins"] if node["op"].startswith("glmc.") else ():
                inside = origin in captured or any(origin.startswith(each) for each in folded)
                assert inside, (name, node["id"], origin)


def test_constants_that_json_lacks_are_spelled_out() -> None:
    data = record("glm4_moe", "clean")
    found = nodes(data)
    spelled = [
        argument["python"]
        for node in found.values()
        for argument in [*node.get("args", []), *node.get("kwargs", {}).values()]
        if isinstance(argument, dict) and "python" in argument
    ]
    assert 'float("-inf")' in spelled and repr(torch.float32) in spelled
    assert data["pass"] == "clean" and data["blocks"][2]["like"] == [2, 3]
