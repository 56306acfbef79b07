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
a heart that is 2 mm wider. There are two ways out.

``all:few:novice1+novice2`` names a source whose labels are the truth, typically an expert's of few subjects. The others'
habits are then learned first, from the slices that they and the truth both labelled (:func:`learn_habits`), and kept: what
was left to the labels of all slices would mostly be explained by a network that draws like the novices. The network
learns through them, and from the truth itself, of which every batch holds a share.

``all:novice1+novice2+trained1`` trusts nobody. Every A_r starts near the identity and is learned with the network; the
trace of the mean confusion matrix is added to the loss with a small weight (Tanno 2019), which among explanations that
fit prefers those that blame scatter on the annotators instead of making p uncertain. The result is a consensus: scatter
goes, a bias that the annotators share stays. Being the expert's does not make a source the truth: in
``all:expert+novice1`` the expert's labels have a matrix like the others'.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cardiac_autoseg.training.augmentation import Policy, apply, draw
from cardiac_autoseg.training.losses import ce
from cardiac_autoseg.training.sampling import TRUTH, SliceBank, draw_centres, step_generator

KERNEL = 5
"""Side of the neighbourhood that an annotator's matrix depends on, in pixels."""
MEMORY = 0.99
"""Share of the mean confusion that a step keeps; the rest is that of its batch."""
HABIT_STEPS, HABIT_BATCH, HABIT_RATE = 300, 8, 0.02
"""How habits are learned from slices that the truth labelled too: steps, slices a step, first learning rate."""


class Annotators(nn.Module):
    """The confusions of ``count`` annotators between ``classes``; ``start`` is the diagonal of all matrices at first.

    ``local``: each pixel has its own matrix, else one holds for all.
    """

    def __init__(self, count: int, classes: int, start: float, local: bool = True) -> None:
        super().__init__()
        self.count, self.classes, self.local = count, classes, local
        # Zero, and the identity apart: weight decay then draws towards the identity.
        if local:
            self.weight: Tensor = nn.Parameter(torch.zeros(count, classes * classes * classes * KERNEL * KERNEL))
        self.bias: Tensor = nn.Parameter(torch.zeros(count, classes * classes))
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
        # Not detached: what a neighbour's label says of this pixel reaches the network through the matrix there.
        log_matrices = self.log_matrices(log_truth.exp(), mine)
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
        joint = joint.unflatten(1, (self.classes, self.classes))
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

    def freeze(self) -> None:
        """Keep the matrices as they are: weights become buffers, which are saved but not trained."""
        for name in ("weight", "bias"):
            values = getattr(self, name).detach()
            delattr(self, name)
            self.register_buffer(name, values)

    def confusions(self) -> Tensor:
        """Mean confusion matrices (count, C, C) of the last few hundred steps: entry [r, c, a] is how often annotator r
        labels a what is c. Rows sum to 1, those of classes never seen to 0.
        """
        return (self.joint / self.joint.sum(1, keepdim=True).clamp_min(1e-12)).transpose(1, 2)


def learn_habits(
    layer: Annotators,
    bank: SliceBank,
    patch: tuple[int, int],
    policy: Policy,
    jitter: float,
    seed: int,
    stop: threading.Event,
) -> bool:
    """Fit the matrices to the slices that both an annotator and the truth labelled, augmented as in training.

    ``patch`` (h, w) is the size of the pieces, centred on the heart give or take ``jitter`` of it. Draws depend on ``seed``
    only. Returns whether it came to the end: False when ``stop`` was set. Every annotator must share slices with the truth.
    """
    place = {int(bank.image[entry]): entry for entry in torch.nonzero(bank.annotator == TRUTH)[:, 0].tolist()}
    pairs = torch.tensor(
        [
            (entry, place[image])
            for entry, (image, who) in enumerate(zip(bank.image.tolist(), bank.annotator.tolist(), strict=True))
            if who != TRUTH and image in place
        ]
    )
    optimiser = torch.optim.AdamW(layer.parameters(), lr=HABIT_RATE, foreach=True)
    device = bank.labels.device
    for step in range(HABIT_STEPS):
        if stop.is_set():
            return False
        # Other numbers than the steps of training draw.
        generator = step_generator(seed, 2**32 + step)
        drawn, true = pairs[torch.randint(len(pairs), (HABIT_BATCH,), generator=generator)].unbind(1)
        centres = draw_centres(bank, true, patch, 0.0, jitter, generator)
        parameters, images = draw(policy, HABIT_BATCH, generator), bank.images[bank.image[drawn].to(device)]
        labels, truth = (
            apply(parameters, images, bank.labels[part.to(device)], centres, patch)[1] for part in (drawn, true)
        )
        certain = 20.0 * F.one_hot(truth, layer.classes).movedim(-1, 1).float()
        outputs, _ = layer([certain], bank.annotator[drawn].to(device))
        for group in optimiser.param_groups:
            group["lr"] = HABIT_RATE * (1 - step / HABIT_STEPS)
        optimiser.zero_grad(set_to_none=True)
        ce(outputs[0], labels).backward()
        optimiser.step()
    return True
