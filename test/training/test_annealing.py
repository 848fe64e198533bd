"""The learning rate rises, falls to nothing, and goes on from where an interrupted training left it."""

from __future__ import annotations

import pytest
import torch

from micro_sam.training import TrainingSettings
from micro_sam.training.annealing import WARM_UP, Annealing, annealed


def _optimizer(*rates):
    return torch.optim.AdamW([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates])


def test_the_rate_rises_and_then_only_falls():
    shares = [k / 200 for k in range(201)]
    rates = [annealed(share) for share in shares]
    top = rates.index(max(rates))
    assert rates[0] == 0 and max(rates) == 1 and rates[-1] == pytest.approx(0, abs=1e-12)
    assert shares[top] == pytest.approx(WARM_UP)
    assert rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)


def test_all_groups_keep_their_proportion_and_it_never_goes_back():
    optimizer = _optimizer(1e-3, 1e-4)
    annealing = Annealing(optimizer)
    for share in (0.5, 0.2):  # the second one is less than what was already said
        annealing.step(share)
        assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([1e-3 * annealed(0.5), 1e-4 * annealed(0.5)])


def test_what_was_interrupted_goes_on_and_what_was_complete_begins_anew():
    annealing = Annealing(_optimizer(1.0))
    annealing.resume(0.4)
    annealing.step(0.1)
    assert annealing.share == 0.4
    annealing.resume(1.0)
    annealing.step(0.5)
    assert annealing.share == 0.5


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, False), ({"max_minutes": 5}, True), ({"n_iterations": 9}, True), ({"schedule": "cosine"}, True),
     ({"max_minutes": 5, "schedule": "plateau"}, False)],
)  # fmt: skip
def test_short_trainings_are_annealed_if_nothing_else_is_said(settings, expected):
    assert TrainingSettings(**settings).is_annealed() is expected
