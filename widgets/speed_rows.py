"""Seconds of each layer, how far a latency can be believed, and whether what runs gives what is simulated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from widgets.formatting import between, count, duration, energy, figures, percent_of, score, size
from widgets.waterfall import factor_of

if TYPE_CHECKING:
    from workbench.exporting.agreement import Agreement
    from workbench.report import Estimate
    from workbench.speed import LayerTime, LayerTimes, TimingDetails

NAMED = 8
"""Differing examples that are named."""


def layers_view(found: LayerTimes) -> dict[str, Any]:
    """A row for each kernel, and one for what lies between them."""
    longest = max([row.seconds.value for row in found.rows] + [found.overhead.value, 1e-12])
    rows = [_layer(row, place, longest) for place, row in enumerate(found.rows)]
    share = found.overhead.value / found.latency.value
    between_them = {
        "order": len(rows),
        "name": "between kernels",
        "what": "the call itself, memory, launches",
        "kernel": "",
        "bits": "",
        "seconds": found.overhead.value,
        "layer": False,
    }
    rows.append(between_them | _time(found.overhead, share, longest))
    return {"rows": rows, "text": f"{_span(found.latency)} a call, of which"}


def _layer(row: LayerTime, place: int, longest: float) -> dict[str, Any]:
    bits = [f"{letter}{n}" for letter, n in (("W", row.weight_bits), ("A", row.activation_bits)) if n is not None]
    return {
        "order": place,
        "name": row.name,
        "what": row.kind,
        "kernel": row.kernel,
        "bits": (" ".join(bits) or "fp32") if row.layers else "",
        "seconds": row.seconds.value,
        "layer": bool(row.layers),
        **_time(row.seconds, row.share, longest),
    }


def _time(seconds: Estimate, share: float, longest: float) -> dict[str, Any]:
    return {
        "time": str(duration(seconds.value)),
        "share": percent_of(share),
        "at": round(seconds.value / longest, 4),
        "title": f"{_span(seconds)} a call",
    }


def _span(seconds: Estimate) -> str:
    value, low, high = (duration(end) for end in (seconds.value, seconds.low, seconds.high))
    if low.text == high.text:
        return str(value)
    ends = between(low.text, str(high)) if low.unit == high.unit else between(str(low), str(high))
    return f"{value} {ends}"


def timing_view(found: TimingDetails) -> dict[str, Any]:
    """Figures with what they mean; what this machine cannot tell is not shown."""
    rows = [
        ("Latency", _span(found.latency), "median of a call, 95 % confidence"),
        ("Throughput", f"{figures(found.throughput.value)}/s", f"examples, batch {found.recipe.deployment.batch}"),
        ("Noise", factor_of(found.noise), _believable(found.noise)),
    ]
    tail = [(name, getattr(found, name)) for name in ("p50", "p95", "p99")]
    told = [f"{name} {duration(each.value)}" for name, each in tail if each is not None]
    if told:
        rows.append(("Single calls", " · ".join(told), f"of {count(found.calls)} calls, each timed for itself"))
    if found.load is not None:
        rows.append(("Load", str(duration(found.load.value)), "from the recipe’s numbers to a session that runs"))
    if found.peak_memory is not None:
        rows.append(
            ("Memory", str(size(found.peak_memory.value)), f"at most, to load and run; {found.peak_memory.source}")
        )
    if found.energy is not None:
        rows.append(("Energy", str(energy(found.energy.value)), "a call, of the whole processor package"))
    return {"rows": [{"name": name, "value": value, "what": what} for name, value, what in rows]}


def _believable(noise: Estimate) -> str:
    if noise.includes(1):
        return "the recipe against itself: no difference, as it should be"
    return "the recipe against itself differs: the machine is not quiet, differences as small mean nothing"


def agreement_view(found: Agreement) -> dict[str, Any]:
    """What agrees, where it does not, and from which layer on."""
    metric = found.metric
    low, high = (score(end, metric).text for end in (found.rate.low, found.rate.high))
    value = score(found.rate.value, metric)
    what = "answers agree" if metric.counted else metric.name
    rows = [
        {
            "name": "Agreement",
            "value": f"{value} {between(low, high)}",
            "what": f"{what}: {found.runtime} and the simulation, on {count(found.examples)} of {count(found.total)}",
        }
    ]
    if found.disagreements:
        named = ", ".join(count(each) for each in found.differing[:NAMED])
        more = ", …" if found.disagreements > NAMED else ""
        rows.append({"name": "Differing", "value": count(found.disagreements), "what": f"examples no. {named}{more}"})
    elif found.done:
        rows.append({"name": "Differing", "value": "none", "what": "what is simulated is what runs"})
    if found.layer is not None:
        apart = f", {percent_of(found.distance)} of the largest output" if found.distance is not None else ""
        rows.append({"name": "Starts at", "value": found.layer, "what": f"{found.reason}{apart}".strip(", ")})
    return {"rows": rows, "alike": found.alike}
