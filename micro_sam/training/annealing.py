"""The learning rate over a training that ends at a known time: up at first, then down to nothing."""

from __future__ import annotations

import math

import torch

WARM_UP = 0.05
"""Share of the training in which the rate rises."""


class Annealing:
    """Raises the learning rate over the first twentieth of a training, and lowers it by a cosine to nothing at the end.

    The first steps of a freshly made optimizer are blind, and the last ones of a small batch are noise: a short training
    is spoiled by either. How far the training is, is said by `step`; it never goes back, so that a training that goes on
    after an interruption goes on with the rate it had. One that was at its end and is made longer begins a new descent.

    Args:
        optimizer: Its rates at this moment are the highest.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._rates = [group["lr"] for group in optimizer.param_groups]
        self.share = 0.0

    def resume(self, share: float) -> None:
        """Go on where a training was interrupted."""
        self.share = share if share < 1 else 0.0

    def step(self, share: float) -> None:
        """Set the rates for the part of the training that is done, 0 to 1."""
        self.share = min(1.0, max(self.share, share))
        for group, rate in zip(self._optimizer.param_groups, self._rates):
            group["lr"] = rate * annealed(self.share)


def annealed(share: float) -> float:
    """The learning rate, in parts of the highest one, when this share of the training is done."""
    rest = (share - WARM_UP) / (1 - WARM_UP)
    return share / WARM_UP if share < WARM_UP else (1 + math.cos(math.pi * rest)) / 2
