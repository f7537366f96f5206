"""glmc inside SGLang: entry points; nothing heavy is imported here.

``register`` is the general plug-in (group ``sglang.srt.plugins``), which SGLang calls once in each
process before it starts. It brings our model classes and the attention backend that goes with
them; platform, scheduler, KV pool, sampler and server stay SGLang's own.
"""

from __future__ import annotations


def register() -> None:
    """Let SGLang find our model classes; called in every process, any number of times."""
    from glmc_engines.sglang.plugin import plug_in

    plug_in()
