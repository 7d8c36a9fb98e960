from __future__ import annotations

import json
import signal
import time

import nbformat
import psutil
import pytest
from playwright.sync_api import expect


def alive(process):
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def open_page(page, address):
    page.goto(address)
    page.wait_for_selector("#loading", state="detached")


@pytest.fixture
def small(page, small_app):
    """The small notebook, open and ready."""
    open_page(page, small_app.address)
    return page


def alert(page):
    return page.get_by_role("alert")


def test_the_page_works_and_asks_nobody_else(small, faults):
    slider = small.get_by_role("slider")
    slider.press("ArrowRight")

    expect(small.get_by_text("25", exact=True)).to_be_visible()
    expect(small.get_by_text("threads 1")).to_be_visible()
    expect(small).to_have_title("Acceleration Workbench")
    expect(small.locator("html")).to_have_attribute("lang", "en")
    expect(small.get_by_role("main").get_by_role("heading", name="Small")).to_be_visible()
    expect(alert(small)).to_be_hidden()
    assert not faults, faults


def test_the_page_fits_a_phone_and_follows_a_dark_system(small):
    small.set_viewport_size({"width": 390, "height": 844})
    small.emulate_media(color_scheme="dark")

    assert small.evaluate("document.documentElement.scrollWidth") <= 390
    assert small.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 29)"
    # the page hears of the change by an event, which comes after the style has changed
    small.wait_for_function("document.body.dataset.jpThemeLight === 'false'")


def test_it_says_what_is_going_on_until_the_widgets_are_there(page, small_app):
    page.goto(small_app.address, wait_until="commit")

    page.wait_for_selector("#loading")
    assert page.locator("#loading_text").inner_text().endswith("…")
    page.wait_for_selector("#loading", state="detached")
    expect(page.get_by_role("slider")).to_be_visible()


def test_the_address_is_printed_once(small_app):
    assert small_app.base.startswith("http://127.0.0.1:")
    assert small_app.printed() == []


def test_without_the_token_one_gets_a_page_that_asks_for_it(page, small_app, faults, until):
    time.sleep(6)  # the warm kernel after the last test's viewer starts 5 s late
    assert until(lambda: len(small_app.kernels()) == 1)
    kernels = small_app.kernels()

    page.goto(small_app.base)
    expect(page.get_by_role("heading", name="Acceleration Workbench")).to_be_visible()
    page.goto(f"{small_app.base}?token=wrong")
    page.get_by_label("Token").fill("wrong")
    page.get_by_role("button", name="Open").click()
    expect(alert(page)).to_have_text("This is not the token of this server.")
    assert faults.external == []
    assert small_app.kernels() == kernels

    page.get_by_label("Token").fill(small_app.address.partition("=")[2])
    page.get_by_role("button", name="Open").click()
    expect(page.get_by_role("slider")).to_be_visible()


@pytest.mark.parametrize(
    "path",
    ["voila/files/picture.png", "voila/files/small.ipynb", "picture.png", "small.ipynb", "data/", "api/contents"],
)
def test_no_file_is_served(page, small_app, path):
    answer = page.request.get(small_app.address.replace("?", f"{path}?"))  # with the token

    assert answer.status in (403, 404)


def test_another_address_gets_a_page_of_its_own(page, small_app, faults):
    page.goto(small_app.address.replace("?", "nothing/here?"))

    expect(page.get_by_role("heading", name="There is nothing at this address")).to_be_visible()
    assert faults.external == []


def test_the_look_cannot_be_set_from_the_address(page, small_app):
    open_page(page, small_app.address + "&theme=dark%22%3E%3Cscript%3Ewindow.theirs=1%3C/script%3E&template=reveal")

    assert page.evaluate("window.theirs") is None
    assert small_app.told(page)["jupyterLabTheme"] == "light"
    expect(page.get_by_role("slider")).to_be_visible()


def test_a_closed_tab_stops_its_kernel_and_no_other(small, small_app, close_tab, until):
    kernel = small_app.kernel_of(small)
    others = set(small_app.kernels()) - {kernel}

    close_tab(small)

    assert until(lambda: not alive(kernel))
    assert all(alive(other) for other in others)


def test_a_page_that_is_left_before_it_is_ready_stops_its_kernel(page, small_app, close_tab, until):
    page.route("**/voila.js", lambda route: route.abort())  # the page never gets further than "Connecting…"
    page.goto(small_app.address)
    kernel = small_app.kernel_of(page)

    close_tab(page)

    assert until(lambda: not alive(kernel))


