"""What a layer costs, in closed form: parameters, multiply-adds, and the bytes training keeps for it.

The counts follow what torch does under bfloat16 autocast with the blocks of ``cardiac_autoseg.networks``: a convolution
keeps its input for the backward pass, a batch norm keeps its input, an in-place leaky ReLU keeps its result, which is the
next convolution's input. A tensor kept twice is counted once, by the operation that makes it.
"""

from __future__ import annotations

from dataclasses import dataclass

HALF, SINGLE, INTEGER = 2, 4, 8
"""Bytes of bfloat16, of float32, of int64."""
PERSISTENT = 4 * SINGLE
"""Bytes per parameter that live all through training: weight, AdamW's two moments, moving average (EMA)."""
GRADIENT = SINGLE
"""Bytes per parameter of the gradients, which exist from the backward pass on."""
LOSS_COPIES = 3
"""float32 maps per class that cross entropy + Dice keep: log-probabilities, probabilities, one-hot target."""


@dataclass(frozen=True)
class Cost:
    """Cost of a part of a network: ``parameters``; ``flops`` (two per multiply-add) of the forward pass of one image;
    ``saved`` bytes kept for the backward pass of one image; ``transient`` further bytes per image at the peak.
    """

    parameters: int = 0
    flops: int = 0
    saved: int = 0
    transient: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Two parts after one another: they need their transient bytes at different times."""
        return Cost(
            self.parameters + other.parameters,
            self.flops + other.flops,
            self.saved + other.saved,
            max(self.transient, other.transient),
        )

    @property
    def gflops(self) -> float:
        """Billions of operations of the forward pass of one image."""
        return self.flops / 1e9

    def memory(self, batch: int) -> int:
        """Bytes allocated at the peak of a training step with AdamW, EMA and bfloat16 autocast.

        The peak is either where the backward pass begins (all activations, bfloat16 copies of the weights) or where it ends
        (all gradients, temporaries of the optimizer).
        """
        begin = HALF * self.parameters + batch * (self.saved + self.transient)
        end = 2 * GRADIENT * self.parameters
        return PERSISTENT * self.parameters + max(begin, end)


def pixels(size: tuple[int, int]) -> int:
    """Number of pixels of a map of ``size`` (y, x)."""
    return size[0] * size[1]


def convolution(
    inputs: int, outputs: int, kernel: tuple[int, int], size: tuple[int, int], bias: bool = False, saved: int = 0
) -> Cost:
    """A convolution of ``inputs`` to ``outputs`` feature maps, with ``size`` (y, x) the size it produces.

    ``saved`` is the number of bytes per pixel of ``size`` that are kept.
    """
    weights = inputs * outputs * pixels(kernel)
    return Cost(weights + (outputs if bias else 0), 2 * weights * pixels(size), saved * pixels(size))


def upsampling(inputs: int, outputs: int, stride: tuple[int, int], size: tuple[int, int], bias: bool = False) -> Cost:
    """A transposed convolution with kernel = stride; ``size`` (y, x) is the size it produces."""
    weights = inputs * outputs
    return Cost(weights * pixels(stride) + (outputs if bias else 0), 2 * weights * pixels(size))


def norm(channels: int, size: tuple[int, int], activation: bool = True) -> Cost:
    """Batch norm, which keeps its input, and an in-place activation, which keeps its result.

    Without ``activation`` nothing keeps the result.
    """
    return Cost(2 * channels, saved=(2 if activation else 1) * HALF * channels * pixels(size))


def loss(classes: int, size: tuple[int, int]) -> Cost:
    """The loss on logits of ``size`` (y, x): the logits themselves, and what cross entropy + Dice keep."""
    return Cost(saved=(HALF + LOSS_COPIES * SINGLE) * classes * pixels(size))


def gradients(channels: int, classes: int, size: tuple[int, int]) -> Cost:
    """Where the backward pass begins, on ``channels`` maps of ``size`` (y, x).

    A gradient goes in and one comes out, when what the loss on ``size`` kept is free again.
    """
    return Cost(transient=max(0, 2 * HALF * channels * pixels(size) - loss(classes, size).saved))


def batch_data(size: tuple[int, int]) -> Cost:
    """One image of the batch: float32, its bfloat16 copy, and its target (int64)."""
    return Cost(saved=(SINGLE + HALF + INTEGER) * pixels(size))
