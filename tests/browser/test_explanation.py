"""Which layer hurts, asked in the page and answered by a scan in Python."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

import workbench as wb

SECONDS = 60_000


def ready(page: Page) -> None:
    """Waits until the recipe on the screen has all its numbers."""
    expect(page.locator(".wb-status")).to_have_attribute("data-state", "ready", timeout=SECONDS)


@pytest.fixture(scope="module")
def worst(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The layer whose return to fp32 alone wins most, by measuring one recipe for each layer."""
    bench = wb.zoo.load("seed-cnn", store=wb.Store(tmp_path_factory.mktemp("scan")))
    low = wb.Quantization(weight_bits=3, activation_bits=8)
    drops = {
        layer.name: bench.measure(
            wb.Recipe(quantization=low.replace(layers={layer.name: {"weight_bits": None, "activation_bits": None}}))
        ).drop.value
        for layer in bench.layers
    }
    return min(drops, key=lambda name: drops[name])


def test_the_layer_that_hurts_its_histogram_and_the_flips(page: Page, app, faults, worst: str) -> None:
    page.goto(app.address)
    slider = page.get_by_label("Weight bits", exact=True)
    slider.wait_for(timeout=SECONDS)
    ready(page)
    slider.focus()
    page.keyboard.press("ArrowLeft")
    expect(slider).to_have_attribute("aria-valuetext", "3 bits")
    expect(page.locator(".wb-tried tr[aria-current]")).to_contain_text("W3 A8", timeout=SECONDS)
    ready(page)

    card = page.locator(".wb-explain")
    expect(card.locator(".wb-eff-row")).to_have_count(0)
    card.get_by_role("button", name="Which layer hurts?").click()
    answer = card.locator(".wb-eff-answer")
    expect(answer).to_have_text(re.compile(rf"^{worst}: \d\.\d\d points \(\d\.\d\d … \d\.\d\d\) come"), timeout=SECONDS)
    expect(card.locator(".wb-badge[data-origin=simulated]")).to_be_visible()
    expect(card.locator(".wb-eff-running")).to_be_hidden(timeout=SECONDS)
    expect(card.locator(".wb-eff-row")).to_have_count(5)

    # the pictures of a layer, by keyboard
    card.locator(".wb-eff-row").first.focus()
    page.keyboard.press("Enter")
    expect(card.locator(".wb-hist svg")).to_have_count(2, timeout=SECONDS)
    assert card.locator(".wb-h-after").count() > 10
    expect(card.get_by_role("img", name=re.compile("^Weights of the layer"))).to_be_visible()

    # the flips: pictures, pages, a filter, the other tab
    rows = card.locator(".wb-flips li")
    expect(rows).to_have_count(12)
    assert card.locator(".wb-flips img").first.evaluate("image => image.naturalWidth") == 28
    first = rows.first.inner_text()
    card.get_by_role("button", name="Further examples").click()
    expect(rows.first).not_to_have_text(first, use_inner_text=True)
    card.get_by_label("Undone by").select_option(worst)
    expect(rows.first).to_contain_text(worst)
    card.get_by_role("button", name=re.compile("^Won ")).click()
    expect(rows.first).to_have_attribute("data-index", re.compile(r"\d+"))
    expect(card.get_by_role("button", name=re.compile("^Won "))).to_have_attribute("aria-pressed", "true")

    # what it advises is one step, which undo takes back
    card.get_by_role("button", name=f"Keep {worst} in 8 bits").click()
    row = page.locator(".wb-layers .wb-one").filter(has=page.get_by_text(worst, exact=True))
    expect(row.get_by_role("button", name="8 bits")).to_have_attribute("aria-pressed", "true")
    expect(card).to_have_attribute("data-state", "stale")
    page.locator("body").press("Control+z")
    expect(row.get_by_role("button", name="3 bits")).to_have_attribute("aria-pressed", "true")
    expect(card).to_have_attribute("data-state", "final")
    assert not faults, faults


def test_it_fits_a_phone_and_can_be_cancelled(page: Page, app, faults) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(app.address)
    page.get_by_label("Weight bits", exact=True).wait_for(timeout=SECONDS)
    card = page.locator(".wb-explain")
    card.get_by_role("button", name="Which layer hurts?").click()  # it waits for the measuring
    card.get_by_role("button", name="Cancel the explanation").click()
    expect(card.locator(".wb-eff-running")).to_be_hidden()
    ready(page)
    card.get_by_role("button", name=re.compile("Which layer hurts|Look again")).click()
    expect(card.locator(".wb-flips li").first).to_be_visible(timeout=SECONDS)
    expect(card.locator(".wb-eff-running")).to_be_hidden(timeout=SECONDS)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    small = card.evaluate(
        """card => [...card.querySelectorAll('button, select')]
            .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 39.5).map((e) => e.outerHTML)"""
    )
    assert small == []
    assert not faults, faults
