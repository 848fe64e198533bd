"""A random forest as plain arrays: trained by scikit-learn, stored and applied without it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from micro_sam.errors import InputError, ParameterError

N_TREES = 100
_LEAF = -1
_LEAST_MERIT = 0.05


@dataclass(frozen=True, eq=False)
class Forest:
    """Decision trees, all nodes of all trees one after another (Breiman, "Random Forests", 2001).

    Attributes:
        roots: The first node of each tree, int32.
        feature: Which feature a node asks for; -1 in leaves. int32.
        threshold: Values up to it go left. float64.
        left: The next node for these, int32; -1 in leaves.
        right: The next node for the others, int32; -1 in leaves.
        shares: The share of each class in a node, (n_nodes, n_classes), float64.
    """

    roots: np.ndarray
    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    shares: np.ndarray

    @property
    def n_classes(self) -> int:
        """How many classes are told apart."""
        return self.shares.shape[1]

    @classmethod
    def fit(
        cls,
        values: np.ndarray,
        targets: np.ndarray,
        groups: Sequence[np.ndarray] | None = None,
        n_trees: int = N_TREES,
        seed: int = 0,
    ) -> Forest:
        """Train on samples; classes count alike, however many samples they have.

        With a handful of samples some of hundreds of features separate them by chance, and would drown the few that
        matter. So each group of features gets trees of its own, the more the better its trees classify samples that
        they were not trained on.

        Args:
            values: Features (n, n_features).
            targets: The class of each, numbered from 0 without gaps.
            groups: The numbers of the features of each group; one group by default.
            n_trees: How many trees.
            seed: The same seed and samples give the same forest.

        Raises:
            ParameterError: There is only one class.
        """
        values, targets = np.asarray(values, np.float32), np.asarray(targets)
        if len(np.unique(targets)) < 2:
            raise ParameterError("There are samples of one class only; paint over objects of at least two classes.")
        groups = [np.arange(values.shape[1])] if groups is None else [g for g in groups if len(g)]
        fitted = [_fit_trees(values[:, columns], targets, n_trees, seed) for columns in groups]
        merits = np.array([merit for _, merit in fitted])
        counts = np.maximum(1, np.round(n_trees * merits / merits.sum())).astype(int)
        chosen = [(tree, columns) for (trees, _), columns, n in zip(fitted, groups, counts) for tree in trees[:n]]
        return cls._joined([tree for tree, _ in chosen], [columns for _, columns in chosen])

    @classmethod
    def _joined(cls, trees: Sequence[Any], columns: Sequence[np.ndarray]) -> Forest:
        roots = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])

        def shifted(name: str) -> np.ndarray:
            moved = [np.where(getattr(t, name) < 0, _LEAF, getattr(t, name) + root) for t, root in zip(trees, roots)]
            return np.concatenate(moved).astype(np.int32)

        asked = [np.where(t.feature < 0, _LEAF, own[np.maximum(t.feature, 0)]) for t, own in zip(trees, columns)]
        shares = np.concatenate([tree.value[:, 0, :] for tree in trees])
        return cls(
            roots.astype(np.int32),
            np.concatenate(asked).astype(np.int32),
            np.concatenate([tree.threshold for tree in trees]).astype(np.float64),
            shifted("children_left"),
            shifted("children_right"),
            shares / shares.sum(axis=1, keepdims=True),
        )

    def predict(self, values: np.ndarray) -> np.ndarray:
        """The probability of each class, (n, n_classes), for features (n, n_features)."""
        values = np.asarray(values, np.float32)
        node = np.repeat(self.roots[None], len(values), axis=0)
        rows = np.arange(len(values))[:, None]
        while True:
            feature = self.feature[node]
            inner = feature >= 0
            if not inner.any():
                return self.shares[node].mean(axis=1)
            goes_left = values[rows, np.maximum(feature, 0)] <= self.threshold[node]
            node = np.where(inner, np.where(goes_left, self.left[node], self.right[node]), node)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray], n_features: int) -> Forest:
        """The inverse of `to_arrays`, for arrays that come from a file: they are checked.

        Raises:
            InputError: They do not make up a forest.
        """
        try:
            forest = cls(**{item.name: arrays[item.name] for item in fields(cls)})
        except KeyError as error:
            raise InputError(f"The file of the classifier is not complete, it lacks {error}; save it again.") from None
        if not forest._is_sound(n_features):
            raise InputError("The trees in the file of the classifier are damaged; save it again.")
        return forest

    def _is_sound(self, n_features: int) -> bool:
        """Whether all indices lead somewhere, and every path comes to an end."""
        n, inner = len(self.feature), self.feature >= 0
        number = np.arange(n)
        flat = (self.feature, self.threshold, self.left, self.right)
        if self.shares.ndim != 2 or any(a.ndim != 1 or len(a) != n for a in (*flat, self.shares[:, 0])):
            return False
        if any(a.dtype.kind != "i" for a in (self.roots, self.feature, self.left, self.right)):
            return False
        if n == 0 or self.roots.ndim != 1 or not len(self.roots) or self.shares.shape[1] < 2:
            return False
        if self.roots.min() < 0 or self.roots.max() >= n or self.feature.max() >= n_features:
            return False
        children = np.stack([self.left, self.right])[:, inner]
        leads_on = (children > number[inner]).all() and (children < n).all()
        return bool(leads_on and np.isfinite(self.shares).all() and np.isfinite(self.threshold).all())


def _fit_trees(values: np.ndarray, targets: np.ndarray, n_trees: int, seed: int) -> tuple[list[Any], float]:
    """Trees, and how much better than guessing they classify samples that they were not trained on, squared."""
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(n_trees, class_weight="balanced", oob_score=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a sample that every tree was trained on has no vote
        forest.fit(values, targets)
    votes = np.nan_to_num(forest.oob_decision_function_)
    right = votes.argmax(axis=1) == targets
    n_classes = votes.shape[1]
    accuracy = np.mean([right[targets == k].mean() for k in range(n_classes)])
    return [tree.tree_ for tree in forest.estimators_], max(accuracy - 1 / n_classes, _LEAST_MERIT) ** 2
