"""A timeline of replayed steps: a file that Perfetto opens, each kernel call in it with its node.

``timer.py`` is what a phase tells while a step runs. ``host_timer.py`` times calls by the host's
clock. ``records.py`` is what was timed, ``trace.py`` the file that is made of it.
"""
