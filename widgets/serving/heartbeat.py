"""A sign of life: tells a viewer of an app when the kernel behind the page is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets


class Heartbeat(anywidget.AnyWidget):
    """Nothing to see while all is well; a banner with a way out once the kernel does not answer any more.

    The page asks, the kernel answers. A kernel that was killed or stopped, or a server that cannot be
    reached, shows within about ten seconds; a kernel that is busy, or a network that comes back, is not an
    end. The server puts one on every page. In JupyterLab, which shows the state of the kernel itself, the
    widget does nothing.
    """

    _esm = Path(__file__).with_name("heartbeat.js")

    interval = traitlets.Float(2.0, min=0.1).tag(sync=True)
    """Seconds between two questions."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.on_msg(self._answer)

    def _answer(self, _widget: Any, content: Any, _buffers: Any) -> None:
        if isinstance(content, dict) and "ping" in content:
            self.send({"pong": content["ping"]})
