"""``workbench app``: the workbench as a web page."""

from __future__ import annotations

import argparse
import os
import secrets
import webbrowser
from pathlib import Path

from workbench.errors import WorkbenchError

WIDGETS = Path(__file__).parents[1]
NOTEBOOKS = (WIDGETS / "notebooks", WIDGETS.parent / "notebooks")
"""Where the notebooks are: inside the package where it was installed, beside it in a checkout."""


def add_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds the subcommand ``app``; what it runs returns the exit code."""
    parser = subparsers.add_parser(
        "app",
        help="serve the workbench as a web page",
        description="Serves a notebook as a web page. Each viewer has a kernel of their own.",
    )
    parser.add_argument("--port", type=_port, metavar="N", help="default: 8866 or the next free one; 0: any free one")
    parser.add_argument(
        "--ip", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine only)"
    )
    parser.add_argument("--notebook", type=Path, metavar="PATH", help="the notebook to serve (default: the workbench)")
    access = parser.add_mutually_exclusive_group()
    access.add_argument("--token", help="what a viewer must know (default: a random one)")
    access.add_argument("--no-token", action="store_true", help="let in everyone who can reach the address")
    parser.add_argument(
        "--threads", type=_count, default=1, metavar="N", help="processor threads per kernel (default: %(default)s)"
    )
    parser.add_argument(
        "--kernels",
        type=_count_or_none,
        default=1,
        metavar="N",
        help="kernels that wait, warm, for the next viewer (default: %(default)s; each takes about 0.3 GB)",
    )
    parser.add_argument(
        "--browser", action=argparse.BooleanOptionalAction, default=False, help="open the page (default: only print it)"
    )
    parser.set_defaults(run=run)


def run(namespace: argparse.Namespace) -> int:
    """Serves until told to stop; returns the exit code.

    Raises:
        WorkbenchError: There is no such notebook, the token is empty, or the address cannot be listened on.
    """
    notebook = find_notebook(namespace.notebook)
    token = "" if namespace.no_token else access_token(namespace.token)
    from widgets.serving.server import Server, bind, configuration  # Voila takes a second to import

    sockets = bind(namespace.ip, namespace.port)
    os.environ |= kernel_environment(namespace.threads)
    server = Server.instance(
        sockets=sockets,
        ip=namespace.ip,
        token=token,
        notebook_path=str(notebook),
        config=configuration(namespace.kernels),
    )
    server.initialize([])
    if namespace.browser:
        webbrowser.open(server.address)
    server.start()
    return 0


def find_notebook(path: Path | None = None) -> Path:
    """The notebook to serve.

    Args:
        path: What was asked for; None for the workbench itself.

    Raises:
        WorkbenchError: There is no such notebook.
    """
    if path is None:
        found = [folder / "workbench.ipynb" for folder in NOTEBOOKS if (folder / "workbench.ipynb").is_file()]
        if not found:
            raise WorkbenchError(
                f"workbench.ipynb is in none of {', '.join(map(str, NOTEBOOKS))}. "
                "Install the package again, or name a notebook with --notebook."
            )
        return found[0].resolve()
    if path.suffix != ".ipynb" or not path.is_file():
        raise WorkbenchError(f"--notebook {path} is not a notebook. Expected the path of an existing .ipynb file.")
    return path.resolve()


def access_token(token: str | None) -> str:
    """The token that was given, or a new one of 192 random bits.

    Raises:
        WorkbenchError: The token is empty, which would let in everyone.
    """
    if token is None:
        return secrets.token_hex(24)
    if not token.strip():
        raise WorkbenchError("--token is empty. Give at least one character, or say --no-token to let in everyone.")
    return token


def kernel_environment(threads: int) -> dict[str, str]:
    """What the kernels find in their environment: how many threads to use, and that they serve an app."""
    libraries = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return dict.fromkeys(libraries, str(threads)) | {"WORKBENCH_APP": "1"}


def _port(text: str) -> int:
    return _integer(text, 0, 65535)


def _count(text: str) -> int:
    return _integer(text, 1, 1024)


def _count_or_none(text: str) -> int:
    return _integer(text, 0, 1024)


def _integer(text: str, low: int, high: int) -> int:
    if not text.isdecimal() or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
    return int(text)
