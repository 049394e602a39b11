"""Data-parallel training under torchrun, on CPU (gloo): every process takes its part of each batch, and gradients are summed.

Without torchrun there is one process, and nothing here costs anything.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes torchrun started, if it did."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank() -> int:
    """This process's number; 0 is the one that writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.barrier()


def from_first(value: float) -> float:
    """What process 0 has for `value`, in every process: so that none goes on when another stops."""
    if world() == 1:
        return value
    shared = torch.tensor([value], dtype=torch.float64)
    dist.broadcast(shared, 0)
    return float(shared.item())


def part(batch: Sequence[T]) -> tuple[Sequence[T], float]:
    """(this process's items, their share of the batch); a process left without any takes the first, with no share."""
    mine = batch[rank() :: world()]
    return (mine, len(mine) / len(batch)) if mine else (batch[:1], 0.0)


def start_alike(parameters: Sequence[torch.Tensor]) -> None:
    """Give every process the weights of process 0."""
    if world() > 1:
        for parameter in parameters:
            dist.broadcast(parameter.data, 0)


def sum_gradients(parameters: Sequence[torch.Tensor], loss: float) -> float:
    """Sum gradients over all processes, in place; returns the summed loss."""
    if world() == 1:
        return loss
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(g.reshape(-1) for g in gradients), torch.tensor([loss])])
    dist.all_reduce(flat)
    at = 0
    for gradient in gradients:
        gradient.copy_(flat[at : at + gradient.numel()].view_as(gradient))
        at += gradient.numel()
    return float(flat[-1].item())
