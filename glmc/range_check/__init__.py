"""``--dtype auto``: whether a model stays within the range of float16, and what that would gain.

| file | what it does |
|---|---|
| `decide.py` | the order: weights, then activations, then the choice |
| `weights.py` | every parameter is read once, piece by piece |
| `activations.py` | the fused graph is run on a prompt, layer by layer |
| `prompt.py` | the prompt |
| `cost.py` | a floor of a step in each dtype, by the numbers of a device |

The vendor's card multiplies bfloat16 at the rate of float32, and float16 at more than twice that;
float16 ends at 65504.
"""
