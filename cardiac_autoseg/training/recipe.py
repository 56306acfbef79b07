"""The recipe: one per release.

Mirroring, rotation, learning rate and the share of patches away from the heart were tried (benchmarks/results/recipe.md);
the other numbers are customary ones that were not tuned.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

from cardiac_autoseg.errors import UserError
from cardiac_autoseg.training.augmentation import Policy


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; what depends on the data set (steps, batch, patch, learning rate) is in the plan.

    The optimiser is AdamW with decoupled weight decay (Loshchilov 2019, arXiv 1711.05101). The learning rate rises
    linearly over the share ``warmup`` of the steps, then falls to 0 along a cosine. The weights that are kept are an
    exponential moving average, ``ema`` its decay a step (less in short runs). Gradients are clipped to the norm ``clip``.
    """

    learning_rate_factor: float = 1.0
    """Times the plan's learning rate."""
    weight_decay: float = 0.01
    warmup: float = 0.05
    ema: float = 0.998
    clip: float = 5.0
    random_centres: float = 0.15
    """Share of patches placed anywhere in the slice, so that the network also sees what lies far from the heart."""
    centre_jitter: float = 0.2
    """The other patches are centred on the heart, give or take this fraction of the patch."""
    annotator_start: float = 0.95
    """With several annotators (annotators.py): how likely each is taken to label a pixel as it is, when training starts."""
    annotator_trace: float = 0.01
    """Weight of the trace of the annotators' mean confusion matrix in the loss (0.01 in Tanno 2019)."""
    policy: Policy = field(default_factory=Policy)

    def learning_rate(self, peak: float, step: int, steps: int) -> float:
        """Learning rate of ``step`` (0-based) of ``steps``."""
        peak *= self.learning_rate_factor
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return peak * (step + 1) / warm
        return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    @property
    def flips(self) -> tuple[int, ...]:
        """In-plane axes (0: y, 1: x) that training mirrors, and inference may therefore average over."""
        return tuple(axis for axis, probability in enumerate(self.policy.mirror_probability) if probability > 0)

    def ema_decay(self, step: int, steps: int) -> float:
        """Decay at ``step`` of ``steps``: smaller at first, so that the random initial weights are soon forgotten, and in a
        short run, so that the average looks back over no more than a tenth of it.
        """
        return min(self.ema, (1 + step) / (10 + step), max(0.0, 1 - 10 / steps))


def with_overrides(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    """``recipe`` with fields of itself or of its policy replaced; raises :class:`UserError` for an unknown name."""
    policy_fields = {item.name for item in dataclasses.fields(Policy)}
    recipe_fields = {item.name for item in dataclasses.fields(Recipe)} - {"policy"}
    unknown = set(overrides) - policy_fields - recipe_fields
    if unknown:
        raise UserError(
            f"the recipe has no {', '.join(sorted(unknown))}; it has: {', '.join(sorted(recipe_fields | policy_fields))}"
        )
    changed = {
        name: _like(getattr(recipe.policy, name), value, name) for name, value in overrides.items() if name in policy_fields
    }
    own = {name: _like(getattr(recipe, name), value, name) for name, value in overrides.items() if name in recipe_fields}
    if not 0 < own.get("annotator_start", recipe.annotator_start) < 1:
        raise UserError(f"recipe value annotator_start={own['annotator_start']} is a probability: above 0 and below 1")
    return dataclasses.replace(recipe, policy=dataclasses.replace(recipe.policy, **changed), **own)


def _like(current: Any, value: Any, name: str) -> Any:
    """``value`` in the type of ``current``: a number, or a tuple of as many numbers."""
    try:
        if isinstance(current, tuple):
            numbers = tuple(float(item) for item in value)
            if len(numbers) != len(current):
                raise ValueError(f"expected {len(current)} numbers")
        else:
            numbers = (type(current)(value),)
        if not all(map(math.isfinite, numbers)):
            raise ValueError("expected finite numbers")
        return numbers if isinstance(current, tuple) else numbers[0]
    except (TypeError, ValueError) as error:
        raise UserError(f"recipe value {name}={value!r} does not fit ({error}); its default is {current!r}") from error
