"""A device that is not here: what the recipe on the screen would take there, as a range that says it is one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from widgets.formatting import count, duration, energy, figures, percent_of, ratio
from widgets.part import Message, Part, source, text_of
from widgets.profile_sources import sources_view
from widgets.roofline import operators, roofline_view, rows_view, span
from workbench.errors import WorkbenchError
from workbench.hardware import DeviceBound, Profile, profiles

if TYPE_CHECKING:
    from widgets.bounding import Calibration, Elsewhere
    from workbench.recipe import Deployment
    from workbench.report import Report

FAMILIES = (
    "microcontroller", "single-board computer", "phone", "edge accelerator", "FPGA", "laptop", "desktop",
    "data centre",
)  # fmt: skip
"""From the smallest to the largest."""
YOURS = "your own"
EXAMPLE = """\
[[profile]]
name = "My board"
family = "single-board computer"
peaks = { fp32 = 48e9, int8 = 96e9 }   # operations a second, two for each MAC
memory = 4e9                           # bytes
memory_bandwidth = 12.8e9              # bytes a second
[profile.sources]
peaks = "data sheet, page 3"
memory = "data sheet, page 1"
memory_bandwidth = "measured with a large copy"
"""
"""What a text box begins with."""


def device_view(
    known: Sequence[Profile],
    chosen: Profile | None,
    found: Elsewhere | None,
    *,
    stale: bool = False,
    report: Report | None = None,
    said: str = "",
) -> dict[str, Any]:
    """The picture of a device that is not here.

    Args:
        known: Devices on offer.
        chosen: The one that is asked about; None where none is.
        found: What was found out about it.
        stale: That is of an earlier recipe or device.
        report: What the recipe takes here, if it was timed.
        said: What was wrong with what was entered.
    """
    view: dict[str, Any] = {
        "groups": _groups(known),
        "value": chosen.name if chosen is not None else "",
        "state": "empty" if chosen is None else "waiting" if found is None else "stale" if stale else "final",
        "remark": "",
        "said": said,
        "example": EXAMPLE,
        "answer": None,
    }
    if chosen is None or found is None:
        return view
    shown = found.profile
    latency = found.bound.latency if found.bound is not None else None
    if latency is not None and latency.source == "predicted":
        view["remark"] = "predicted, not measured"
    view["answer"] = {
        "of": f"{found.recipe.label}, batch {count(found.recipe.deployment.batch)}",
        "what": f"{shown.name}: {shown.description}" if shown.description else shown.name,
        "reason": found.reason if found.bound is None else found.bound.reason or "",
        "sources": sources_view(shown),
        "calibration": _calibrated(found.calibration),
        **(_answer(found.bound, shown, report) if found.bound is not None else _NOTHING),
    }
    return view


_NOTHING: dict[str, Any] = {
    "latency": None, "shares": [], "facts": [], "notes": [], "roofline": None, "rows": [], "able": False,
}  # fmt: skip


def _groups(known: Sequence[Profile]) -> list[dict[str, Any]]:
    supplied = {each.name for each in profiles()}
    groups: dict[str, list[str]] = {family: [] for family in (*FAMILIES, YOURS)}
    for each in known:
        groups[each.family if each.name in supplied else YOURS].append(each.name)
    return [{"family": family, "names": names} for family, names in groups.items() if names]


def _answer(bound: DeviceBound, profile: Profile, report: Report | None) -> dict[str, Any]:
    return {
        "latency": _latency(bound, report),
        "shares": [
            {"name": name, "share": round(share, 4), "text": percent_of(share)} for name, share in bound.shares.items()
        ]
        if bound.latency is not None
        else [],
        "facts": [_memory(bound), _kernels(bound, profile), _power(bound)],
        "notes": [note for note in bound.notes if not note.startswith("It does not fit")],
        "roofline": roofline_view(bound),
        "rows": rows_view(bound),
        "able": bound.latency is not None,
    }


def _latency(bound: DeviceBound, report: Report | None) -> dict[str, Any] | None:
    latency = bound.latency
    if latency is None:
        return None
    measured = latency.source == "imported"
    here = report.latency if report is not None else None
    limit = f"limited by {bound.limited_by} ({percent_of(bound.shares[bound.limited_by])} of the time)"
    return {
        "text": str(duration(latency.value)) if measured else span(latency.low, latency.high),
        "origin": {"origin": latency.source, "word": "measured there" if measured else "predicted"},
        "limit": limit,
        "here": f"measured here: {duration(here.value)} with {_running(report.recipe.deployment)}"
        if report is not None and here is not None
        else "",
    }


def _running(deployment: Deployment) -> str:
    """``onnxruntime, 1 thread, batch 8``."""
    threads = "1 thread" if deployment.threads == 1 else f"{deployment.threads} threads"
    return f"{deployment.runtime}, {threads}, batch {count(deployment.batch)}"


def _memory(bound: DeviceBound) -> dict[str, Any]:
    fits, batch = bound.memory.fits, bound.largest_batch
    text = f"{bound.memory}."
    if fits is False and batch:
        text += f" The largest batch that fits is {count(batch)}."
    word = {True: "fits", False: "does not fit", None: "not known"}[fits]
    return {"name": "Memory", "word": word, "tone": {True: "gain", False: "loss", None: ""}[fits], "text": text}


def _kernels(bound: DeviceBound, profile: Profile) -> dict[str, Any]:
    used = bound.kernels
    text = f"It multiplies in {_listed(profile.kernels)}"
    if profile.weight_only:
        text += f", and unpacks weights of {_listed([str(bits) for bits in profile.weight_only])} bits"
    runs = [f"{operators(len(names))} in {kernel}" for kernel, names in used.items()]
    return {
        "name": "Bits",
        "word": _listed(list(used)) if used else "no kernel",
        "tone": "" if used else "loss",
        "text": f"{text}." + (f" This recipe: {_listed(runs)}." if runs else ""),
    }


def _power(bound: DeviceBound) -> dict[str, Any]:
    if bound.power is None:
        return {"name": "Energy", "word": "not known", "tone": "", "text": "No power is published for it."}
    joules = bound.energy
    if joules is None:
        return {"name": "Energy", "word": f"{figures(bound.power)} W", "tone": "", "text": "The power of the device."}
    low, high = energy(joules.low), energy(joules.high)
    word = str(high) if low == high else f"{low.text} … {high}" if low.unit == high.unit else f"{low} … {high}"
    return {
        "name": "Energy",
        "word": word,
        "tone": "",
        "text": f"A call, if the device draws its {figures(bound.power)} W all the time.",
    }


def _calibrated(made: Calibration | None) -> dict[str, Any] | None:
    if made is None:
        return None
    factor = made.seconds / made.predicted.value
    slower = f"{ratio(factor)} the" if factor >= 1 else f"1/{ratio(1 / factor).removesuffix('×')} of the"
    return {
        "text": f"Stretched to {duration(made.seconds)} for {made.recipe.label} of {made.model}: {slower} predicted "
        f"{duration(made.predicted.value)}."
    }


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


class DevicePanel(Part):
    """A hardware profile, what the recipe would take on it, and the roofline with the operators under it."""

    _esm = source("roofline.js", "device_panel.js")
    watches: ClassVar[tuple[str, ...]] = ("recipe", "report", "profiles", "profile", "elsewhere")

    def __init__(self, session: Any, **traits: Any) -> None:
        self._said: tuple[str, Any] = ("", None)
        super().__init__(session, **traits)

    def draw(self) -> dict[str, Any]:
        """The bound of the recipe on the screen; while it is being made, the last one, greyed."""
        session = self.session
        found, recipe = session.elsewhere, session.recipe
        stale = found is not None and (
            found.recipe != recipe or found.profile.name != getattr(session.profile, "name", "")
        )
        said, about = self._said
        report = session.report
        timed = report is not None and report.recipe == recipe
        return device_view(
            session.profiles,
            session.profile,
            found,
            stale=stale,
            report=report if timed else None,
            said=said if about == (session.profile, recipe) else "",
        )

    def actions(self) -> dict[str, Any]:
        """What the browser may ask for.

        ``choose`` a device by ``name``, "" for none; ``calibrate`` it by the ``ms`` that were measured there;
        ``forget`` that; ``add`` devices from a TOML ``text``.
        """
        return {
            "choose": lambda message: self.session.choose_profile(text_of(message, "name") or None),
            "calibrate": lambda message: self._saying(lambda: self.session.calibrate(seconds_of(message))),
            "forget": lambda _: self.session.forget_calibration(),
            "add": lambda message: self._saying(lambda: self.session.add_profiles(text_of(message, "text"))),
        }

    def _saying(self, work: Any) -> None:
        """What is refused is said beside what was entered."""
        self._said = ("", None)
        try:
            work()
        except WorkbenchError as error:
            self._said = (str(error), (self.session.profile, self.session.recipe))
        self.refresh()


def seconds_of(message: Message) -> float:
    """A time that somebody typed in milliseconds.

    Raises:
        WorkbenchError: It is no number above 0.
    """
    text = text_of(message, "ms").strip().replace(",", "").removesuffix("ms").strip()
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise WorkbenchError(f"Milliseconds above 0 are needed, such as 12.5; this is {text!r:.30}.")
    return value / 1000
