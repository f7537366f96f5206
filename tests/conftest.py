"""One thread per test process: the suite runs in two processes, and sums stay in one order."""

from __future__ import annotations

import os

import torch

torch.set_num_threads(1)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
