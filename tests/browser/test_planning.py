"""Predictions under the hand and plans under a budget, in Chromium."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect
from waiting import SECONDS, settled

WATCH = """() => {
    const root = document.querySelector(".workbench");
    window.origins = [];
    new MutationObserver(() => {
        const tile = root.querySelector('[data-tile="Accuracy"]').dataset.origin;
        const point = root.querySelector('.wb-point[data-now="true"]')?.dataset.origin;
        const now = `${tile} ${point}`;
        if (window.origins.at(-1) !== now) window.origins.push(now);
    }).observe(root, { subtree: true, childList: true, attributes: true, characterData: true });
}"""


def badge(page: Page) -> Locator:
    """Where the accuracy comes from."""
    return page.locator('[data-tile="Accuracy"] .wb-badge')


@pytest.fixture
def instrument(page: Page, app) -> Page:
    """The app, which has learned what each layer costs."""
    page.goto(app.address)
    page.get_by_label("Weight bits", exact=True).wait_for(timeout=SECONDS)
    settled(page)
    page.get_by_label("Size budget", exact=True).wait_for(timeout=2 * SECONDS)
    return page


def test_a_slider_shows_the_prediction_before_the_measurement(instrument: Page, faults) -> None:
    page = instrument
    slider = page.get_by_label("Activation bits", exact=True)
    slider.focus()
    page.evaluate(WATCH)
    for bits in (7, 6, 5, 4):  # faster than anything is measured
        page.keyboard.press("ArrowLeft")
        expect(slider).to_have_attribute("aria-valuetext", f"{bits} bits")
    page.wait_for_function("window.origins.some((each) => each.startsWith('predicted'))")
    expect(badge(page)).to_have_attribute("data-origin", "simulated", timeout=SECONDS)
    settled(page)
    seen = page.evaluate("window.origins")
    tiles = [each.split()[0] for each in seen]
    assert tiles.index("predicted") < len(tiles) - 1 - tiles[::-1].index("simulated")
    assert "predicted predicted" in seen and seen[-1] == "simulated simulated"

    # what was predicted and measured is drawn from the second one on
    foresight = page.locator(".wb-foresight")
    slider.focus()
    page.keyboard.press("ArrowRight")
    expect(slider).to_have_attribute("aria-valuetext", "5 bits")
    expect(foresight).to_contain_text(re.compile(r"95 % intervals held \d of [2-5]"), timeout=SECONDS)
    expect(foresight).to_contain_text(re.compile(r"Off by \d+\.\d\d points on average"))
    assert not faults, faults


def test_a_budget_proposes_a_plan_that_is_tried_and_undone(instrument: Page, faults) -> None:
    page = instrument
    before = page.locator('[data-tile="Size"]').inner_text()
    proposal = page.get_by_role("group", name="Proposal")
    expect(proposal).to_be_hidden()
    slider = page.get_by_label("Size budget", exact=True)
    slider.focus()
    box = slider.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + box["height"] / 2)
    page.mouse.down()
    for share in (0.45, 0.4, 0.35, 0.3):
        page.mouse.move(box["x"] + box["width"] * share, box["y"] + box["height"] / 2)
    page.mouse.up()
    expect(proposal).to_contain_text("predicted")
    expect(proposal).to_contain_text("points")
    expect(slider).to_have_attribute("aria-valuetext", re.compile(r"\d+\.\d\skB"))
    assert page.locator('[data-tile="Size"]').inner_text() == before  # only proposed

    # in the plot: the point, the budget, the predicted frontier; in the table: bits and reasons
    expect(page.locator('.wb-point[data-proposed="true"]')).to_have_attribute("data-origin", "predicted")
    expect(page.locator(".wb-limit")).to_have_count(1)
    expect(page.locator(".wb-ahead")).to_have_count(1)
    expect(page.locator('.wb-bits button[data-proposed="true"]').first).to_be_visible()
    expect(page.locator(".wb-reason").first).to_contain_text("of the expected loss", timeout=SECONDS)

    # a digit in the table edits the proposal, not the recipe
    row = page.get_by_role("row").filter(has_text="fc2")
    row.get_by_role("button", name=re.compile("^6 bits")).click()
    expect(proposal.locator(".wb-tag")).to_be_visible()  # hidden text counts as contained
    expect(row.get_by_role("button", name="6 bits, proposed")).to_have_count(1)
    assert page.locator('[data-tile="Size"]').inner_text() == before

    # tried, it is measured
    said = re.search(r"[\d.]+\skB", proposal.inner_text())
    assert said is not None
    proposal.get_by_role("button", name="Try it").click()
    expect(proposal).to_be_hidden()
    expect(page.locator('[data-tile="Size"]')).to_contain_text(said.group().split()[0], timeout=SECONDS)
    settled(page)
    expect(badge(page)).to_have_attribute("data-origin", "simulated")
    expect(page.locator('.wb-point[data-now="true"]')).to_have_attribute("data-origin", "simulated")

    # and one step back all is as it was
    page.locator("body").press("Control+z")
    kilobytes = re.search(r"[\d.]+\s?kB", before)
    assert kilobytes is not None
    expect(page.locator('[data-tile="Size"]')).to_contain_text(kilobytes.group(), timeout=SECONDS)
    settled(page)
    assert page.locator('[data-tile="Size"]').inner_text() == before
    assert not faults, faults


def test_a_budget_that_nothing_keeps_says_what_does(instrument: Page, faults) -> None:
    page = instrument
    typed = page.get_by_label("Size budget as a number")
    typed.fill("2")
    typed.press("Enter")
    proposal = page.get_by_role("group", name="Proposal")
    expect(proposal).to_contain_text(re.compile(r"No mix is as small as 2\.00\skB; the nearest has \d+\.\d\skB\."))
    typed.fill("few")
    typed.press("Enter")
    expect(page.get_by_role("alert").filter(has_text="'few' is none")).to_be_visible()
    proposal.get_by_role("button", name="Discard").click()
    expect(proposal).to_be_hidden()
    assert not faults, faults


def test_a_method_that_cannot_be_planned_with_says_so_and_how_to_go_on(instrument: Page, faults) -> None:
    page = instrument
    correction = page.get_by_label("Correction", exact=True)
    correction.select_option(label="mean and spread")
    card = page.locator(".wb-plan")
    expect(card).to_contain_text("makes layers depend on each other", timeout=SECONDS)
    expect(page.get_by_label("Size budget", exact=True)).to_be_hidden()
    card.get_by_role("button", name=re.compile("^Plan with ")).click()
    page.get_by_label("Size budget", exact=True).wait_for(timeout=2 * SECONDS)
    expect(card).not_to_contain_text("makes layers depend")
    page.locator("body").press("Control+z")
    expect(card).to_contain_text("makes layers depend on each other", timeout=SECONDS)
    assert not faults, faults
