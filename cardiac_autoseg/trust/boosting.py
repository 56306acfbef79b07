"""Boosted trees of two levels, kept as plain numbers: fitted with scikit-learn, evaluated with numpy alone.

Least-squares gradient boosting (Friedman, "Greedy function approximation", Annals of Statistics 2001) with subsampling
("Stochastic gradient boosting", 2002). A feature may be held to raise, or lower, the result at all places (monotone).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
TREES, RATE, SAMPLED, FEATURES_TRIED, LEAF = 150, 0.08, 0.5, 0.3, 8


@dataclass(frozen=True)
class Boosted:
    """A sum of ``base`` and of trees with a root, two nodes below it and four leaves.

    Tree by tree: ``features`` are the places in a row that root, left and right node look at, ``thresholds`` what is
    compared (a value that is not above it goes left), ``leaves`` the four values from left to right.
    """

    base: float
    features: tuple[tuple[int, int, int], ...]
    thresholds: tuple[tuple[float, float, float], ...]
    leaves: tuple[tuple[float, float, float, float], ...]

    def predict(self, table: Floats) -> Floats:
        """The sum for every row (N, F): (N,)."""
        features, thresholds = np.array(self.features, np.intp).reshape(-1, 3), np.array(self.thresholds).reshape(-1, 3)
        # The trees were fitted on single precision: so must be what is compared.
        right = table.astype(np.float32)[:, features] > thresholds
        below = np.where(right[:, :, 0], right[:, :, 2], right[:, :, 1])
        leaf = 2 * right[:, :, 0] + below
        leaves = np.array(self.leaves).reshape(-1, 4)
        return np.asarray(self.base + np.take_along_axis(leaves[None], leaf[..., None], axis=2)[..., 0].sum(axis=1))


def fit_boosted(table: Floats, target: Floats, weights: Floats, signs: Sequence[int]) -> Boosted:
    """Boost trees on rows (N, F) for a target (N,), deterministically.

    ``signs`` are 1 for a feature that may only raise the result, -1 for one that may only lower it, else 0.
    """
    from sklearn.tree import DecisionTreeRegressor  # half a second to import, and only fitting needs it

    rng = np.random.default_rng(0)
    base = float(np.average(target, weights=weights))
    rest = target - base
    table = np.ascontiguousarray(table, np.float32)  # what trees are grown on
    features, thresholds, leaves = [], [], []
    for number in range(TREES):
        drawn = rng.random(len(target)) < SAMPLED
        if not drawn.any():
            continue
        grown = DecisionTreeRegressor(
            max_depth=2, max_features=FEATURES_TRIED, min_samples_leaf=LEAF, monotonic_cst=list(signs), random_state=number
        )
        grown.fit(table[drawn], rest[drawn], sample_weight=weights[drawn], check_input=False)
        rest = rest - RATE * grown.predict(table, check_input=False)
        tree = grown.tree_
        root = _children(tree, 0)
        nodes = (0, *root)
        # Of a node that is not split both children are itself: any feature and threshold will do.
        features.append(tuple(max(0, int(tree.feature[node])) for node in nodes))
        thresholds.append(tuple(float(tree.threshold[node]) for node in nodes))
        ends = (*_children(tree, root[0]), *_children(tree, root[1]))
        leaves.append(tuple(RATE * float(tree.value[node].item()) for node in ends))
    return Boosted(base, tuple(features), tuple(thresholds), tuple(leaves))  # type: ignore[arg-type]


def _children(tree: Any, node: int) -> tuple[int, int]:
    """Left and right child of a node of scikit-learn's; of a leaf twice the leaf."""
    left, right = int(tree.children_left[node]), int(tree.children_right[node])
    return (left, right) if left >= 0 else (node, node)
