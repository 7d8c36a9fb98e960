from __future__ import annotations

import nbformat
import pytest
from voila.configuration import VoilaConfiguration

from widgets.serving.server import CONTENT_SECURITY_POLICY, Notebooks, Server, bind, configuration


@pytest.fixture
def make(monkeypatch):
    """Makes servers that listen but do not run."""
    monkeypatch.setattr("signal.signal", lambda *_: None)  # the test's own handlers stay
    sockets = []

    def make(ip="127.0.0.1", key="abc"):
        sockets.extend(bind(ip, 0))
        return Server(sockets[-1:], ip=ip, token=key, config=configuration(0))

    yield make
    for bound in sockets:
        bound.close()


def test_the_address_holds_the_token_and_the_port_that_was_given(make):
    server = make(key="a b&c")

    assert server.address == f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/?token=a%20b%26c"
    assert make(key="").address.endswith("/")
    assert "0.0.0.0" not in make(ip="0.0.0.0").address  # noqa: S104 - nobody can open that


def test_a_voila_configuration_that_lies_about_changes_nothing(make, tmp_path, monkeypatch):
    (tmp_path / "voila.json").write_text('{"VoilaConfiguration": {"file_allowlist": [".*"], "show_tracebacks": true}}')
    monkeypatch.chdir(tmp_path)
    server = make()

    server.initialize([])

    assert server.voila_configuration.file_allowlist == []
    assert not server.voila_configuration.show_tracebacks


def test_every_setting_is_one_that_voila_knows():
    settings = configuration(2).VoilaConfiguration

    assert set(settings) <= set(VoilaConfiguration.class_trait_names(config=True))
    assert VoilaConfiguration(config=configuration(2)).default_pool_size == 2
    assert not VoilaConfiguration(config=configuration(0)).preheat_kernel


@pytest.mark.parametrize(
    ("ip", "key", "from_anywhere"),
    [("127.0.0.1", "", False), ("127.0.0.1", "x", True), ("0.0.0.0", "", True)],  # noqa: S104
)
def test_without_a_token_only_names_of_this_machine_are_answered(make, ip, key, from_anywhere):
    server = make(ip=ip, key=key)
    server.initialize([])

    assert server.init_settings()["allow_remote_access"] is from_anywhere


def test_the_page_may_load_nothing_from_elsewhere():
    for directive in CONTENT_SECURITY_POLICY.split("; "):
        for source in directive.split()[1:]:
            assert source in ("data:", "blob:") or source.startswith("'")


@pytest.fixture
def notebooks(tmp_path):
    """Where the notebooks of a server come from."""
    return Notebooks(root_dir=str(tmp_path))


def save(folder, *sources):
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(s) for s in sources]), folder / "a.ipynb")


def test_every_notebook_is_served_with_one_heartbeat(notebooks, tmp_path):
    save(tmp_path, "1 + 1")
    assert [cell.source for cell in notebooks.get("a.ipynb")["content"].cells][1:] == ["1 + 1"]
    assert "Heartbeat()" in notebooks.get("a.ipynb")["content"].cells[0].source

    save(tmp_path, "1 + 1", "Heartbeat(interval=1)")
    assert len(notebooks.get("a.ipynb")["content"].cells) == 2


def test_asking_what_a_notebook_is_does_not_need_its_content(notebooks, tmp_path):
    save(tmp_path, "1 + 1")

    assert notebooks.get("a.ipynb", content=False)["content"] is None
