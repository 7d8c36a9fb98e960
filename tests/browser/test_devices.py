"""What this machine does, what another one would, and a runtime that crashes: in Chromium."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, Page, expect
from waiting import SECONDS, settled, too_small

PROFILE = """\
[[profile]]
name = "Test board"
family = "laptop"
peaks = { fp32 = 1e9, int8 = 4e9 }
memory = 20e3
memory_bandwidth = 1e9
[profile.sources]
peaks = "by hand"
memory = "by hand"
memory_bandwidth = "example.org/board: by hand"
"""


def latency(page: Page) -> Locator:
    """The tile."""
    return page.locator('[data-tile="Latency"]')


@pytest.fixture
def instrument(page: Page, app) -> Page:
    """The app, with its first recipe measured."""
    page.goto(app.address)
    page.get_by_label("Weight bits", exact=True).wait_for(timeout=SECONDS)
    settled(page)
    return page


def look(page: Page, kind: str) -> Locator:
    """One of the sections of where the time goes."""
    return page.locator(f'.wb-speed [data-look="{kind}"]')


def test_runtime_threads_batch_and_device_change_tiles_waterfall_and_roofline(instrument: Page, faults) -> None:
    page = instrument
    card, fall = page.locator(".wb-elsewhere"), look(page, "waterfall")
    card.get_by_label("Elsewhere", exact=True).select_option("Raspberry Pi 5")
    points, there = card.locator(".wb-roof-point"), card.locator(".wb-there-latency")
    expect(points).to_have_count(5)
    fall.get_by_role("button", name="Take apart").click()
    expect(fall).to_have_attribute("data-state", "final", timeout=2 * SECONDS)
    expect(fall).to_contain_text("W4 A8 · onnxruntime · batch 1 · 1 thread")
    expect(fall.locator(".wb-fall li")).to_have_count(6)
    expect(fall.locator(".wb-fall li").first).to_contain_text("eager")
    expect(fall).to_contain_text(re.compile(r"the speed of plain PyTorch in all"))
    expect(fall).to_contain_text(re.compile(r"software optimisation\s*\d"))

    def seen(tile: str, of: str, here: str) -> None:
        """In the tile, in the waterfall, which is taken anew by itself, and beside the roofline."""
        expect(latency(page)).to_have_attribute("title", re.compile(tile), timeout=SECONDS)
        settled(page)
        expect(fall).to_contain_text(of, timeout=2 * SECONDS)
        expect(fall).to_have_attribute("data-state", "final", timeout=2 * SECONDS)
        expect(card).to_have_attribute("data-state", "final")
        expect(there).to_contain_text(re.compile(rf"measured here: [\d.]+\s[µm]s with {here}"))

    # batch, by keyboard: on the device that is not here its weights are read once for both inputs
    said, where = there.locator(".wb-number").inner_text(), points.first.get_attribute("transform")
    tile = latency(page).locator(".wb-there").inner_text()
    slider = page.get_by_label("Batch", exact=True)
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "2 inputs a call")
    expect(fall).to_have_attribute("data-state", re.compile("stale|growing"))
    expect(latency(page)).to_contain_text("Latency, batch 2", timeout=SECONDS)
    seen(
        "a call of 2 with onnxruntime, 1 thread;", "onnxruntime · batch 2 · 1 thread", "onnxruntime, 1 thread, batch 2"
    )
    expect(there.locator(".wb-number")).not_to_have_text(said)
    expect(latency(page).locator(".wb-there")).not_to_have_text(tile, use_inner_text=True)
    assert points.first.get_attribute("transform") != where

    # runtime, then threads
    page.get_by_label("Runtime", exact=True).select_option("eager")
    seen("a call of 2 with eager, 1 thread;", "eager · batch 2 · 1 thread", "eager, 1 thread, batch 2")
    expect(page.locator(".wb-deployment .wb-reasons").first).to_contain_text("eager has no integer kernels")
    threads = page.get_by_label("Threads", exact=True)
    threads.focus()
    page.keyboard.press("End")
    expect(page.locator(".wb-deployment .wb-warned")).to_contain_text("wait for each other")
    many = re.search(r"\d+", threads.get_attribute("aria-valuetext") or "")
    assert many is not None
    said = f"{many.group()} threads"
    seen(f"a call of 2 with eager, {said};", f"eager · batch 2 · {said}", f"eager, {said}, batch 2")

    # going back finds the waterfall of then
    for _ in range(2):
        page.locator("body").press("Control+z")
    expect(fall).to_have_attribute("data-state", "final", timeout=SECONDS)
    expect(fall).to_contain_text("onnxruntime · batch 2 · 1 thread")

    # the device that is not here: a waterfall is of this machine, and stays
    said, roofs = there.locator(".wb-number").inner_text(), card.locator(".wb-roof-name").all_inner_texts()
    card.get_by_label("Elsewhere", exact=True).select_option("STM32H7A3")
    expect(latency(page).locator(".wb-there")).to_contain_text("STM32H7A3")
    expect(there.locator(".wb-number")).not_to_have_text(said)
    assert card.locator(".wb-roof-name").all_inner_texts() != roofs
    expect(fall).to_have_attribute("data-state", "final")
    assert not faults, faults


def test_what_runs_is_compared_by_itself_with_what_is_simulated(instrument: Page, faults) -> None:
    page = instrument
    agreement = look(page, "agreement")
    expect(agreement).to_have_attribute("data-state", "final", timeout=2 * SECONDS)
    expect(agreement).to_contain_text("on 10,000 of 10,000")
    page.get_by_label("Runtime", exact=True).select_option("openvino")
    settled(page)
    expect(agreement).to_contain_text("W4 A8 · openvino", timeout=2 * SECONDS)
    expect(agreement).to_have_attribute("data-state", "final", timeout=2 * SECONDS)
    expect(agreement).to_contain_text(re.compile(r"openvino and the simulation, on 10,000 of 10,000"))
    assert not faults, faults


def test_layers_and_details_are_had_by_one_click_each_and_can_be_ended(instrument: Page, faults) -> None:
    page = instrument
    for kind, ask in (("layers", "Profile"), ("sweep", "Try all")):
        look(page, kind).get_by_role("button", name=ask).click()
    sweep = look(page, "sweep")
    sweep.get_by_role("button", name="Cancel").click()
    expect(sweep.get_by_role("button", name="Try all")).to_be_visible()
    layers = look(page, "layers")
    expect(layers).to_have_attribute("data-state", "final", timeout=SECONDS)
    expect(layers.locator("tbody tr", has_text="conv2").last).to_contain_text(re.compile(r"[µm]s"))
    shown = layers.locator("tbody tr").all_inner_texts()
    layers.get_by_role("button", name="A call").click()
    expect(layers.locator("th[aria-sort=descending]")).to_have_text(re.compile("A call"))
    by_time = layers.locator("tbody tr").all_inner_texts()
    assert sorted(by_time) == sorted(shown) and by_time != shown
    agreement = look(page, "agreement")
    expect(agreement).to_have_attribute("data-state", "final", timeout=SECONDS)
    expect(agreement).to_contain_text(re.compile(r"(100|9\d)\.\d\d\s%"))
    expect(agreement).to_contain_text("on 10,000 of 10,000")
    assert not faults, faults


def test_a_device_that_is_not_here_follows_the_recipe(instrument: Page, faults) -> None:
    page = instrument
    card = page.locator(".wb-elsewhere")
    expect(card.locator(".wb-roof-point")).to_have_count(0)
    card.get_by_label("Elsewhere", exact=True).select_option("Raspberry Pi 5")
    there = card.locator(".wb-there-latency")
    expect(there).to_contain_text(re.compile(r"[\d.]+ … [\d.]+\s[µm]s"))
    expect(there.locator(".wb-badge[data-origin=predicted]")).to_be_visible()
    expect(there).to_contain_text("limited by")
    expect(card).to_contain_text("fits")
    expect(latency(page).locator(".wb-there")).to_contain_text("Raspberry Pi 5")
    points = card.locator(".wb-roof-point")
    expect(points).to_have_count(5)

    # the points tell what they are, by keyboard
    points.first.focus()
    told = card.locator(".wb-roof-told")
    before = told.inner_text()
    page.keyboard.press("ArrowRight")
    expect(told).not_to_have_text(before, use_inner_text=True)
    expect(told).to_contain_text(re.compile(r"MACs · .* moved · .* FLOP per byte · int8 kernel"))

    # fewer bits, a larger batch, another device: at once, before anything is measured
    said, where = there.inner_text(), points.first.get_attribute("transform")
    slider = page.get_by_label("Weight bits", exact=True)
    slider.focus()
    page.keyboard.press("End")  # fp32 weights: no integer kernel runs
    expect(there).not_to_have_text(said, use_inner_text=True)
    expect(told).to_contain_text("fp32 kernel")
    assert points.first.get_attribute("transform") != where
    tile = latency(page).locator(".wb-there").inner_text()
    card.get_by_label("Elsewhere", exact=True).select_option("STM32H7A3")
    expect(latency(page).locator(".wb-there")).not_to_have_text(tile, use_inner_text=True)
    expect(card.locator(".wb-roof-name", has_text="fp32 560")).to_be_visible()
    card.get_by_label("Elsewhere", exact=True).select_option("Coral Edge TPU")
    expect(card.locator(".wb-there-reason")).to_contain_text("would need floating point")
    expect(points.first).to_be_hidden()
    assert not faults, faults


def test_one_latency_that_was_measured_there_rescales_it(instrument: Page, faults) -> None:
    page = instrument
    card = page.locator(".wb-elsewhere")
    card.get_by_label("Elsewhere", exact=True).select_option("Raspberry Pi 4")
    there = card.locator(".wb-there-latency")
    expect(there.locator(".wb-badge[data-origin=predicted]")).to_be_visible()
    predicted = there.locator(".wb-number").inner_text()
    box = card.get_by_label("Measured there?")
    box.fill("soon")
    box.press("Enter")
    expect(card.get_by_role("alert")).to_contain_text("Milliseconds above 0 are needed")
    box.fill("5")
    card.get_by_role("button", name="Rescale").click()
    expect(there.locator(".wb-number")).to_have_text(re.compile(r"5\.00\sms"))
    expect(there.locator(".wb-badge[data-origin=imported]")).to_contain_text("measured there")
    expect(card).to_contain_text("Stretched to 5.00")
    slider = page.get_by_label("Weight bits", exact=True)
    slider.focus()
    page.keyboard.press("End")
    expect(there.locator(".wb-badge[data-origin=predicted]")).to_be_visible()
    page.locator("body").press("Control+z")
    expect(there.locator(".wb-badge[data-origin=imported]")).to_be_visible()
    card.get_by_role("button", name="Forget the measured latency").click()
    expect(there.locator(".wb-number")).to_have_text(predicted)
    assert not faults, faults


def test_a_device_of_ones_own(instrument: Page, faults) -> None:
    page = instrument
    card = page.locator(".wb-elsewhere")
    card.get_by_text("A device of your own").click()
    text = card.get_by_label("Profiles as TOML")
    text.fill(PROFILE.replace("1e9, int8", "-1e9, int8"))
    card.get_by_role("button", name="Add").click()
    expect(card.get_by_role("alert")).to_contain_text(re.compile(r"profile 1 \(Test board\): peaks\.fp32 = -1"))
    text.fill(PROFILE)
    card.get_by_role("button", name="Add").click()
    expect(card.get_by_label("Elsewhere", exact=True)).to_have_value("Test board")
    expect(card).to_contain_text("does not fit")
    card.get_by_text("Where the figures come from").click()
    expect(card.get_by_role("link", name="example.org/board")).to_have_attribute("href", "https://example.org/board")
    assert not faults, faults


def test_it_fits_a_phone(page: Page, app, faults) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(app.address)
    page.get_by_label("Weight bits", exact=True).wait_for(timeout=SECONDS)
    card = page.locator(".wb-elsewhere")
    card.get_by_label("Elsewhere", exact=True).select_option("NVIDIA T4")
    expect(card.locator(".wb-roof-point").first).to_be_visible()
    look(page, "timing").get_by_role("button", name="Time in detail").click()
    expect(look(page, "timing")).to_have_attribute("data-state", "final", timeout=2 * SECONDS)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    assert too_small(page, ".wb-elsewhere, .wb-speed") == []
    assert not faults, faults


CRASHING = """\
import os
from collections.abc import Sequence


