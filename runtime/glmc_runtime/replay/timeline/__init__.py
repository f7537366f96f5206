"""A timeline of replayed steps: a file that Perfetto opens, each kernel call in it with its node.

``timer.py`` is what a phase tells while a step runs. ``host_timer.py`` times calls by the host's
clock. On a device ``device_timer.py`` has torch.profiler record kernels, ``kineto.py`` reads what
it wrote, ``graph_nodes.py`` asks what device graphs are made of, ``graph_match.py`` and
``attribution.py`` find the call of each kernel. ``trace.py`` makes the file.
"""
