"""An artifact on several ranks: a process each, which a controller gives steps to.

``load`` of an artifact of N ranks starts N processes on this host (``launch``, ``worker``) and is a
controller: engine, sequences, blocks and sampling stay with it. A step reaches every rank in one
small message (``messages``), each rank computes its share (``follow``), and rank 0 answers with
logits, in shared memory, or greedy tokens (``remote``). A watcher on each side sees to it that all
end together (``watch``). Under ``torchrun`` each process is a rank itself, and rank 0 gives the
steps (``leading``).
"""
