"""Batch norm over the batches of all processes of a training.

torch's own, ``nn.SyncBatchNorm``, is for GPUs alone. This one is used on CPUs and GPUs alike, so that what the tests compare
with one process is what runs on GPUs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cardiac_autoseg.training.collectives import each, total


class SharedBatchNorm(nn.BatchNorm2d):
    """:class:`torch.nn.BatchNorm2d` whose statistics are those of the batch of all processes; needs a process group."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, C, H, W) -> the same; in training, B may differ between the processes."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None and self.running_var is not None and self.momentum is not None
        mean, var, count = _statistics(input, (self.running_mean, self.running_var))
        with torch.no_grad():
            # As BatchNorm2d: the unbiased variance is kept, the biased one normalises.
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * (count / (count - 1).clamp_min(1)), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        return _Normalise.apply(input, self.weight, self.bias, mean, var, count, self.eps)


def share_batch_norm(network: nn.Module) -> nn.Module:
    """``network``, changed in place: each of its batch norms becomes a :class:`SharedBatchNorm` of the same tensors."""
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.BatchNorm2d:
                shared = SharedBatchNorm(child.num_features, child.eps, child.momentum)
                shared.weight, shared.bias = child.weight, child.bias
                for buffer, value in child.named_buffers():
                    setattr(shared, buffer, value)
                setattr(module, name, shared.train(child.training))
    return network


@torch.no_grad()
def _statistics(x: Tensor, like: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance (C,) of every channel of all processes' ``x`` (B, C, H, W), and how many values it has.

    ``like``: a mean and a variance, which say in what precision.
    """
    mean, var = torch.batch_norm_update_stats(x, like[0].clone(), like[1].clone(), 0.0)
    # In double precision, where the counts are exact, and the variances of the parts and that between them add up.
    count = mean.new_tensor([x.numel() // x.shape[1]], dtype=torch.float64)
    parts = torch.stack(each(torch.cat((count, mean.double(), var.double()))))
    counts, means, variances = parts.split([1, len(mean), len(mean)], 1)
    number = counts.sum()
    whole = (counts * means).sum(0) / number
    spread = (counts * (variances + (means - whole) ** 2)).sum(0) / number
    # The number stays on its device: a GPU would have to be waited for.
    return whole.to(like[0].dtype), spread.to(like[1].dtype), number.to(like[1].dtype)


class _Normalise(torch.autograd.Function):
    """y = weight (x - mean) / sqrt(var + eps) + bias with the batch's own mean and variance over all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, count: Tensor, eps: float
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """With z = (x - mean) / sqrt(var + eps): dL/dx = weight / sqrt(var + eps) (g - mean of g - z mean of g z)."""
        x, weight, mean, var, count = ctx.saved_tensors
        inverse = (var + ctx.eps).rsqrt()
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, var, mean, inverse, False, ctx.eps, [False, True, True]
        )
        # These two stay this process's own: they are added up with all other gradients.
        mean_gz, mean_g = (total(torch.stack((of_weight, of_bias))) / count).unbind()
        factor = weight * inverse
        slope = -factor * inverse * mean_gz
        offset = -factor * mean_g - slope * mean
        factor, slope, offset = (value[:, None, None] for value in (factor, slope, offset))
        of_x = (factor * gradient).add_(slope * x).add_(offset)
        return of_x.to(x.dtype), of_weight, of_bias, None, None, None, None
