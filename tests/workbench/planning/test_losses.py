"""What a changed output costs, without labels."""

from __future__ import annotations

import pytest
import torch

from workbench.metrics import Cosine, MeanAbsoluteError, MeanIoU, Metric, MultiLabelF1, OwnScore, TokenAccuracy, TopK
from workbench.planning.losses import OutputLoss
from workbench.report import MetricInfo

METRICS: dict[str, tuple[Metric, tuple[int, ...], float]] = {
    "accuracy": (TopK(), (6,), 0.8),
    "top-2": (TopK(2), (6,), 0.9),
    "MAE": (MeanAbsoluteError(), (3,), 0.4),
    "F1": (MultiLabelF1(), (5,), 0.8),
    "tokens": (TokenAccuracy(), (7, 6), 0.8),
    "mIoU": (MeanIoU(4), (4, 6, 6), 0.5),
    "cosine": (Cosine(), (8,), 0.9),
}


def outputs(shape: tuple[int, ...], seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [3 * torch.randn(count, *shape, generator=generator) for count in (150, 100)]


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("labelled", [True, False])
def test_nothing_changed_costs_nothing_and_more_noise_costs_more(name: str, labelled: bool) -> None:
    metric, shape, baseline = METRICS[name]
    reference, other = outputs(shape), outputs(shape, 1)
    loss = OutputLoss(metric, reference, baseline, labelled)
    same = loss.effect(reference)
    assert (same.loss, same.noise) == pytest.approx((0.0, 0.0), abs=1e-6)
    found = [loss.effect([a + s * b for a, b in zip(reference, other, strict=True)]) for s in (0.1, 0.5, 2.0)]
    assert found[0].noise < found[1].noise < found[2].noise
    assert found[0].loss < found[1].loss < found[2].loss
    assert found[2].loss > 0
    assert all(effect.error >= 0 and effect.spread > 0 for effect in found)


def test_the_made_up_labels_give_fp32_its_own_accuracy() -> None:
    reference = outputs((6,))
    loss = OutputLoss(TopK(), reference, 0.8, labelled=True)
    shuffled = [each.roll(1, 1) for each in reference]
    # what is lost by answers that are always others cannot be more than all of the accuracy
    assert 0.5 < loss.effect(shuffled).loss <= 0.8
    drawn = torch.cat(loss._likely)
    generator = torch.Generator().manual_seed(3)
    labels = torch.stack([torch.multinomial(drawn, 1, generator=generator)[:, 0] for _ in range(40)])
    right = (labels == torch.cat(reference).argmax(1)).double().mean()
    assert float(right) == pytest.approx(0.8, abs=0.02)


def test_the_error_is_that_of_other_examples() -> None:
    """Standard errors against the spread over many samples of the same kind."""
    found = []
    for seed in range(60):
        generator = torch.Generator().manual_seed(100 + seed)
        reference = [3 * torch.randn(200, 5, generator=generator)]
        noisy = [each + torch.randn(each.shape, generator=generator) for each in reference]
        found.append(OutputLoss(TopK(), reference, 0.85, labelled=True).effect(noisy))
    losses = torch.tensor([effect.loss for effect in found])
    error = sum(effect.error for effect in found) / len(found)
    assert float(losses.std()) == pytest.approx(error, rel=0.5)


def test_a_score_that_cannot_read_made_up_targets_is_told_by_the_noise() -> None:
    def picky(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs.argmax(1) == targets[:, 0, 0]).float()

    metric = OwnScore(picky, MetricInfo(name="picky"))
    reference = outputs((6,))
    loss = OutputLoss(metric, reference, 0.7, labelled=True)
    effect = loss.effect([each + torch.ones(6).cumsum(0) for each in reference])
    assert effect.noise > 0
    assert effect.loss > 0
