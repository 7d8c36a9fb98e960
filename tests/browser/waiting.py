"""What tests of the whole page wait for."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

SECONDS = 60_000


def settled(page: Page) -> None:
    """Waits until the recipe on the screen has all its numbers, in every part of the page."""
    status = page.locator(".wb-status")
    expect(status).to_contain_text("10,000 of 10,000 images", timeout=SECONDS)
    # the parts are drawn one after the other: a row can be that of the recipe before
    page.wait_for_function(
        """() => {
            const parts = [".wb-status", ".wb-tried", ".wb-quantization"].map((name) => document.querySelector(name));
            const [status] = parts;
            return status.dataset.state === "ready" && status.textContent.includes("10,000 of 10,000 images")
                && parts.every((part) => part.dataset.recipe === status.dataset.recipe);
        }""",
        timeout=SECONDS,
    )


def now(page: Page) -> Locator:
    """The row of the recipe on the screen among those that were tried."""
    return page.locator('.wb-tried tr[aria-current="true"]')
