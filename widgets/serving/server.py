"""Voila, set up for the workbench: hardened, offline, compressed, and sure to stop its kernels."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import shutil
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any
from urllib.parse import quote

import jinja2
from jupyter_core.utils import ensure_async, run_sync
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from nbformat.v4 import new_code_cell
from tornado import httpserver, ioloop, web
from tornado.netutil import bind_sockets
from traitlets import List, Unicode
from traitlets.config import Config
from voila.app import Voila
from voila.request_info_handler import RequestInfoSocketHandler
from voila.tornado.handler import TornadoVoilaHandler

from workbench.errors import WorkbenchError

STOPS = 5

TEMPLATE = Path(__file__).parent / "templates" / "workbench"
PORTS = range(8866, 8916)
HEARTBEAT = "from widgets.serving.heartbeat import Heartbeat\nHeartbeat()"

# The page may load nothing that does not come from here. Widgets arrive as blobs, and JupyterLab's settings
# are compiled on the page (unsafe-eval).
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self' blob: 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)


def bind(ip: str, port: int | None) -> list[socket.socket]:
    """Takes a port, before anything expensive is started.

    Args:
        ip: The address to listen on.
        port: The port; 0 means any free one, None the first free one from 8866 on.

    Raises:
        WorkbenchError: The port is taken or reserved, or the address is not one of this machine.
    """
    for candidate in PORTS if port is None else (port,):
        try:
            return bind_sockets(candidate, ip)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                continue
            if error.errno == errno.EACCES:
                raise WorkbenchError(f"Port {port} is reserved for the system. Give one above 1023.") from error
            raise WorkbenchError(
                f"Cannot listen on {ip!r}: {error.strerror}. Expected an address of this machine, such as 127.0.0.1."
            ) from error
    if port is None:
        raise WorkbenchError(f"Ports {PORTS[0]} to {PORTS[-1]} are all in use. Give a free one with --port.")
    raise WorkbenchError(f"Port {port} is in use. Give another one, or leave --port out to get the next free one.")


def configuration(kernels: int) -> Config:
    """What is set for Voila, its kernels and its page.

    Args:
        kernels: How many kernels wait, warm, for the next viewer; 0 starts one when a viewer comes.
    """
    return Config(
        {
            "VoilaConfiguration": {
                # A page that can be themed or re-templated from its address lets a crafted link run a script.
                "allow_template_override": "NO",
                "allow_theme_override": "NO",
                "file_allowlist": [],  # what is allowed here is served without a token
                "strip_sources": True,
                "show_tracebacks": False,
                # what the page has no use for: plotly's alone is 4.8 MB, and its FigureWidget brings its own
                "extension_denylist": [
                    "jupyterlab-plotly",
                    "jupyterlab_pygments",
                    "@voila-dashboards/jupyterlab-preview",
                ],
                "preheat_kernel": kernels > 0,
                "default_pool_size": kernels,
            },
            "VoilaExecutor": {"cell_error_instruction": "The server's log has the details."},
            # the next warm kernel starts once this viewer's page has come up: both need the processor
            "VoilaKernelManager": {"fill_delay": 5.0},
            "MappingKernelManager": {"cull_idle_timeout": 600, "cull_interval": 60},
            # Sockets in this user's folder instead of ports; elsewhere than on Linux their paths get too long.
            "KernelManager": {"transport": "ipc" if sys.platform == "linux" else "tcp"},
        }
    )


class Notebooks(LargeFileManager):
    """Reads the notebook that is served, and puts a heartbeat before its first cell if its author put none."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Whether a notebook is trusted decides nothing here, and would be said each time one is opened.
        self.log = logging.getLogger(__name__)
        self.log.setLevel(logging.ERROR)

    def get(self, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The notebook as it is to be run."""
        model = super().get(path, *args, **kwargs)
        if model["type"] == "notebook" and model["content"] is not None:
            cells = model["content"].cells
            if not any("Heartbeat(" in cell.source for cell in cells):
                cells.insert(0, new_code_cell(HEARTBEAT))
        return model


class Page(TornadoVoilaHandler):
    """The one page that is served."""

    @web.authenticated
    async def get(self, path: str | None = None) -> None:
        """Answers with the notebook, rendered.

        Raises:
            HTTPError: 404 for any other path; Voila would redirect it to its file server.
        """
        if path:
            raise web.HTTPError(404)
        # Reading the token sets the cookie without which the request that stops the kernel of a closed tab is refused.
        _ = self.xsrf_token
        await super().get(path)

    def should_use_rendered_notebook(self, notebook_data: Any, pool_size: int, *_: Any) -> bool:
        """Whether a warm kernel serves; what template or theme the address names does not matter."""
        return super().should_use_rendered_notebook(notebook_data, pool_size, None, None, {})


class Server(Voila):
    """A Voila for one notebook on sockets that are already bound."""

    config_file_paths = List(Unicode())  # empty: a voila.json that lies about must not undo the hardening

    def __init__(self, sockets: list[socket.socket], **kwargs: Any) -> None:
        super().__init__(open_browser=False, log_level=logging.WARNING, **kwargs)
        self.sockets = sockets
        self.port = sockets[0].getsockname()[1]
        self.ioloop: ioloop.IOLoop | None = None
        # tornado takes jupyter-server's milliseconds for seconds, finds them too long, and says so for each viewer.
        logging.getLogger("tornado.general").addFilter(lambda record: "websocket_ping" not in record.getMessage())

    @property
    def address(self) -> str:
        """What a person opens; with the token, if there is one."""
        host = self.ip if self.ip not in ("", "0.0.0.0", "::") else socket.gethostname()  # noqa: S104
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}/" + (f"?token={quote(self.token)}" if self.token else "")

    def initialize(self, argv: list[str] | None = None) -> None:
        """Reads the configuration; from here on, being told to stop means to stop in order."""
        super().initialize(argv)
        signal.signal(signal.SIGINT, self._handle_signal_stop)
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
            signal.signal(signal.SIGHUP, self._handle_signal_stop)

    def _handle_signal_stop(self, sig: int, frame: FrameType | None) -> None:
        if self.ioloop is None:  # no kernel runs yet
            raise SystemExit(128 + sig)
        super()._handle_signal_stop(sig, frame)

    def setup_template_dirs(self) -> None:
        """Puts the own template before Voila's "lab", which it extends: found without being installed anywhere."""
        super().setup_template_dirs()
        self.template_paths.insert(0, str(TEMPLATE))

    def init_settings(self) -> dict[str, Any]:
        """Adds what Voila has no option for."""
        settings = super().init_settings()
        # The kernels' interpreter is this one, whatever kernel this user has installed under the same name.
        self.kernel_spec_manager.kernel_dirs = []
        self.contents_manager = settings["contents_manager"] = Notebooks(parent=self)
        environment = settings["jinja2_env"]  # jupyter-server's, which the page that asks for the token comes from
        environment.loader = jinja2.ChoiceLoader([jinja2.FileSystemLoader(TEMPLATE), environment.loader])
        return settings | {
            "compress_response": True,
            "log_function": self._log_failure,
            "websocket_compression_options": {"compression_level": 6},
            # A name that somebody else's server resolves to this machine must not reach an app without a token.
            "allow_remote_access": bool(self.token) or not _is_loopback(self.ip),
            "headers": {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Referrer-Policy": "same-origin"},
        }

    def init_handlers(self) -> list[Any]:
        """Serves `Page`, and leaves out the socket that tells anyone what a viewer asked for."""
        handlers = [handler for handler in super().init_handlers() if handler[1] is not RequestInfoSocketHandler]
        return [(h[0], Page, *h[2:]) if h[1] is TornadoVoilaHandler else h for h in handlers]

    def _log_failure(self, handler: web.RequestHandler) -> None:
        if handler.get_status() >= 500:  # by its path: what follows it may hold the token
            self.log.error("%d %s %s", handler.get_status(), handler.request.method, handler.request.path)

    def listen(self) -> None:
        """Serves until told to stop, and says where, once."""
        self.http = httpserver.HTTPServer(self.app)
        self.http.add_sockets(self.sockets)
        self.ioloop = ioloop.IOLoop.current()
        print(f"Acceleration Workbench: {self.address}", flush=True)
        try:
            self.ioloop.start()
        finally:
            self.stop()

    def stop(self) -> None:
        """Stops listening, then every kernel, those included that were about to start."""
        self.http.stop()
        run_sync(self._stop_kernels)()
        shutil.rmtree(self.connection_dir, ignore_errors=True)

    async def _stop_kernels(self) -> None:
        await self._stop_all()
        for kernel in self.kernel_manager.list_kernel_ids():
            with contextlib.suppress(web.HTTPError):  # it ended by itself meanwhile
                await ensure_async(self.kernel_manager.shutdown_kernel(kernel, now=True))

    async def _stop_all(self) -> None:
        """As often as a kernel that ended by itself meanwhile stops the manager from going on to the others."""
        for _ in range(STOPS):
            try:
                await ensure_async(self.kernel_manager.shutdown_all())
            except web.HTTPError as error:
                self.log.debug("a kernel was gone before it was stopped: %s", error)
            else:
                return


def _is_loopback(ip: str) -> bool:
    try:
        return ipaddress.ip_address(ip).is_loopback
    except ValueError:
        return ip == "localhost"
