"""The instrument as its user meets it: keyboard, table, plot, training, phone."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect
from waiting import SECONDS, settled


def tile(page: Page, name: str) -> str:
    """All that a tile says."""
    return page.locator(f'[data-tile="{name}"]').inner_text()


def moved(page: Page, size: str) -> None:
    """Waits until the size is another one, which the first report of a new recipe says."""
    expect(page.locator('[data-tile="Size"]')).not_to_have_text(size, use_inner_text=True, timeout=SECONDS)


def bits(slider: Locator, wanted: str) -> None:
    """Waits until a bits slider says so."""
    expect(slider).to_have_attribute("aria-valuetext", f"{wanted} bits")


@pytest.fixture
def instrument(page: Page, app) -> Page:
    """The app, with its first recipe measured."""
    page.goto(app.address)
    page.get_by_label("Weight bits", exact=True).wait_for(timeout=SECONDS)
    settled(page)
    return page


def test_it_works_as_a_whole(instrument: Page, faults) -> None:
    page = instrument
    accuracy, size = tile(page, "Accuracy"), tile(page, "Size")
    assert "simulated" in accuracy
    assert "measured" in size
    assert "points" in accuracy or "not distinguishable" in accuracy

    # the slider, by keyboard
    slider = page.get_by_label("Weight bits", exact=True)
    slider.focus()
    page.keyboard.press("ArrowLeft")
    bits(slider, "3")
    moved(page, size)
    settled(page)
    assert tile(page, "Accuracy") != accuracy
    assert "kB" in tile(page, "Size")
    assert "µs" in tile(page, "Latency") or "ms" in tile(page, "Latency")
    three = (tile(page, "Accuracy"), tile(page, "Size"))

    # one layer to 2 bits, in the table
    row = page.get_by_role("row").filter(has_text="fc1")
    row.get_by_role("button", name="2 bits").click()
    expect(row.get_by_role("button", name="2 bits")).to_have_attribute("aria-pressed", "true")
    moved(page, three[1])
    settled(page)
    assert tile(page, "Accuracy") != three[0]

    # the file that the size is of
    with page.expect_download() as download:
        page.get_by_role("button", name="Save model").click()
    saved = Path(download.value.path()).stat().st_size
    assert f"{saved / 1000:.1f}" in tile(page, "Size")

    # undo, by keyboard
    page.locator("body").press("Control+z")
    bits(slider, "3")
    expect(row.get_by_role("button", name="2 bits")).to_have_attribute("aria-pressed", "false")

    # a point of the plot brings its recipe back
    page.get_by_role("button", name=re.compile(r"^W4 A8: ")).first.click()
    bits(slider, "4")
    settled(page)
    assert tile(page, "Accuracy") == accuracy
    assert not faults, faults


def test_a_distillation_shows_two_curves_and_stops(instrument: Page, faults) -> None:
    page = instrument
    page.get_by_role("button", name="Distil", exact=True).click()
    curves = page.locator(".wb-curves")
    expect(curves).to_contain_text("with teacher", timeout=SECONDS)
    expect(curves).to_contain_text("control")
    assert curves.locator("path").count() >= 2
    expect(curves).to_contain_text(re.compile(r"step (\d{3}|1,\d{3}) of"), timeout=SECONDS)  # something was learned
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.get_by_role("button", name="Distil", exact=True)).to_be_visible(timeout=SECONDS)
    expect(page.get_by_role("alert").filter(has_text=re.compile(r"\S"))).to_have_count(0)
    expect(page.locator(".wb-tried")).to_contain_text("student", timeout=SECONDS)
    settled(page)
    # the sliders go on working: the student can be quantized
    size = tile(page, "Size")
    page.get_by_label("Weight bits", exact=True).focus()
    page.keyboard.press("ArrowLeft")
    moved(page, size)
    settled(page)
    assert not faults, faults


def test_a_tab_that_is_closed_in_mid_training_leaves_nothing(instrument: Page, app, close_tab, until) -> None:
    kernel = app.kernel_of(instrument)
    instrument.get_by_role("button", name="Distil", exact=True).click()
    expect(instrument.get_by_role("button", name="Stop", exact=True)).to_be_visible(timeout=SECONDS)
    close_tab(instrument)
    assert until(lambda: not kernel.is_running())


def test_another_model_can_be_chosen(instrument: Page, faults) -> None:
    page = instrument
    page.get_by_label("Model", exact=True).select_option("teacher-cnn")
    expect(page.get_by_role("row").filter(has_text="conv5")).to_be_visible(timeout=SECONDS)
    page.get_by_label("Model", exact=True).select_option("seed-cnn")
    expect(page.get_by_role("row").filter(has_text="conv5")).to_have_count(0)
    settled(page)
    assert not faults, faults


def test_nonsense_over_the_websocket_changes_nothing(instrument: Page) -> None:
    """A viewer can send anything: what is greyed here is chosen all the same."""
    page = instrument
    before = tile(page, "Size")
    device = page.get_by_label("Device", exact=True)
    device.evaluate("select => [...select.options].forEach((option) => { option.disabled = false; })")
    device.select_option("mps")
    expect(page.get_by_role("alert").filter(has_text="mps: not on this machine")).to_be_visible()
    assert tile(page, "Size") == before
    expect(device).to_have_value("cpu", timeout=10_000)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(page: Page, app, scheme: str) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(app.address)
    page.get_by_label("Weight bits", exact=True).wait_for(timeout=SECONDS)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    small = page.evaluate(
        """() => [...document.querySelectorAll('.workbench button, .workbench select, .workbench input')]
            .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 39.5 && !e.closest('tbody'))
            .map((e) => e.outerHTML.slice(0, 80))"""
    )
    assert small == []
