"""What runs the model here, and how."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from widgets.formatting import count
from widgets.part import Message, Part, changes_of, source
from workbench.errors import WorkbenchError
from workbench.recipe import Deployment
from workbench.speed.disturbances import cores, oversubscription

if TYPE_CHECKING:
    from workbench.bench import Offer

FIELDS = ("runtime", "device", "threads", "batch", "precision")
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PRECISIONS = {"fp32": "fp32", "bf16": "bfloat16"}
"""Of what is not integer, and what they are called."""
LINES = {
    "onnxruntime": "The exported graph, in fp32 and 8-bit kernels.",
    "openvino": "The exported graph, compiled for this processor, in fp32, bfloat16 and 8-bit kernels.",
    "inductor": "PyTorch, compiled, in fp32, bfloat16 and 8-bit kernels; the first call of a recipe takes seconds.",
    "eager": "PyTorch, operator by operator. It has no integer kernels: fewer bits are no faster.",
}
"""What each runtime does, in one sentence."""
Check = Callable[..., str | None]
"""Says why fields of a deployment cannot be changed so; None where they can."""


def offers_view(offers: Sequence[Offer], value: str) -> dict[str, Any]:
    """A drop-down in which what cannot be had is greyed; a value that is not on offer is shown all the same."""
    options = [{"value": o.name, "text": o.name, "disabled": o.reason is not None, "title": o.reason} for o in offers]
    if value not in [o.name for o in offers]:
        options.append({"value": value, "text": value, "disabled": True, "title": None})
    return {"options": options, "value": value, "disabled": False}


def reasons_of(offers: Sequence[Offer]) -> list[str]:
    """Why something is greyed, one sentence each, with the name in front."""
    sentences = []
    for offer in offers:
        if offer.reason:
            named = offer.reason if offer.reason.startswith(offer.name) else f"{offer.name}: {offer.reason}"
            sentences.append(named if named.endswith(".") else f"{named}.")
    return sentences


def with_value(values: Sequence[Any], value: Any) -> list[Any]:
    """The steps of a slider, with the current value among them."""
    return sorted({*values, value})


def deployment_view(
    deployment: Deployment,
    runtimes: Sequence[Offer],
    devices: Sequence[Offer],
    available: int,
    *,
    check: Check | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """The picture of a recipe's deployment.

    Args:
        deployment: The recipe's.
        runtimes: What can run it, and why some cannot.
        devices: Where it can run.
        available: Processors that this process may use.
        check: Says why a change would be refused.
        notes: What really runs, where that is not what the recipe's bits suggest.
    """
    # twice as many as there are processors can be tried: it is the way to see that they do not help
    threads = with_value((*range(1, available + 1), 2 * available), deployment.threads)
    batches = with_value(BATCHES, deployment.batch)
    refuse = check or (lambda **_: None)
    precision = [
        {"value": value, "text": text, "disabled": value != deployment.precision and bool(why), "title": why or None}
        for value, text in PRECISIONS.items()
        for why in [refuse(precision=value) if value != deployment.precision else None]
    ]
    refused = [option["title"] for option in precision if option["title"]]
    return {
        "remark": f"this machine, {available} core{'s' if available > 1 else ''}",
        "runtime": _refusing(offers_view(runtimes, deployment.runtime), "runtime", refuse),
        "line": LINES.get(deployment.runtime, ""),
        "device": _refusing(offers_view(devices, deployment.device), "device", refuse),
        "threads": {
            "values": threads,
            "texts": [str(n) for n in threads],
            "spoken": ["1 thread" if n == 1 else f"{n} threads" for n in threads],
            "value": deployment.threads,
        },
        "warning": oversubscription(deployment.threads) or "" if deployment.threads > available else "",
        "batch": {
            "values": batches,
            "texts": [count(n) for n in batches],
            "spoken": [f"{n} inputs a call" for n in batches],
            "value": deployment.batch,
        },
        "precision": {"options": precision, "value": deployment.precision, "disabled": False},
        "notes": list(notes),
        "reasons": list(dict.fromkeys([*reasons_of(runtimes), *reasons_of(devices), *refused])),
    }


def _refusing(view: dict[str, Any], field: str, refuse: Check) -> dict[str, Any]:
    """Greys also what is here and would be refused beside the rest of the recipe."""
    for option in view["options"]:
        if not option["disabled"] and option["value"] != view["value"]:
            why = refuse(**{field: option["value"]})
            option |= {"disabled": why is not None, "title": why}
    return view


class DeploymentPanel(Part):
    """Runtime, device, threads, batch and floating point; what this machine lacks is greyed, with the reason."""

    _esm = source("deployment_panel.js")
    watches: ClassVar[tuple[str, ...]] = ("recipe", "bench", "report")

    def draw(self) -> dict[str, Any]:
        """The panel for the recipe on the screen."""
        session = self.session
        bench, report = session.bench, session.report
        runtimes, devices = (bench.runtimes(), bench.devices()) if bench is not None else ((), ())
        mine = report is not None and report.recipe == session.recipe
        notes = [note for note in (report.running, report.untimed) if note] if mine else []
        return deployment_view(
            session.recipe.deployment, runtimes, devices, cores(), check=self._refusal, notes=notes
        )  # fmt: skip

    def actions(self) -> dict[str, Any]:
        """``update``: fields of the deployment."""
        return {"update": self._update}

    def _refusal(self, **changes: Any) -> str | None:
        recipe = self.session.recipe
        # of one input: whether a batch fits in memory is no matter of these fields, and takes long to find out
        deployment = recipe.deployment.replace(batch=1, **changes)
        try:
            self.session.bench.check(recipe.replace(deployment=deployment))
        except WorkbenchError as error:
            return str(error).removeprefix("deployment: ").removeprefix(f"deployment.{next(iter(changes))}: ")
        return None

    def _update(self, message: Message) -> None:
        self.session.update(**changes_of(message, FIELDS))
