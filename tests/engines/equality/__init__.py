"""Tokens of a serving engine over compiled plans, beside Hugging Face and the engine without them.

``prepare`` makes checkpoints and artifacts in the interpreter that has glmc; ``in_vllm`` and
``in_sglang`` serve the same ``traffic`` in a process of the engine, once with plans and once with
the engine's own model class; ``report`` judges what came back. Nothing here but ``prepare`` imports
the compiler.
"""
