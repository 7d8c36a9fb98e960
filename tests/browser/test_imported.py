"""Points that came along with the model, in Chromium."""

from __future__ import annotations

from playwright.sync_api import Page, expect
from waiting import SECONDS, settled

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
