"""The real thing: `workbench app` in a process of its own, looked at with Chromium."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import nbformat
import psutil
import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

sys.path.insert(0, str(Path(__file__).parent))  # `waiting`, which the tests of the whole page share

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WITHOUT_CHROMIUM = (
    "no Chromium on this machine: install it (Debian: apt-get install chromium) or run `make test`, which does"
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is a browser test."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.browser)


@dataclass
class App:
    """A running `workbench app`."""

    process: psutil.Popen
    address: str  # as printed, with the token
    _lines: queue.SimpleQueue[str] = field(repr=False)

    @property
    def base(self) -> str:
        """The address without the token, ending in a slash."""
        return self.address.partition("?")[0]

    def kernels(self) -> list[psutil.Process]:
        """The kernels that run, warm ones included."""
        children = self.process.children(recursive=True)
        return [child for child in children if "ipykernel_launcher" in _command(child)]

    @staticmethod
    def told(page: Page) -> dict[str, Any]:
        """What the server told a page about itself: its kernel, its theme."""
        return json.loads(page.locator("#jupyter-config-data").text_content() or "{}")

    def kernel_of(self, page: Page) -> psutil.Process:
        """The process behind a page."""
        [kernel] = [process for process in self.kernels() if self.told(page)["kernelId"] in _command(process)]
        return kernel

    def printed(self) -> list[str]:
        """What was printed since the address."""
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get())
        return lines

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Tells it to stop; returns its exit code."""
        if self.process.is_running():
            self.process.send_signal(how)
        return self.process.wait(30)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _until(condition: Callable[[], object], seconds: float = 30) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.1)
    return bool(condition())


@pytest.fixture(scope="session")
def until() -> Callable[..., bool]:
    """Waits for something to become true, 30 seconds unless told otherwise; says whether it did."""
    return _until


@pytest.fixture(scope="session")
def start_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., App]]:
    """Starts apps on free ports with a store of their own; all are stopped in the end."""
    started: list[App] = []

    def start(*arguments: str) -> App:
        process = psutil.Popen(
            [sys.executable, "-m", "workbench", "app", "--port", "0", *arguments],
            env=os.environ | {"WORKBENCH_STORE": str(tmp_path_factory.mktemp("store"))},
            stdout=subprocess.PIPE,
            text=True,
        )
        lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=lambda: [lines.put(line.rstrip()) for line in process.stdout], daemon=True).start()
        try:
            line = lines.get(timeout=120)
        except queue.Empty:
            process.kill()
            pytest.fail("workbench app printed no address within 120 s")
        started.append(App(process, line.removeprefix("Acceleration Workbench: "), lines))
        return started[-1]

    yield start
    for app in started:
        app.stop()


@pytest.fixture(scope="session")
def app(start_app: Callable[..., App]) -> App:
    """The workbench itself, served."""
    return start_app()


SMALL = """\
import os, time
import ipywidgets
from IPython.display import display
from widgets.serving.heartbeat import Heartbeat
slider = ipywidgets.IntSlider(description="Bits", value=4, min=2, max=8)
square = ipywidgets.Label("16")
slider.observe(lambda change: setattr(square, "value", str(change.new**2)), "value")
wait = ipywidgets.Button(description="Wait")
wait.on_click(lambda _: (time.sleep(4), setattr(square, "value", "waited")))
threads = ipywidgets.Label("threads " + os.environ["OMP_NUM_THREADS"])
display(Heartbeat(interval=0.4), ipywidgets.VBox([slider, square, wait, threads]))"""


@pytest.fixture(scope="session")
def small_notebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook of a slider, its square and a heartbeat, for what needs no workbench; a picture lies beside it."""
    cells = [nbformat.v4.new_markdown_cell("# Small"), nbformat.v4.new_code_cell(SMALL)]
    path = tmp_path_factory.mktemp("notebooks") / "small.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    (path.parent / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return path


@pytest.fixture(scope="session")
def small_app(start_app: Callable[..., App], small_notebook: Path) -> App:
    """The small notebook, served with one warm kernel."""
    return start_app("--notebook", str(small_notebook))


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """Chromium; where there is none the test is skipped, except in CI, where it fails."""
    if CHROMIUM is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(WITHOUT_CHROMIUM)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@dataclass
class Faults:
    """What a page should not have done."""

    external: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.external or self.console or self.failed)

    def watch(self, page: Page) -> None:
        """Listens to a page: requests to other hosts, errors on the console or thrown, requests without an answer."""

        def requested(request: Request) -> None:
            url = urlsplit(request.url)
            if url.scheme in ("http", "https", "ws", "wss") and url.hostname not in ("127.0.0.1", "localhost"):
                self.external.append(request.url)

        def logged(message: ConsoleMessage) -> None:
            # JupyterLab's extensions are newer than the JupyterLab inside Voila, which says so and works.
            if message.type == "error" and "Unsatisfied version" not in message.text:
                self.console.append(message.text)

        page.on("request", requested)
        page.on("websocket", lambda socket: requested(socket))
        page.on("console", logged)
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("response", lambda answer: self.failed.append(answer.url) if answer.status >= 400 else None)


@pytest.fixture
def faults() -> Faults:
    """What `page` should not have done, as far as it has run."""
    return Faults()


@pytest.fixture
def page(chromium: Browser, faults: Faults) -> Iterator[Page]:
    """An empty page, 1440 wide; closed as a person closes a tab, so that its kernel ends."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(30_000)
    page = context.new_page()
    faults.watch(page)
    yield page
    _close(page)
    context.close()


def _close(page: Page) -> None:
    if not page.is_closed():
        with page.expect_event("close"):
            page.close(run_before_unload=True)


@pytest.fixture
def close_tab() -> Callable[[Page], None]:
    """Closes a page the way a person closes a tab, so that it can say goodbye."""
    return _close
