"""The layer table of large models, in Chromium: an encoder of twelve blocks, and 500 layers that are all different."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, Page, expect

SECONDS = 60_000
BENCHES = """\
from types import SimpleNamespace as Thing
from widgets import Workbench
from workbench import Recipe, Quantization, statistics
from workbench.report import Estimate, LayerRow, Report

class Task:
    noun, calibration = "texts", range(512)
    __len__ = lambda self: 1000

class Bench:
    training_images = 0
    task = Task()
    runtimes = devices = teachers = students = frontier_reports = lambda self: ()
    check = known = lambda self, recipe: None

    def __init__(self, name, layers, left_alone=()):
        self.name, self.layers, self.left_alone = name, layers, left_alone
        self.description = f"{len(layers)} layers"

    @property
    def baseline(self):
        return self.report(Recipe())

    def follow(self, recipe, cancel, progress=None):
        yield self.report(recipe)

    def preflight_stream(self, cancel):
        return iter(())

    def report(self, recipe):
        rows = []
        for at, layer in enumerate(self.layers):
            weights, activations = recipe.quantization.bits_for(layer.name)
            weights, activations = (None if layer.weights else weights), (None if layer.activations else activations)
            cost = None
            if weights or activations:
                value = (at * 37 % 11 - 1) / 2000
                cost = Estimate(low=value - 1e-3, value=value, high=value + 1e-3, unit="", source="simulated")
            rows.append(LayerRow(
                name=layer.name, kind=layer.kind, shape=layer.shape, parameters=layer.parameters, weight_bits=weights,
                activation_bits=activations, bytes=layer.parameters * (weights or 32) // 8,
                sqnr=6.0 * weights - 3 + at % 3 / 10 if weights else None, cost=cost))
        return Report(
            recipe=recipe, evaluated=1000, total=1000, layers=tuple(rows),
            accuracy=statistics.proportion(900, 1000, "simulated"),
            drop=statistics.paired_difference(20, 10, 1000, "simulated"), flips=statistics.flips(20, 10, 1000),
            size=Estimate.exact(sum(row.bytes for row in rows), "B"),
            latency=Estimate(low=4e-3, value=5e-3, high=6e-3, unit="s", source="measured"))

def layer(name, kind, *shape, weights="", activations=""):
    parameters = 1
    for size in shape:
        parameters *= size
    return Thing(name=name, kind=kind, shape=shape, parameters=parameters, weights=weights, activations=activations)

def encoder():
    table = "int8 table lookups have no activations"
    layers = [layer("embeddings.word_embeddings", "Embedding", 30522, 384, activations=table),
              layer("embeddings.position_embeddings", "Embedding", 512, 384, activations=table)]
    for block in range(12):
        at = f"encoder.layer.{block}"
        layers += [layer(f"{at}.attention.self.{name}", "Linear", 384, 384) for name in ("query", "key", "value")]
        layers += [layer(f"{at}.attention.output.dense", "Linear", 384, 384),
                   layer(f"{at}.intermediate.dense", "Linear", 1536, 384),
                   layer(f"{at}.output.dense", "Linear", 384, 1536)]
    layers += [layer("pooler.lstm", "LSTM", 384, 384, activations="LSTM: the hidden state stays in fp32"),
               layer("pooler.dense", "Linear", 384, 384)]
    norms = ["embeddings.LayerNorm"] + [
        f"encoder.layer.{block}.{at}.LayerNorm" for block in range(12) for at in ("attention.output", "output")]
    why = "normalisation needs the range of floating point"
    left = [Thing(name=name, kind="LayerNorm", reason=why) for name in norms]
    left.append(Thing(name="head.bn", kind="BatchNorm2d", reason="it follows no convolution"))
    return Bench("encoder", layers, left)

models = {
    "encoder": encoder(),
    "wide": Bench("wide", [layer(f"stage{at % 7}.block{at}.conv", "Conv2d", 16 + at, 8, 3, 3) for at in range(500)]),
    "small": Bench("small", [layer(f"blocks.{at}", "Linear", 8, 8) for at in range(12)]),
}
bench = Workbench(models, recipe=Recipe(quantization=Quantization(weight_bits=4, activation_bits=8)))
bench"""
QUERY = "encoder.layer.[0-11].attention.self.query"


@pytest.fixture(scope="module")
def address(start_app, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An app of benches that answer at once."""
    path: Path = tmp_path_factory.mktemp("notebooks") / "layers.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(BENCHES)]), path)
    return start_app("--notebook", str(path)).address


