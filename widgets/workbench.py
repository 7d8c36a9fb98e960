"""The whole instrument in one cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ipywidgets
import traitlets

from widgets.deployment_panel import DeploymentPanel
from widgets.device_panel import DevicePanel
from widgets.distillation_panel import DistillationPanel
from widgets.explanation import ExplanationPart
from widgets.finetuning_panel import FinetuningPanel
from widgets.foresight import Foresight
from widgets.header import History, ModelPicker, Status
from widgets.layer_table import LayerTable
from widgets.learning_curves import LearningCurves
from widgets.model_check import ModelCheck
from widgets.part import Part
from widgets.quantization_panel import QuantizationPanel
from widgets.speed_panel import SpeedPanel
from widgets.teaching import Teaching
from widgets.tiles import Tiles
from widgets.tradeoff import TradeOff
from widgets.tried import Tried
from widgets.verdict import Verdict
from workbench.errors import WorkbenchError

if TYPE_CHECKING:
    from widgets.session import Session
    from workbench.bench import Bench
    from workbench.recipe import Recipe


class Workbench(ipywidgets.Box):
    """Controls on the left, answers on the right; in a narrow cell or on a phone one under the other.

    Example:
        >>> Workbench()  # the models that come along
        >>> Workbench(bench, recipe=Recipe(quantization=Quantization(weight_bits=4)))
    """

    def __init__(
        self, source: Session | Bench | Mapping[str, Bench] | None = None, recipe: Recipe | None = None
    ) -> None:
        """
        Args:
            source: A bench, several by name, or None for the models that come along; or a `Session`
                that is to be shared with other parts.
            recipe: What is on the screen at first.

        Raises:
            WorkbenchError: A recipe beside a session, which has one already.
        """
        self._shared = isinstance(source, traitlets.HasTraits)
        if self._shared and recipe is not None:
            raise WorkbenchError("A Session has a recipe already; pass `recipe` to the Session, or give a bench.")
        self.session: Session = source if self._shared else _session(source, recipe)  # type: ignore[assignment]
        kinds = {
            "header": (ModelPicker, Status, History),
            "top": (Tiles, Verdict),
            "controls": (QuantizationPanel, DistillationPanel, FinetuningPanel, DeploymentPanel, ModelCheck),
            "results": (
                TradeOff,
                LayerTable,
                ExplanationPart,
                SpeedPanel,
                DevicePanel,
                LearningCurves,
                Tried,
                Teaching,
                Foresight,
            ),
        }
        first = ModelPicker  # brings the style sheet for all; twelve more copies would double what the page loads
        areas = {
            name: [kind(self.session) if kind is first else kind(self.session, _css="") for kind in some]
            for name, some in kinds.items()
        }
        self.parts: tuple[Part, ...] = tuple(part for parts in areas.values() for part in parts)
        """All parts, in reading order."""
        header, *columns = (_area(name, parts) for name, parts in areas.items())
        super().__init__([header, _area("page", columns)])
        self.add_class("workbench")

    def close(self) -> None:
        """Ends all parts and gives their places on the page back; a session that was made here ends too."""
        if self.comm is None:
            return
        for part in self.parts:
            part.close()
        if not self._shared:
            self.session.close()
        header, page = self.children
        for box in (*page.children, page, header):
            box.layout.close()
            box.close()
        self.layout.close()
        super().close()


def _session(source: Any, recipe: Recipe | None) -> Session:
    from widgets.session import Session

    return Session(source) if recipe is None else Session(source, recipe=recipe)


def _area(name: str, children: list[Any]) -> ipywidgets.Box:
    box = ipywidgets.Box(children)
    box.add_class(f"wb-area-{name}")
    return box
