"""What several ranks need of this machine, probed before an artifact of several ranks runs.

| probe | what it tries |
|---|---|
| environment | variables that are known to break or to slow down collectives |
| switches | variables that the artifact's table of collectives needs |
| cards | which cards are taken, and the driver's option for cards on PCIe |
| segments | shared memory that no living process uses |
| card | each rank: a product on its device, with an answer that is known |
| group | all ranks: a group is formed, and adds one element and many rightly |
| window | whether a check of address windows is what keeps the group from forming |
| links | each pair of ranks: latency and bandwidth |

Whatever may hang runs in processes of its own, which are killed when its time is up. What is known
of a vendor is data (``facts.py``).
"""

from __future__ import annotations

from glmc_runtime.doctor.ranks.examine import backend_here, backend_of, examine_ranks
from glmc_runtime.doctor.ranks.result import RanksReport, Result

__all__ = ["RanksReport", "Result", "backend_here", "backend_of", "examine_ranks"]