@pytest.fixture
def encoder(page: Page, address: str) -> Page:
    """The page with the encoder's layers, its costs known."""
    page.goto(address)
    expect(page.locator(".wb-layers .wb-one").first).to_be_visible(timeout=SECONDS)
    expect(page.locator(".wb-status")).to_have_attribute("data-state", "ready", timeout=SECONDS)
    expect(page.locator(".wb-c-cost[data-fresh=true]").first).to_be_visible()
    return page


def row(page: Page, name: str) -> Locator:
    """The row of a layer or a group."""
    return page.locator(".wb-layers .wb-one").filter(has=page.get_by_text(name, exact=True))


def pressed(row: Locator, state: str = "true") -> list[str]:
    """What the bits of a row say."""
    return row.locator(f'.wb-bits [aria-pressed="{state}"]').all_inner_texts()


def only_drawn(page: Page) -> int:
    """How many rows are in the page."""
    return page.locator(".wb-layers .wb-one").count()


def focused(page: Page) -> str:
    """The name in the row that has the focus."""
    return page.evaluate("document.activeElement?.closest('.wb-one')?.querySelector('bdi').textContent ?? ''")


def test_blocks_are_folded_and_unfolded(encoder: Page, faults) -> None:
    page = encoder
    expect(page.get_by_role("treegrid", name="Layers")).to_have_attribute("aria-rowcount", "11")
    group = row(page, QUERY)
    expect(group).to_contain_text("12 layers · Linear 384×384")
    expect(group).to_contain_text("1,769,472")
    expect(group).to_have_attribute("aria-expanded", "false")

    group.get_by_role("button", name="Show the layers of").click()
    expect(row(page, "encoder.layer.1.attention.self.query")).to_be_visible()
    expect(page.get_by_role("treegrid")).to_have_attribute("aria-rowcount", "23")
    group.get_by_role("button", name="Fold the layers of").click()
    expect(row(page, "encoder.layer.1.attention.self.query")).to_have_count(0)

    group.focus()
    page.keyboard.press("ArrowRight")
    expect(group).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.textContent") == "2"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    assert re.fullmatch(r"encoder\.layer\.\d+\.attention\.self\.query", focused(page))
    page.keyboard.press("ArrowLeft")
    assert focused(page) == QUERY
    page.keyboard.press("ArrowLeft")
    expect(group).to_have_attribute("aria-expanded", "false")
    assert focused(page) == QUERY
    assert not faults, faults


def test_a_digit_on_a_group_sets_all_its_layers_in_one_step(encoder: Page, faults) -> None:
    page = encoder
    group = row(page, QUERY)
    group.focus()
    page.keyboard.press("6")
    expect(page.locator(".wb-quantization")).to_contain_text("12 layers set apart")
    assert pressed(group) == ["6"]
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("2")
    expect(group).to_contain_text("mixed: 2, 6")
    assert pressed(group, "mixed") == ["2", "6"]

    page.locator("body").press("Control+z")
    page.locator("body").press("Control+z")
    expect(group.get_by_role("button", name="4 bits")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".wb-quantization")).to_contain_text("all layers")

    page.locator("body").press("Control+Shift+z")
    expect(group.get_by_role("button", name="6 bits")).to_have_attribute("aria-pressed", "true")
    group.focus()
    page.keyboard.press("Delete")
    expect(group.get_by_role("button", name="4 bits")).to_have_attribute("aria-pressed", "true")
    assert not faults, faults


def test_a_filter_opens_the_groups_that_it_finds_something_in(encoder: Page) -> None:
    page = encoder
    field = page.get_by_label("Filter layers by name")
    field.fill("layer.7.attention")
    group = row(page, QUERY)
    expect(group).to_contain_text("1 of 12 layers")
    expect(row(page, "encoder.layer.7.attention.self.query")).to_be_visible()
    assert only_drawn(page) == 8

    # what is set is what is seen
    group.focus()
    page.keyboard.press("Control+a")
    page.keyboard.press("8")
    expect(page.locator(".wb-quantization")).to_contain_text("4 layers set apart")

    field.fill("self.query")
    expect(group).to_have_attribute("aria-expanded", "false")
    expect(group).to_contain_text("mixed: 4, 8")
    assert only_drawn(page) == 1
    field.fill("")
    expect(page.get_by_role("treegrid")).to_have_attribute("aria-rowcount", "11")


