"""Points that came along with the model, in Chromium."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page, expect
from waiting import SECONDS, now, settled

SHORT = """\
import workbench as wb
from widgets import Workbench
bench = wb.zoo.load("seed-cnn")
[tuned, *_] = [each for each in bench.frontier_reports() if each.recipe.distillation and each.recipe.finetuning]
few = tuned.recipe.distillation.replace(images=1_000, labels=1_000, epochs=2)
once = tuned.recipe.finetuning.replace(images=1_000, epochs=1)
short = tuned.model_copy(update={"recipe": tuned.recipe.replace(distillation=few, finetuning=once)})
bench.frontier_reports = lambda: (short,)
Workbench(bench)"""
"""The workbench with one imported point: a student that is fine-tuned, both for seconds."""
ELSEWHERE = '.wb-point[data-elsewhere="true"]'


def test_the_plot_opens_full_and_a_point_is_measured_here_with_a_click(page: Page, app, faults) -> None:
    page.goto(app.address)
    page.locator(ELSEWHERE).first.wait_for(timeout=SECONDS)
    points = page.locator(ELSEWHERE)
    assert points.count() >= 60
    expect(page.locator(".wb-legend")).to_contain_text("imported: measured elsewhere")
    settled(page)
    before = points.count()

    # a student has to learn first: it is said, and nothing begins yet
    student = page.locator(f'{ELSEWHERE}[data-front="true"][aria-label*="student"]').first
    student.focus()
    page.keyboard.press("Enter")
    picked = page.locator(".wb-picked")
    expect(picked).to_contain_text("trained first, with its control")
    expect(picked.get_by_role("button", name="Train and measure")).to_be_enabled()
    expect(page.locator(".wb-status")).to_contain_text("10,000 of 10,000 images")

    # bits alone are measured at once, and the point is then one that was measured here
    key = page.locator(f'{ELSEWHERE}[aria-label^="W8 A8:"]').get_attribute("data-key")
    page.locator(f'.wb-point[data-key="{key}"]').dispatch_event("click")
    here = page.locator(f'.wb-point[data-key="{key}"][data-now="true"]')
    expect(here).to_have_attribute("data-origin", "simulated", timeout=SECONDS)
    settled(page)
    expect(here).to_have_attribute("data-elsewhere", "false")
    expect(picked).to_be_hidden()
    assert points.count() == before - 1
    assert not faults


@pytest.fixture
def short_app(start_app, tmp_path: Path):
    """The workbench with an imported point that is soon measured again."""
    path = tmp_path / "short.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(SHORT)]), path)
    return start_app("--notebook", str(path))


def test_an_imported_student_learns_beside_its_control_is_tuned_and_measured_here(
    page: Page, short_app, faults
) -> None:
    page.goto(short_app.address)
    curves, point = page.locator(".wb-curves"), page.locator(ELSEWHERE)
    point.wait_for(timeout=SECONDS)
    settled(page)
    key = point.get_attribute("data-key")
    point.dispatch_event("click")
    page.locator(".wb-picked").get_by_role("button", name="Train and measure").click()
    expect(curves.locator(".wb-line-student")).to_be_attached(timeout=SECONDS)
    expect(curves.locator(".wb-line-control")).to_be_attached()
    expect(curves.locator(".wb-line-accuracy")).to_be_attached(timeout=SECONDS)
    expect(now(page)).to_contain_text("fine-tuned", timeout=SECONDS)
    settled(page)
    expect(now(page)).to_contain_text(re.compile("student ×0.5 . W"))
    here = page.locator(f'.wb-point[data-key="{key}"]')
    expect(here).to_have_attribute("data-elsewhere", "false")
    expect(here).to_have_attribute("data-now", "true")
    assert not faults, faults