class Crashing:
    name = "crashing"
    takes = "graph"
    compiles = False

    def unavailable(self) -> None:
        return None

    def devices(self) -> Sequence[str]:
        return ["cpu"]

    def version(self) -> str:
        return "1"

    def supports(self, deployment, source) -> None:
        return None

    def prepare(self, source, layers, deployment):
        os.abort()
"""
NOTEBOOK = """\
import sys
sys.path.insert(0, {folder!r})
from crashing import Crashing
import workbench as wb
from workbench import runtimes
runtimes.RUNTIMES += (Crashing(),)
runtimes.offers.cache_clear()
from widgets import Workbench
Workbench(wb.zoo.load("seed-cnn"))
"""


def test_a_runtime_that_crashes_leaves_the_app_alive_with_its_reason(
    page: Page, start_app, tmp_path: Path, faults
) -> None:
    (tmp_path / "crashing.py").write_text(CRASHING)
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "crash.ipynb"
    cell = nbformat.v4.new_code_cell(NOTEBOOK.format(folder=str(tmp_path)))
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)
    app = start_app("--notebook", str(path))
    page.goto(app.address)
    page.get_by_label("Weight bits", exact=True).wait_for(timeout=SECONDS)
    settled(page)
    kernel = app.kernel_of(page)
    page.get_by_label("Runtime", exact=True).select_option("crashing")
    whole = page.locator(".workbench")
    why = re.compile(r"crashing crashed on this model \(SIGABRT\).*Choose another runtime\.", re.DOTALL)
    expect(whole).to_contain_text(why, timeout=2 * SECONDS)
    assert kernel.is_running()

    # everything else goes on, with the numbers that need no runtime
    expect(page.locator('[data-tile="Accuracy"] .wb-number')).to_have_text(re.compile(r"\d\d\.\d\d"))
    page.get_by_label("Runtime", exact=True).select_option("onnxruntime")
    settled(page)
    expect(whole).not_to_contain_text(why)
    expect(latency(page)).to_contain_text(re.compile("[µm]s"))
    look(page, "sweep").get_by_role("button", name="Try all").click()
    expect(look(page, "sweep").locator(".wb-heat-failed")).to_contain_text("crashed on this model", timeout=2 * SECONDS)
    assert app.kernel_of(page).pid == kernel.pid
    assert not faults, faults


def test_every_form_of_a_model_is_handed_to_the_browser(instrument: Page, faults) -> None:
    page = instrument
    page.get_by_role("button", name="Export…").click()
    forms = page.get_by_label("Save as", exact=True)
    expect(forms).to_be_focused()
    saved = page.locator(".wb-export")
    for form, name in (
        ("safetensors", "seed-cnn-W4-A8.safetensors"),
        ("onnx", "seed-cnn-W4-A8.onnx"),
        ("pt2", "seed-cnn-W4-A8.pt2"),
        ("openvino", "seed-cnn-W4-A8-openvino.zip"),
        ("folder", "seed-cnn-W4-A8-folder.zip"),
    ):
        forms.select_option(form)
        with page.expect_download(timeout=2 * SECONDS) as download:
            saved.get_by_role("button", name="Save model").click()
        assert download.value.suggested_filename == name
        expect(saved).to_contain_text(re.compile(rf"{re.escape(name)}: .*Read again, .* of [\d,]+ examples"))
    assert not faults, faults
