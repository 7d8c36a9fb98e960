"""What tests of the whole page wait for and look at."""

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


def too_small(page: Page, cards: str) -> list[str]:
    """Controls in some cards, a CSS selector, that are lower than a finger needs."""
    found: list[str] = page.evaluate(
        """(cards) => [...document.querySelectorAll(cards)]
            .flatMap((card) => [...card.querySelectorAll('button, select, input, summary')])
            .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 39.5)
            .map((e) => e.outerHTML.slice(0, 80))""",
        cards,
    )
    return found
