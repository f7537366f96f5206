"""A group of ranks, and the algorithms by which they add and gather tensors.

:class:`~glmc_runtime.collectives.group.Group` is what everything else uses. An algorithm is a
function from a tensor to a thunk, a file each; ``format/algorithms.py`` says what each costs and
in which order it adds, ``format/collectives.py`` which one is taken.
"""
