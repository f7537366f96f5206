"""The roofline picture of a decode layer: bytes, floor and time of each call.

    python -m bench.gpu.roofline results.json [more.json ...] --output docs/images/roofline.png

Drawn from the JSON of bench.gpu.h200 alone; one panel for each model that has stages at the batch.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from bench.gpu.gpu_results import load_results
from bench.gpu.gpu_table import TITLES, merged

Item = dict[str, Any]
_TIME, _FLOOR = "#9db4d6", "#1f3f77"
_NAMES = {
    "linear self_attn.q_proj": "q, k, v product",
    "linear self_attn.o_proj": "o product",
    "rope_decode_attention self_attn": "rope, cache, attention",
    "linear_swiglu mlp.gate_up_proj": "gate, up, SwiGLU",
    "linear_swiglu mlp.gate_proj": "gate, up, SwiGLU",
    "linear mlp.down_proj": "down product",
    "moe_gate mlp.gate": "router",
    "moe_ffn mlp.experts": "experts, shared one included",
    "norm_add_rms_norm post_attention_layernorm": "norms after attention",
    "norm_add_rms_norm input_layernorm": "norms after the MLP",
    "add_rms_norm post_attention_layernorm": "norm after attention",
    "add_rms_norm input_layernorm": "norm after the MLP",
}


def layer_stages(items: list[Item], model: str, batch: int) -> list[Item]:
    """The calls of the layer that the model has most of, in their order."""
    stages = [
        item
        for item in items
        if item["what"] == "stage"
        and (item["model"], item["size"]) == (model, batch)
        and item["in_layers"]
    ]
    most = max((item["calls"] for item in stages), default=0)
    return [item for item in stages if 2 * item["calls"] > most]


def caption(item: Item) -> str:
    share = f"{item['share']:.0%}" if item["share"] is not None else ""
    return (
        f"{item['bytes'] / 1e6:.2f} MB, floor {item['floor_ms'] * 1e3:.1f} us, "
        f"{item['ms'] * 1e3:.1f} us ({share})"
    )


def draw(runs: list[dict[str, Any]], batch: int, output: Path) -> list[str]:
    """Write the picture; the models that are on it. Raises ValueError where there is nothing."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = []
    for device, items in merged(runs).items():
        for model in TITLES:
            stages = layer_stages(list(items.values()), model, batch)
            if stages:
                panels.append((device, model, stages))
    if not panels:
        raise ValueError(f"no stages of batch {batch} in these results")
    heights = [len(stages) + 2.0 for _, _, stages in panels]
    figure, axes = pyplot.subplots(
        len(panels),
        1,
        figsize=(10, 0.42 * sum(heights) + 0.4),
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
        layout="constrained",
    )
    for axis, (device, model, stages) in zip(axes[:, 0], panels, strict=True):
        times = [item["ms"] * 1e3 for item in stages]
        floors = [item["floor_ms"] * 1e3 for item in stages]
        rows = list(range(len(stages)))
        axis.barh(rows, times, height=0.72, color=_TIME, label="measured")
        axis.barh(rows, floors, height=0.36, color=_FLOOR, label="floor")
        axis.set_yticks(rows, [_NAMES.get(item["stage"], item["stage"]) for item in stages])
        axis.invert_yaxis()
        axis.set_xlim(0, max(*times, *floors) * 1.65)
        for row, item in enumerate(stages):
            end = max(times[row], floors[row])
            axis.annotate(
                caption(item),
                (end, row),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
        axis.set_xlabel("microseconds per call")
        axis.set_title(
            f"{TITLES[model]}, a decode layer at batch {batch}, context {stages[0]['context']}, "
            f"{device}: {sum(times):.1f} us, floor {sum(floors):.1f} us",
            fontsize=10,
        )
        axis.legend(loc="upper right", fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=130)
    pyplot.close(figure)
    return [model for _, model, _ in panels]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("results", type=Path, nargs="+")
    parser.add_argument("--output", type=Path, default=Path("docs/images/roofline.png"))
    parser.add_argument("--batch", type=int, default=1)
    options = parser.parse_args(words)
    try:
        models = draw(load_results(options.results), options.batch, options.output)
    except ValueError as error:
        print(f"roofline: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: {', '.join(models)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
