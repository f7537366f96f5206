"""A record of an artifact of several ranks.

Each rank is a process that runs the whole recording (``member``) and sends what it hands out over
its channel (``wire``). The controller reads all of them in step, makes one value of what they have
of it, and writes that (``controller``, ``values_of_ranks``). They end together, as the ranks of a
session do.
"""
