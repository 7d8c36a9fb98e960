"""What every part of the view has in common.

Python prepares a dict of ready strings and fractions, the browser draws it; what a person does comes
back as a message that is checked here. The browser never sets state.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anywidget
import traitlets

from workbench.errors import WorkbenchError, nearest

if TYPE_CHECKING:
    from widgets.session import Session

HERE = Path(__file__).parent
Message = Mapping[str, Any]


def source(*names: str) -> str:
    """The JavaScript module of a part: the shared helpers, then its own files."""
    return "\n".join((HERE / file).read_text(encoding="utf-8") for file in ("common.js", *names))


class Pacer:
    """Draws what asked for it, all together, a limited number of times a second, and the last change always.

    A request that arrives while drawing is under way leads to one more drawing after it, never to a
    queue: however many requests, each drawing happens once a turn.
    """

    GATHER = 0.01  # seconds; several traits change together, and a half-changed state is not worth a picture

    def __init__(self, interval: float = 0.1) -> None:
        self.interval = interval
        self._lock = threading.Lock()
        self._waiting: dict[Callable[[], None], None] = {}  # an ordered set
        self._timer: threading.Timer | None = None
        self._last = float("-inf")

    def request(self, draw: Callable[[], None]) -> None:
        """Has `draw` called soon, on another thread."""
        with self._lock:
            self._waiting[draw] = None
            if self._timer is None:
                self._start(max(self.GATHER, self._last + self.interval - time.monotonic()))

    def _start(self, delay: float) -> None:
        self._timer = threading.Timer(delay, self._turn)
        self._timer.daemon = True
        self._timer.start()

    def _turn(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, {}
        for draw in waiting:
            try:
                draw()
            except Exception:  # one part's fault must not keep the others from being drawn
                traceback.print_exc(file=sys.__stderr__)
        with self._lock:
            self._last = time.monotonic()
            self._timer = None
            if self._waiting:
                self._start(self.interval)


_pacers: weakref.WeakKeyDictionary[traitlets.HasTraits, Pacer] = weakref.WeakKeyDictionary()
_pacers_lock = threading.Lock()


def pacer_of(session: traitlets.HasTraits) -> Pacer:
    """The one pacer of a session, so that its parts change in the same moment."""
    with _pacers_lock:
        return _pacers.setdefault(session, Pacer())


class Part(anywidget.AnyWidget):
    """One control or view of a `Session`, usable alone in a cell.

    A subclass names the session's traits that it shows (`watches`), makes its picture in `draw` and
    lists what the browser may ask for in `actions`.
    """

    watches: ClassVar[tuple[str, ...]] = ()
    _css = (HERE / "style.css").read_text(encoding="utf-8")
    view = traitlets.Dict().tag(sync=True)
    """Everything that is drawn: ready strings, fractions of a length, names. From Python to the browser only."""
    drawn_for = traitlets.Unicode().tag(sync=True)
    """`Recipe.key` of what is drawn: parts are drawn one after the other, and this tells whether they agree yet."""

    def __init__(self, session: Session, **traits: Any) -> None:
        """
        Args:
            session: What is shown, and what a person's actions go to.
            traits: Of the widget itself, as ``layout``.
        """
        self.session = session
        self._drawing = threading.RLock()  # reading the state and setting `view` must not be overtaken
        # one id for all: the browser keeps one copy of the style sheet
        super().__init__(_anywidget_id="workbench", **traits)
        self.on_msg(self._receive)
        session.observe(self._changed, names=list(self.watches))
        self.refresh()

    def draw(self) -> dict[str, Any]:
        """The picture of the session as it is now."""
        raise NotImplementedError

    def actions(self) -> Mapping[str, Callable[[Message], None]]:
        """What the browser may ask for, by the name it gives as ``do``."""
        return {}

    def refresh(self) -> None:
        """Draws now."""
        with self._drawing, self.session.guard(f"Drawing {type(self).__name__}"):
            if self.comm is not None:
                key = self.session.recipe.key  # before the drawing, which may see a later recipe already
                with self.hold_sync():
                    self.view, self.drawn_for = self.draw(), key

    def set_state(self, sync_data: Mapping[str, Any]) -> None:
        """Drops whatever the browser sends as state: it may ask, it does not set."""

    def close(self) -> None:
        """Ends the part: it follows the session no longer, and its place on the page is given back."""
        if self.comm is not None:
            self.session.unobserve(self._changed, names=list(self.watches))
            layout = self.layout
            super().close()
            layout.close()

    def _changed(self, _: Any) -> None:
        pacer_of(self.session).request(self.refresh)

    def _receive(self, _: Any, message: Any, __: Any) -> None:
        with self.session.guard(f"What {type(self).__name__} was asked for"):
            name = message.get("do") if isinstance(message, dict) else None
            actions = self.actions()
            if not isinstance(name, str) or name not in actions:
                known = nearest(str(name)[:40], actions)
                raise WorkbenchError(f"{type(self).__name__} cannot do {str(name)[:40]!r}. {known}")
            actions[name]({key: value for key, value in message.items() if key != "do"})


def text_of(message: Message, key: str) -> str:
    """A text from the browser.

    Raises:
        WorkbenchError: It is missing or not a text.
    """
    value = message.get(key)
    if not isinstance(value, str):
        raise WorkbenchError(f"{key} = {value!r:.80}: a text is needed.")
    return value


def changes_of(message: Message, allowed: tuple[str, ...]) -> dict[str, Any]:
    """Fields and values from the browser; the values are checked by the recipe that they end in.

    Raises:
        WorkbenchError: There are none, or one that this part has no business with.
    """
    unknown = [str(key)[:40] for key in message if key not in allowed]
    if unknown or not message:
        wrong = f"There is no {unknown[0]!r} here" if unknown else "Nothing was to be changed"
        raise WorkbenchError(f"{wrong}; known: {', '.join(allowed)}.")
    return dict(message)
