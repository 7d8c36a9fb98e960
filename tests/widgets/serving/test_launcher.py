from __future__ import annotations

import argparse
import socket

import pytest

from widgets.serving import launcher
from widgets.serving.server import bind
from workbench.errors import WorkbenchError


@pytest.fixture
def parse():
    """Parses the arguments of ``workbench app``."""
    parser = argparse.ArgumentParser()
    launcher.add_command(parser.add_subparsers())
    return lambda *arguments: parser.parse_args(["app", *arguments])


def test_the_defaults_let_nobody_in_from_outside(parse):
    options = parse()

    assert options.ip == "127.0.0.1"
    assert options.token is None
    assert not options.no_token
    assert not options.browser
    assert options.run is launcher.run


@pytest.mark.parametrize(
    "arguments",
    [
        ("--port", "70000"),
        ("--port", "-1"),
        ("--port", "http"),
        ("--threads", "0"),
        ("--threads", "1.5"),
        ("--kernels", "-1"),
        ("--kernels", "many"),
        ("--token", "abc", "--no-token"),
    ],
    ids=" ".join,
)
def test_nonsense_is_refused_by_name(parse, arguments, capsys):
    with pytest.raises(SystemExit):
        parse(*arguments)

    assert arguments[0] in capsys.readouterr().err


def test_the_workbench_is_found_in_a_checkout_and_in_an_installed_package(tmp_path, monkeypatch):
    inside, beside = tmp_path / "widgets" / "notebooks", tmp_path / "notebooks"
    monkeypatch.setattr(launcher, "NOTEBOOKS", (inside, beside))

    with pytest.raises(WorkbenchError, match=r"workbench\.ipynb is in none of .*--notebook"):
        launcher.find_notebook()
    for folder in (beside, inside):
        folder.mkdir(parents=True)
        (folder / "workbench.ipynb").touch()
        assert launcher.find_notebook() == folder / "workbench.ipynb"


@pytest.mark.parametrize("name", ["missing.ipynb", "notes.txt", "."])
def test_what_is_not_a_notebook_is_refused(tmp_path, name):
    (tmp_path / "notes.txt").touch()

    with pytest.raises(WorkbenchError, match=r"is not a notebook.*\.ipynb"):
        launcher.find_notebook(tmp_path / name)


def test_tokens_are_random_and_long_unless_given():
    assert launcher.access_token("mine") == "mine"
    assert launcher.access_token(None) != launcher.access_token(None)
    assert len(launcher.access_token(None)) == 48


@pytest.mark.parametrize("token", ["", "  "])
def test_an_empty_token_is_refused(token):
    with pytest.raises(WorkbenchError, match="--no-token"):
        launcher.access_token(token)


def test_kernels_are_told_their_threads():
    environment = launcher.kernel_environment(3)

    assert environment["OMP_NUM_THREADS"] == environment["MKL_NUM_THREADS"] == "3"
    assert environment["WORKBENCH_APP"] == "1"


@pytest.fixture
def taken():
    """A port that somebody listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_taken_port_is_named(taken):
    with pytest.raises(WorkbenchError, match=f"Port {taken} is in use.*--port"):
        bind("127.0.0.1", taken)


def test_without_a_wish_the_next_free_port_is_taken(taken, monkeypatch):
    monkeypatch.setattr("widgets.serving.server.PORTS", [taken, 0])

    [bound] = bind("127.0.0.1", None)
    with bound:
        assert bound.getsockname()[1] not in (taken, 0)


def test_when_no_port_is_free_it_says_so(taken, monkeypatch):
    monkeypatch.setattr("widgets.serving.server.PORTS", [taken])

    with pytest.raises(WorkbenchError, match=f"Ports {taken} to {taken} are all in use"):
        bind("127.0.0.1", None)


@pytest.mark.parametrize("ip", ["192.0.2.1", "not an address"])
def test_an_address_of_another_machine_is_refused(ip):
    with pytest.raises(WorkbenchError, match="Expected an address of this machine"):
        bind(ip, 0)