def test_what_cannot_be_set_is_greyed_with_its_reason_and_left_out(encoder: Page) -> None:
    page = encoder
    page.get_by_role("button", name="activations", exact=True).click()
    page.get_by_label("Filter layers by name").fill("embeddings")
    words = row(page, "embeddings.word_embeddings")
    bits = words.get_by_role("group", name=re.compile("stays in fp32, int8 table lookups have no activations"))
    expect(bits).to_have_attribute("title", "int8 table lookups have no activations")
    expect(bits.get_by_role("button", name="4 bits")).to_have_attribute("aria-disabled", "true")
    expect(words).to_contain_text("int8 table lookups have no activations")
    assert pressed(words) == ["fp"]

    page.get_by_label("Filter layers by name").fill("pooler")
    row(page, "pooler.dense").focus()
    page.keyboard.press("Control+a")
    page.keyboard.press("4")
    expect(page.locator(".wb-quantization")).to_contain_text("1 layer set apart")

    foot = page.locator(".wb-alone")
    expect(foot).to_contain_text("26 layers are left alone: LayerNorm (25), BatchNorm2d (1)")
    expect(foot.get_by_text("it follows no convolution")).to_be_hidden()
    foot.locator("summary").click()
    expect(foot.get_by_text("BatchNorm2d: it follows no convolution")).to_be_visible()


def test_of_500_layers_only_those_in_sight_are_drawn_and_all_can_be_reached(encoder: Page, faults) -> None:
    page = encoder
    page.get_by_label("Model", exact=True).select_option("wide")
    table = page.get_by_role("grid", name="Layers")
    expect(table).to_have_attribute("aria-rowcount", "501", timeout=SECONDS)
    page.get_by_role("columnheader", name="Layer").get_by_role("button").click()
    first = row(page, "stage0.block0.conv")
    expect(first).to_have_attribute("aria-rowindex", "2")
    assert only_drawn(page) < 40

    first.focus()
    page.keyboard.press("End")
    assert focused(page) == "stage2.block499.conv"
    expect(row(page, "stage2.block499.conv")).to_be_in_viewport(ratio=0.9)
    expect(row(page, "stage2.block499.conv")).to_have_attribute("aria-rowindex", "501")
    page.keyboard.press("PageUp")
    assert focused(page) == "stage6.block489.conv"

    # the wheel does not take the focus away
    scroll = page.locator(".wb-layers .wb-scroll")
    scroll.evaluate("node => { node.scrollTop = 0; }")
    expect(first).to_be_in_viewport()
    assert focused(page) == "stage6.block489.conv"
    assert only_drawn(page) < 40
    page.keyboard.press("ArrowDown")
    expect(row(page, "stage0.block490.conv")).to_be_in_viewport()

    height = scroll.evaluate("node => node.scrollHeight - node.querySelector('thead').offsetHeight")
    assert height == 500 * first_height(page)

    page.keyboard.press("Control+a")
    page.keyboard.press("3")
    expect(page.locator(".wb-quantization")).to_contain_text("500 layers set apart")
    page.get_by_label("Filter layers by name").fill("block499")
    assert pressed(row(page, "stage2.block499.conv")) == ["3"]
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".wb-quantization")).to_contain_text("all layers")
    assert not faults, faults


def first_height(page: Page) -> int:
    """Of a row, in pixels."""
    return page.locator(".wb-layers .wb-one").first.evaluate("node => node.offsetHeight")


def test_the_table_fits_a_phone(encoder: Page) -> None:
    page = encoder
    page.set_viewport_size({"width": 390, "height": 844})
    row(page, QUERY).get_by_role("button", name="Show the layers of").click()
    page.locator(".wb-alone summary").click()
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    small, cut, heights = page.locator(".wb-layers").evaluate(
        """root => [
            [...root.querySelectorAll('button, input, summary')]
                .filter((e) => e.offsetParent && e.getBoundingClientRect().height < 39.5)
                .map((e) => e.outerHTML.slice(0, 80)),
            [...root.querySelectorAll('.wb-scroll, .wb-one, .wb-c-bits, .wb-c-cost, .wb-alone')]
                .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.className),
            [...new Set([...root.querySelectorAll('.wb-one')].map((e) => e.offsetHeight))],
        ]"""
    )
    assert small == []
    assert cut == []
    assert len(heights) == 1  # what scrolling relies on
