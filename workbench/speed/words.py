"""How times and factors are written where a person reads them."""

from __future__ import annotations

from workbench.report import Estimate

SCALES = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def duration(estimate: Estimate, *, interval: bool = True) -> str:
    """``1.23 ms (1.20 … 1.31)``."""
    scale, unit = next(((s, u) for s, u in SCALES if abs(estimate.value) >= s), SCALES[-1])
    text = f"{_three(estimate.value / scale)} {unit}"
    if not interval or estimate.low == estimate.high:
        return text
    return f"{text} ({_three(estimate.low / scale)} … {_three(estimate.high / scale)})"


def factor(estimate: Estimate) -> str:
    """``1.85× (1.80 … 1.90)``, or ``1×`` where it is exact."""
    if estimate.low == estimate.high:
        return f"{estimate.value:.3g}×"
    return f"{_three(estimate.value)}× ({_three(estimate.low)} … {_three(estimate.high)})"


def _three(value: float) -> str:
    """Three significant figures, zeros kept, and never a power of ten."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
