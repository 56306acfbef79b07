"""Learning from several annotators at once: each one's labels are a confused view of one latent truth.

The network predicts the truth p. What annotator r labels at pixel x is distributed as A_r(x) p(x), where the C x C
matrix A_r(x) is column-stochastic: column c says what r calls a pixel that is c (Tanno 2019, arXiv 1902.03680, for
images; Zhang 2020, arXiv 2007.15887, with a matrix for each pixel). The loss compares A_r p with r's label. Only the
network is kept: it has learned what is left when everybody's habits are taken out.

One matrix for the whole image cannot say "draws the endocardium 2 mm too far out", an error that depends on the place;
so, as in Zhang 2020, every pixel has its own. There a second decoder predicts it from the image, which can then explain
the labels without the truth. Here it sees nothing but the latent segmentation around the pixel: one KERNEL x KERNEL
convolution of p for each annotator. All that the labels tell about the image must so pass through p, and r's habits are
local: contours moved by up to 2 pixels, tissue taken for other tissue, and, through the constant part, slices left out.

What is the truth? The labels alone do not say: contours that all annotators draw 2 mm too wide are as well explained by
a heart that is 2 mm wider. Every A_r starts near the identity, and the trace of the mean confusion matrix is added to the
loss with a small weight (Tanno 2019): of the explanations that fit, the one is preferred that blames scatter on the
annotators instead of making p uncertain. A matrix for each pixel needs more than that, namely a source whose labels are the
truth (its A is the identity), typically of few subjects: ``all:expert_few:novice1+novice2``. It ties p to the truth wherever
the two agree on a picture, and the others' habits are learned relative to it. Without one, p drifts: on ACDC it became a
heart much too large, which the matrices then shrank to the labels. So ``all:novice1+novice2`` has one matrix for the whole
image, as Tanno 2019 has, and gives a consensus, not the truth: a bias that the annotators share stays. Nor does a source
become the truth by being the expert's: in ``all:expert+novice1`` the expert's labels have a matrix like the others'.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cardiac_autoseg.training.collectives import summed

KERNEL = 5
"""Side of the neighbourhood that an annotator's matrix depends on, in pixels."""
TRUTH = -1
"""The number of the annotator whose labels are the truth."""
MEMORY = 0.99
"""Share of the mean confusion that a step keeps; the rest is that of its batch."""


class Annotators(nn.Module):
    """The confusions of ``count`` annotators between ``classes``; ``start`` is the diagonal of all matrices at first.

    ``local``: each pixel has its own matrix, else one holds for all.
    """

    def __init__(self, count: int, classes: int, start: float, local: bool = True) -> None:
        super().__init__()
        self.count, self.classes, self.local = count, classes, local
        # Zero, and the identity apart: weight decay then draws towards the identity.
        if local:
            self.weight = nn.Parameter(torch.zeros(count, classes * classes * classes * KERNEL * KERNEL))
        self.bias = nn.Parameter(torch.zeros(count, classes * classes))
        self.register_buffer("joint", torch.zeros(count, classes, classes))
        self.joint: Tensor
        # softmax over (b, 0, …, 0) is ``start`` at the first place.
        self.identity = math.log(start * (classes - 1) / (1 - start))

    def forward(self, logits: Sequence[Tensor], who: Tensor) -> tuple[list[Tensor], Tensor]:
        """The annotators' logits, shapes as ``logits``, and the mean diagonal of the batch's confusion matrix (a scalar).

        ``logits[i]`` (B, C, h_i, w_i) are those of the truth, the first at full resolution, that of the others a whole
        fraction of it; ``who`` (B,) int64 says who drew each sample, 0 … count - 1, or TRUTH. The matrices are those of
        full resolution, averaged for the others.
        """
        log_truth = torch.log_softmax(logits[0].float(), 1)
        mine = (who[:, None] == torch.arange(self.count, device=who.device)).float()
        log_matrices = self.log_matrices(log_truth.detach().exp(), mine)
        matrices = log_matrices.exp()
        trusted = (who == TRUTH)[:, None, None, None]
        outputs = []
        for output in logits:
            log_p = torch.log_softmax(output.float(), 1)
            if output.shape[2:] != logits[0].shape[2:]:
                factors = tuple(full // size for full, size in zip(logits[0].shape[2:], output.shape[2:], strict=True))
                pooled = F.avg_pool2d(matrices.flatten(1, 2), factors)
                log_matrices = pooled.unflatten(1, (self.classes, self.classes)).clamp_min(1e-6).log()
            outputs.append(torch.where(trusted, log_p, torch.logsumexp(log_matrices + log_p[:, None], 2)))
        joint = mine.T @ torch.einsum("bachw,bchw->bac", matrices, log_truth.detach().exp()).flatten(1)
        # With several processes, that of all their slices.
        (joint,) = summed(joint.unflatten(1, (self.classes, self.classes)))
        self.joint.mul_(MEMORY).add_(joint.detach(), alpha=1 - MEMORY)
        total = joint.sum(0)
        return outputs, (total.diagonal() / total.sum(0).clamp_min(1e-6)).mean()

    def log_matrices(self, truth: Tensor, mine: Tensor) -> Tensor:
        """log A (B, C labelled, C true, H, W) around the probabilities ``truth`` (B, C, H, W); ``mine`` (B, count) 0/1."""
        batch, classes, height, width = truth.shape
        # The products pick weights, and their gradients sum in fixed order.
        bias = mine @ self.bias
        identity = self.identity * torch.eye(classes, device=truth.device)[:, :, None, None]
        if not self.local:
            changes = bias.view(batch, classes, classes, 1, 1).expand(-1, -1, -1, height, width)
            return torch.log_softmax(changes + identity, 1)
        # One convolution with a group for each sample.
        edge = KERNEL // 2
        weight = (mine @ self.weight).view(batch * classes * classes, classes, KERNEL, KERNEL)
        around = F.pad(truth, (edge, edge, edge, edge), mode="replicate").flatten(0, 1)[None]
        changes = F.conv2d(around, weight, bias.flatten(), groups=batch).view(batch, classes, classes, height, width)
        return torch.log_softmax(changes + identity, 1)

    def confusions(self) -> Tensor:
        """Mean confusion matrices (count, C, C) of the last few hundred steps: entry [r, c, a] is how often annotator r
        labels a what is c. Rows sum to 1, those of classes never seen to 0.
        """
        return (self.joint / self.joint.sum(1, keepdim=True).clamp_min(1e-12)).transpose(1, 2)
