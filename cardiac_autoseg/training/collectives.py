"""What the processes of one training add up: losses, statistics of batch norm, gradients.

A training has several processes exactly while torch's default process group is there (:mod:`distributed`). Without it every
function here gives back what it was given, at the cost of one look.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from cardiac_autoseg.errors import is_out_of_memory


class PeerLost(Exception):  # noqa: N818
    """Another process of this training has ended, or was not heard of for too long."""


def together() -> bool:
    """Whether this is one of several processes that train one network."""
    return dist.is_available() and dist.is_initialized()


@contextmanager
def peers() -> Iterator[None]:
    """Around a collective: what fails there is the others, and becomes :class:`PeerLost`."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        late = "timed out" in str(error).lower() or "timeout" in str(error).lower()
        raise PeerLost("was not heard of for too long" if late else "has ended") from error


def total(tensor: Tensor) -> Tensor:
    """The sum of ``tensor`` over all processes, equal to the bit in all of them; without gradient."""
    result = tensor.detach().clone(memory_format=torch.contiguous_format)
    with peers():
        dist.all_reduce(result)
    return result


def each(tensor: Tensor) -> list[Tensor]:
    """The ``tensor`` of every process, in their order; all have the same shape. Without gradient."""
    results = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    with peers():
        dist.all_gather(results, tensor.detach().contiguous())
    return results


class _Sum(torch.autograd.Function):
    """Sum over the processes. Each one's loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(_: Any, tensor: Tensor) -> Tensor:
        return total(tensor)

    @staticmethod
    def backward(_: Any, gradient: Tensor) -> Tensor:
        return total(gradient)


def summed(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Each of ``tensors``, which have one shape, summed over all processes.

    Where every process takes a share of a function of such sums as its loss, and the shares add up to 1, the gradients of
    all processes add up to that of the function.
    """
    return _Sum.apply(torch.stack(tensors)).unbind() if together() else tensors


def joined(values: Tensor) -> Tensor:
    """The ``values`` (n,) of all processes one after the other (N,), in every process; their n may differ."""
    if not together():
        return values
    counts = [int(count) for count in each(torch.tensor([len(values)]))]
    rank = dist.get_rank()
    rest = (sum(counts[:rank]), sum(counts[rank + 1 :]))
    (whole,) = summed(torch.nn.functional.pad(values, rest))
    return whole


def add_gradients(parameters: Sequence[Tensor], sums: Tensor) -> Tensor:
    """Add up the gradients of ``parameters`` in place over all processes, and ``sums`` (n,), which are returned.

    One exchange of one vector: to overlap it with the backward pass, as DistributedDataParallel does, is worth its copies
    and its wrapper for networks far larger than these.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    vector = total(torch.cat([*(gradient.flatten() for gradient in gradients), sums]))
    *parts, added = vector.split([*(gradient.numel() for gradient in gradients), len(sums)])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))
    return added
