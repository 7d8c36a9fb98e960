"""What runs the model here, and how."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from widgets.formatting import count
from widgets.part import Message, Part, changes_of, source
from workbench.recipe import Deployment

if TYPE_CHECKING:
    from workbench.bench import Offer

FIELDS = ("runtime", "device", "threads", "batch")
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def offers_view(offers: Sequence[Offer], value: str) -> dict[str, Any]:
    """A drop-down in which what cannot be had is greyed; a value that is not on offer is shown all the same."""
    options = [{"value": o.name, "text": o.name, "disabled": o.reason is not None} for o in offers]
    if value not in [o.name for o in offers]:
        options.append({"value": value, "text": value, "disabled": True})
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
    deployment: Deployment, runtimes: Sequence[Offer], devices: Sequence[Offer], available: int
) -> dict[str, Any]:
    """The picture of a recipe's deployment."""
    threads = with_value(range(1, available + 1), deployment.threads)
    batches = with_value(BATCHES, deployment.batch)
    return {
        "remark": f"this machine, {available} core{'s' if available > 1 else ''}",
        "runtime": offers_view(runtimes, deployment.runtime),
        "device": offers_view(devices, deployment.device),
        "threads": {"values": threads, "texts": [str(n) for n in threads], "spoken": [], "value": deployment.threads},
        "batch": {
            "values": batches,
            "texts": [count(n) for n in batches],
            "spoken": [f"{n} inputs a call" for n in batches],
            "value": deployment.batch,
        },
        "reasons": [*reasons_of(runtimes), *reasons_of(devices)],
    }


class DeploymentPanel(Part):
    """Runtime, device, threads and batch; what this machine lacks is greyed, with the reason."""

    _esm = source("deployment_panel.js")
    watches: ClassVar[tuple[str, ...]] = ("recipe", "bench")

    def draw(self) -> dict[str, Any]:
        """The panel for the recipe on the screen."""
        bench = self.session.bench
        runtimes, devices = (bench.runtimes(), bench.devices()) if bench is not None else ((), ())
        return deployment_view(self.session.recipe.deployment, runtimes, devices, cores())

    def actions(self) -> dict[str, Any]:
        """``update``: fields of the deployment."""
        return {"update": self._update}

    def _update(self, message: Message) -> None:
        self.session.update(**changes_of(message, FIELDS))
