"""A student that learns in front of a person's eyes, and goes on to 4 bits."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect
from waiting import SECONDS, now, settled, too_small

GROW = """(before) => {
    const paths = [...document.querySelectorAll(".wb-curves :is(.wb-line-student, .wb-line-control)")];
    return paths.length === 2 && paths.every((path) => path.getAttribute("d").split("L").length > before);
}"""
"""Whether both curves have more than so many points."""


def grown(page: Page, points: int) -> None:
    """Waits until both curves have more than so many points."""
    page.wait_for_function(GROW, arg=points, timeout=SECONDS)


def bar(card: Locator, speaker: str) -> float:
    """Width of the longest bar of the teacher or the student, as a share of its track."""
    return max(
        card.locator(f'.wb-soft-bars [data-speaker="{speaker}"]').evaluate_all(
            "bars => bars.map((bar) => parseFloat(bar.style.width))"
        )
    )


def moved(slider: Locator, key: str, said: str) -> None:
    """Presses a key on a slider and waits until it says so."""
    slider.focus()
    slider.press(key)
    expect(slider).to_have_attribute("aria-valuetext", re.compile(f"^{said}"))


def test_a_student_learns_holds_is_kept_and_goes_on_to_four_bits(page: Page, app, faults) -> None:
    page.goto(app.address)
    panel, curves, card = (page.locator(f".wb-{name}") for name in ("distillation", "curves", "teaching"))
    panel.get_by_label("Labelled", exact=True).wait_for(timeout=SECONDS)
    settled(page)

    # what it will be is said before it is trained
    expect(panel.locator(".wb-sketch")).to_contain_text("23,626 parameters", timeout=SECONDS)
    expect(panel.locator('.wb-sketch [data-origin="predicted"]')).to_be_visible()
    expect(panel.locator(".wb-sketch")).to_contain_text("a call here, onnxruntime")
    panel.get_by_label("Width", exact=True).select_option(label="¼")
    expect(panel.locator(".wb-sketch")).to_contain_text("6,058 parameters", timeout=SECONDS)
    panel.get_by_label("First weights").select_option(label="new, by the seed")
    for wanted in ("5,000", "2,000"):
        moved(panel.get_by_label("Unlabelled", exact=True), "ArrowLeft", wanted)
    panel.get_by_label("Epochs").select_option(label="32")  # long enough that it is stopped, not finished

    # both curves grow
    panel.get_by_role("button", name="Distil", exact=True).click()
    grown(page, 1)
    grown(page, 2)
    expect(page.get_by_role("button", name="Fine-tune", exact=True)).to_be_disabled()

    # the temperature softens the teacher at once
    slider = card.get_by_label("Temperature")
    sure = bar(card, "teacher")
    moved(slider, "End", "20")
    assert bar(card, "teacher") < sure
    expect(panel.get_by_label("Temperature")).to_have_attribute("aria-valuetext", "20")
    moved(slider, "Home", "1")
    assert bar(card, "teacher") >= sure

    # it holds, goes on, and ends early with the best so far
    panel.get_by_role("button", name="Pause").click()
    expect(curves).to_contain_text("paused", timeout=SECONDS)
    expect(panel.get_by_role("button", name="Resume")).to_be_focused()
    panel.get_by_role("button", name="Resume").click()
    expect(curves).not_to_contain_text("paused", timeout=SECONDS)
    grown(page, 3)
    panel.get_by_role("button", name="Stop").click()
    expect(now(page)).to_contain_text("student ×0.25", timeout=SECONDS)
    settled(page)
    expect(curves).to_contain_text("the best so far was kept")
    expect(curves.locator(".wb-said")).to_contain_text(re.compile("the teacher|benefit", re.IGNORECASE))
    expect(card.locator('.wb-soft-bars [data-speaker="student"]').first).to_be_attached(timeout=SECONDS)

    # then 4 bits
    bits = page.get_by_label("Weight bits", exact=True)
    moved(bits, "Home", "1")
    moved(bits, "ArrowRight", "2")
    moved(bits, "ArrowRight", "3")
    moved(bits, "ArrowRight", "4")
    expect(now(page)).to_contain_text("student ×0.25 + W4", timeout=SECONDS)
    settled(page)
    expect(page.locator('.wb-point[data-now="true"]')).to_have_attribute("aria-label", re.compile("student ×0.25 . W4"))
    assert not faults, faults


def test_layers_are_paired_and_widened_one_by_one(page: Page, app, faults) -> None:
    page.goto(app.address)
    panel = page.locator(".wb-distillation")
    panel.get_by_label("Labelled", exact=True).wait_for(timeout=SECONDS)
    settled(page)

    # the proposal is shown, and changed
    rows, sketch = panel.locator(".wb-layer-pairs li"), panel.locator(".wb-sketch")
    expect(rows).to_have_count(0)
    panel.get_by_label("Hidden layers", exact=True).select_option(label="hints (FitNets)")
    expect(rows).to_have_count(1, timeout=SECONDS)
    expect(rows.get_by_label("Student’s layer, pool2")).to_have_value(re.compile("pool2 · 16×5×5|pool2 · 32×5×5"))
    rows.get_by_label("Teacher’s layer for pool2").select_option(label="pool2 · 32×14×14")
    panel.get_by_role("button", name="Add a pair").click()
    expect(rows).to_have_count(2, timeout=SECONDS)
    moved(panel.get_by_label("Their weight"), "ArrowRight", "2")
    panel.get_by_label("Epochs").select_option(label="2")  # changes nothing of it
    expect(rows.get_by_label("Teacher’s layer for pool2")).to_have_value("pool2 · 32×14×14")

    # what cannot be compared is told, and the proposal mends it
    panel.get_by_label("Hidden layers", exact=True).select_option(label="attention transfer")
    expect(sketch).to_contain_text("attention compares position with position", timeout=SECONDS)
    expect(panel.get_by_role("button", name="Distil", exact=True)).to_be_disabled()
    panel.get_by_role("button", name="As proposed").click()
    expect(sketch).not_to_contain_text("position with position", timeout=SECONDS)
    expect(panel.get_by_role("button", name="Distil", exact=True)).to_be_enabled()

    # one layer alone
    panel.locator("summary").click()
    panel.get_by_label("Single layer").select_option(label="conv2 · 32 of 64")
    panel.get_by_label("Its share").select_option(label="¼")
    expect(panel.get_by_label("Single layer")).to_have_value("conv2 · 16 of 64", timeout=SECONDS)
    assert not faults, faults


def test_where_they_differ_and_what_was_tried_can_be_looked_into(page: Page, app, faults) -> None:
    page.goto(app.address)
    panel, card, tried = (page.locator(f".wb-{name}") for name in ("distillation", "teaching", "tried"))
    panel.get_by_label("Labelled", exact=True).wait_for(timeout=SECONDS)
    settled(page)
    expect(card.get_by_role("button", name="Compare")).to_be_disabled()
    unlabelled = panel.get_by_label("Unlabelled", exact=True)
    moved(unlabelled, "Home", "0")
    for wanted in ("100", "200", "500"):
        moved(unlabelled, "ArrowRight", wanted)
    panel.get_by_label("Epochs").select_option(label="2")
    panel.get_by_role("button", name="Distil", exact=True).click()
    expect(now(page)).to_contain_text("student ×0.5", timeout=SECONDS)
    settled(page)

    # the matrix, and an example out of it
    card.get_by_role("button", name="Compare").click()
    pair = card.locator(".wb-pairs button").first
    pair.wait_for(timeout=SECONDS)
    names = pair.locator("span").inner_text().strip()
    pair.click()
    expect(card.locator(".wb-differ button").first).to_have_attribute("aria-pressed", "true")
    expect(card.locator(".wb-differ button").first).to_contain_text(names)

    # what was tried
    tried.get_by_role("button", name="students").click()
    expect(tried.locator("thead").first).to_contain_text("Control")
    tried.get_by_role("button", name="all").click()
    tried.get_by_role("button", name="Select").click()
    for row in (0, 1):
        tried.locator(".wb-scroll tbody tr").nth(row).get_by_role("button").click()
    tried.get_by_role("button", name="Compare two").click()
    expect(tried.locator(".wb-pair")).to_contain_text("the same examples", timeout=SECONDS)

    # and all of it on a phone
    page.set_viewport_size({"width": 390, "height": 844})
    panel.locator("summary").click()
    assert too_small(page, ".wb-distillation, .wb-teaching") == []
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    assert not faults, faults