def test_a_reloaded_page_stops_its_kernel_too(small, small_app, until):
    kernel = small_app.kernel_of(small)

    small.reload()

    assert until(lambda: not alive(kernel))
    expect(small.get_by_role("slider")).to_be_visible()


def test_a_viewer_cannot_run_code(small, small_app, tmp_path):
    target = tmp_path / "made-by-a-viewer"
    replies = small.evaluate(
        """async ([code, kernel]) => {
            const url = `ws://${location.host}/api/kernels/${kernel}/channels?session_id=theirs`;
            const socket = new WebSocket(url);
            await new Promise((resolve) => (socket.onopen = resolve));
            const seen = [];
            const send = (type, content) => socket.send(JSON.stringify({
                channel: "shell", content, metadata: {}, parent_header: {}, buffers: [],
                header: { msg_id: type, msg_type: type, session: "theirs", username: "", version: "5.3", date: "" },
            }));
            const last = new Promise((resolve) => (socket.onmessage = ({ data }) => {
                const { header, parent_header: parent } = JSON.parse(data);
                seen.push([parent.msg_id, header.msg_type]);
                if (header.msg_type === "comm_info_reply") resolve();
            }));
            send("execute_request", { code, silent: false, store_history: false, allow_stdin: false });
            send("comm_info_request", {});
            await last;
            return seen;
        }""",
        [f"open({str(target)!r}, 'w')", small_app.told(small)["kernelId"]],
    )

    assert ["comm_info_request", "comm_info_reply"] in replies  # what is allowed was answered, after what is not
    assert not [reply for reply in replies if reply[0] == "execute_request"], json.dumps(replies)
    assert not target.exists()


def test_a_killed_kernel_is_told_and_a_new_session_is_one_click(small, small_app):
    small.get_by_role("slider").press("ArrowRight")
    small_app.kernel_of(small).kill()

    expect(alert(small)).to_contain_text("The session has ended (its kernel was killed")
    alert(small).get_by_role("button", name="Start a new session").click()
    expect(alert(small)).to_be_hidden()
    expect(small.get_by_text("16", exact=True)).to_be_visible()


def test_a_busy_kernel_is_not_a_dead_one(small):
    small.get_by_role("button", name="Wait").click()  # ten heartbeats long
    small.evaluate(
        """const banner = document.querySelector(".session-ended");
        const look = () => (window.told ||= banner.style.display !== "none");
        new MutationObserver(look).observe(banner, { attributes: true })"""
    )

    expect(small.get_by_text("waited")).to_be_visible()
    assert not small.evaluate("window.told")


def test_a_short_loss_of_the_server_mends_itself(small, small_app):
    small_app.process.suspend()
    try:
        expect(alert(small)).to_contain_text("the server cannot be reached")
    finally:
        small_app.process.resume()

    expect(alert(small)).to_be_hidden()
    small.get_by_role("slider").press("ArrowLeft")
    expect(small.get_by_text("9", exact=True)).to_be_visible()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_server_leaves_no_kernel_and_its_viewers_know(page, start_app, small_notebook, how, until):
    app = start_app("--notebook", str(small_notebook))
    open_page(page, app.address)
    assert until(lambda: len(app.kernels()) == 2)  # the viewer's, and the next one is warm
    kernels = app.kernels()

    assert app.stop(how) == 0

    assert until(lambda: not any(map(alive, kernels)), 5)
    expect(alert(page)).to_contain_text("The session has ended (the server cannot be reached")


def test_a_server_that_is_stopped_while_it_starts_leaves_no_kernel(start_app, small_notebook, until):
    app = start_app("--notebook", str(small_notebook))
    assert until(app.kernels)
    kernels = app.kernels()

    assert app.stop() == 0

    assert until(lambda: not any(map(alive, kernels)), 5)


def test_without_warm_kernels_the_page_works_and_a_fault_in_it_shows_no_source(page, start_app, tmp_path, until):
    cells = [nbformat.v4.new_code_cell("secret = 'a7f3'\nraise RuntimeError(secret)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "faulty.ipynb")
    app = start_app("--notebook", str(tmp_path / "faulty.ipynb"), "--kernels", "0")
    assert app.kernels() == []

    open_page(page, app.address)

    expect(page.get_by_text("There was an error when executing cell")).to_be_visible()
    assert "a7f3" not in page.content()
    assert len(app.kernels()) == 1
    app.stop()
