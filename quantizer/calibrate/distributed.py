"""Several processes at one calibration: `torchrun` starts them, each takes its share of the samples."""

import os

import torch
from torch import Tensor

__all__ = ["combine_", "is_main", "join", "share", "wait"]


def join(device: str) -> None:
    """Join the processes that `torchrun` started; without it, do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")


def is_main() -> bool:
    """Whether this process is the one that writes."""
    return not _together() or torch.distributed.get_rank() == 0


def share(count: int) -> range:
    """Which of `count` samples this process takes."""
    if not _together():
        return range(count)
    return range(torch.distributed.get_rank(), count, torch.distributed.get_world_size())


def combine_(total: Tensor, operation: str) -> None:
    """Replace `total`, in place, by its "sum" or "max" over all processes."""
    if _together():
        operations = {"sum": torch.distributed.ReduceOp.SUM, "max": torch.distributed.ReduceOp.MAX}
        torch.distributed.all_reduce(total, operations[operation])


def wait() -> None:
    """Until all processes are here."""
    if _together():
        torch.distributed.barrier()


def _together() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
