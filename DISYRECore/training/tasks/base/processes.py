"""What the processes of a run under `torchrun` know of each other."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def over_processes(total: Tensor) -> Tensor:
    """The mean of a number over all processes; the number itself in a single one.

    A loss that divides a sum over its share of the batch by this has, in the mean over the processes, the gradient of
    the whole batch: mean_r (s_r / mean_r n_r) = sum_r s_r / sum_r n_r.
    """
    if not dist.is_initialized():
        return total
    shared = total.detach().clone()
    dist.all_reduce(shared)
    return shared / dist.get_world_size()
