"""All-reduces over the memory of peers: each rank's kernel reads the messages of all others.

An algorithm is a function from :class:`~.peers.PeerMemory` and a tensor to thunks, a file each.
Sums are in float32 in the order of the ranks and rounded once, so that all ranks get the same
bits, one-shot and two-shot too, whatever the size of the message. Steps allocate nothing and read
nothing on the host: they may be captured in a device graph and replayed.
"""
