"""The picture of a device that is not here, and what a person can ask of it."""

from __future__ import annotations

import json

import pytest

from widgets.bounding import Calibration, Elsewhere
from widgets.device_panel import DevicePanel, device_view, seconds_of
from widgets.profile_sources import linked
from widgets.roofline import DRAWN, roofline_view, rows_view, span
from widgets.tiles import Tiles
from workbench.errors import WorkbenchError
from workbench.hardware import Count, Counts, OperatorClass, profile, profiles
from workbench.hardware.precision import Precision
from workbench.hardware.roofline import bound
from workbench.recipe import Deployment, Quantization, Recipe

INT8 = Recipe(quantization=Quantization(weight_bits=8, activation_bits=8))


CONVOLUTION = OperatorClass.CONVOLUTION


def ask(device: str, recipe: Recipe = INT8, layers: int = 3, macs: int = 10**6, peak: int = 5000):
    """A bound of a chain of layers, each with twice the work of the one before, and a pooling."""
    names = [f"conv{k}" for k in range(layers)]
    rows = [
        Count(name, "convolution", CONVOLUTION, macs * 2 ** min(k, 8), ((f"{name}.weight", 400),), 2000, 3000)
        for k, name in enumerate(names)
    ]  # fmt: skip
    rows.append(Count("pool", "max_pool2d", OperatorClass.MEMORY, 0, (), 3000, 1000))
    state = {f"{name}.weight": 400 for name in names}
    counts = Counts(rows=tuple(rows), state=state, inputs=100, outputs=10, peak_activation=peak, uncounted={})
    bits = recipe.quantization.weight_bits, recipe.quantization.activation_bits
    asked = Precision(recipe.quantization, dict.fromkeys(names, bits), {f"{name}.weight": name for name in names})
    return bound(counts, asked, profile(device), recipe.deployment.batch)


def found(device: str, recipe: Recipe = INT8, calibration: Calibration | None = None, **changes) -> Elsewhere:
    return Elsewhere(recipe, profile(device), ask(device, recipe, **changes), "", calibration)


def shown(device: str, **changes):
    return device_view(profiles(), profile(device), found(device, **changes))


def test_before_one_is_chosen_there_is_a_list_and_no_number():
    view = device_view(profiles(), None, None)
    assert view["state"] == "empty" and view["answer"] is None and view["value"] == ""
    families = [group["family"] for group in view["groups"]]
    assert families[0] == "microcontroller" and families[-1] == "data centre"
    assert sum(len(group["names"]) for group in view["groups"]) == len(profiles())


@pytest.mark.parametrize("device", [each.name for each in profiles()])
def test_every_device_has_a_picture_that_the_browser_can_read(device):
    for recipe in (Recipe(), INT8, Recipe(quantization=Quantization(weight_bits=4))):
        view = device_view(profiles(), profile(device), found(device, recipe))
        answer = json.loads(json.dumps(view, allow_nan=False))["answer"]
        assert (answer["latency"] is None) == bool(answer["reason"])
        assert [fact["name"] for fact in answer["facts"]] == ["Memory", "Bits", "Energy"]
        assert answer["sources"] and all(row["value"] and row["parts"] for row in answer["sources"])


def test_the_range_is_labelled_predicted_and_says_what_limits_it():
    answer = shown("Raspberry Pi 5")["answer"]
    assert answer["latency"]["origin"] == {"origin": "predicted", "word": "predicted"}
    latency = ask("Raspberry Pi 5").latency
    assert answer["latency"]["text"] == span(latency.low, latency.high)
    assert answer["latency"]["limit"].startswith("limited by compute (")
    assert sum(each["share"] for each in answer["shares"]) == pytest.approx(1, abs=1e-3)


def test_what_does_not_fit_says_so_and_the_largest_batch_that_does():
    recipe = INT8.replace(deployment=Deployment(batch=1000))
    memory = device_view(profiles(), profile("STM32H7A3"), found("STM32H7A3", recipe, peak=5000))["answer"]["facts"][0]
    assert memory["word"] == "does not fit" and "The largest batch that fits is 238." in memory["text"]
    assert shown("STM32H7A3")["answer"]["facts"][0]["word"] == "fits"
    assert shown("Coral Edge TPU")["answer"]["facts"][0]["word"] == "not known"


def test_bits_say_what_there_are_kernels_for_and_what_runs():
    four = Recipe(quantization=Quantization(weight_bits=4, activation_bits=8))
    answer = device_view(profiles(), profile("NVIDIA T4"), found("NVIDIA T4", four))["answer"]
    assert answer["facts"][1]["text"] == (
        "It multiplies in fp32, fp16, int8 and int4, and unpacks weights of 4 and 8 bits. "
        "This recipe: 3 operators in int8."
    )
    assert any("4-bit weights lie in 8 bits there" in note for note in answer["notes"])
    refused = device_view(profiles(), profile("Coral Edge TPU"), found("Coral Edge TPU", Recipe()))["answer"]
    assert refused["facts"][1]["word"] == "no kernel" and "floating point" in refused["reason"]
    assert refused["latency"] is None and refused["roofline"] is None and not refused["able"]


def test_energy_is_told_where_the_power_is_known():
    coral, dpu = shown("Coral Edge TPU")["answer"]["facts"][2], shown("ZCU104 DPU B4096")["answer"]["facts"][2]
    assert "2.00 W" in coral["text"] and coral["word"].endswith("J")
    assert dpu["word"] == "not known"


def test_a_measured_latency_is_told_from_a_prediction():
    plain = ask("Raspberry Pi 5").latency
    made = Calibration("seed-cnn", INT8, 10 * plain.value, plain)
    there = Elsewhere(INT8, profile("Raspberry Pi 5"), ask("Raspberry Pi 5").rescaled(10 * plain.value), "", made)
    answer = device_view(profiles(), profile("Raspberry Pi 5"), there)["answer"]
    assert answer["latency"]["origin"] == {"origin": "imported", "word": "measured there"}
    assert (
        "10.0× the predicted" in answer["calibration"]["text"] and "W8 A8 of seed-cnn" in answer["calibration"]["text"]
    )


def test_points_lie_under_their_roof_where_the_figures_say():
    made = ask("Raspberry Pi 5", macs=10**8)
    view = roofline_view(made)
    largest = max(made.rows, key=lambda row: row.value)
    assert view["points"][0]["key"] == largest.name
    roofs = {roof["kernel"]: roof for roof in view["roofs"]}
    assert [kernel for kernel, roof in roofs.items() if roof["used"]] == ["int8"]
    for point in view["points"]:
        assert point["low"] <= point["y"] <= point["high"] <= roofs["int8"]["at"] + 1e-3
        assert 0 <= point["x"] <= 1 and 0 < point["size"] <= 1
    assert view["beside"].startswith("1 operator without a product takes ")
    assert view["points"][0]["text"].startswith("400,000,000 MACs · ") and "int8 kernel" in view["points"][0]["text"]


def test_what_stays_on_the_chip_stands_at_the_edge():
    view = roofline_view(ask("Coral Edge TPU"))
    assert {point["x"] for point in view["points"]} == {1.0} and "right edge" in view["beside"]
    assert view["points"][0]["text"].count("nothing moved") == 1


def test_of_a_large_network_the_quickest_are_only_in_the_table():
    made = ask("NVIDIA H100 SXM", layers=DRAWN + 20)
    view = roofline_view(made)
    assert len(view["points"]) == DRAWN and "20 operators that are quicker" in view["beside"]
    assert len(rows_view(made)) == DRAWN + 21
    assert [row[0] for row in rows_view(made)][:5] == [point["key"] for point in view["points"]][:5]


def test_two_times_share_a_unit_where_they_can():
    assert span(10.8e-6, 84.6e-6) == "10.8 … 84.6\u202fµs"
    assert span(0.5e-3, 2e-3) == "500\u202fµs … 2.00\u202fms"
    assert span(1.0, 1.0) == "1.00\u202fs"


def test_addresses_become_links_and_nothing_else_does():
    pieces = linked("coral.ai/docs/edgetpu/benchmarks: 4 TOPS, v1.1, E. Upton 2023")
    assert pieces[0] == {"text": "coral.ai/docs/edgetpu/benchmarks", "href": "https://coral.ai/docs/edgetpu/benchmarks"}
    assert [piece["href"] for piece in pieces[1:]] == [""]
    assert "".join(piece["text"] for piece in pieces).endswith("E. Upton 2023")
    assert linked("javascript:alert(1)") == [{"text": "javascript:alert(1)", "href": ""}]


@pytest.mark.parametrize(("typed", "seconds"), [("12.5", 0.0125), (" 1,200 ms", 1.2), ("3e-2", 3e-5)])
def test_milliseconds_are_read_as_people_write_them(typed, seconds):
    assert seconds_of({"ms": typed}) == pytest.approx(seconds)


@pytest.mark.parametrize("typed", ["", "0", "-4", "nan", "inf", "fast", "1e12"])
def test_what_is_no_time_is_refused(typed):
    with pytest.raises(WorkbenchError, match="Milliseconds above 0"):
        seconds_of({"ms": typed})


def test_what_a_person_does_reaches_the_session(session, send):
    s = session(recipe=INT8)
    part = DevicePanel(s)
    send(part, {"do": "choose", "name": "Raspberry Pi 5"})
    send(part, {"do": "choose", "name": ""})
    send(part, {"do": "calibrate", "ms": "5"})
    send(part, {"do": "forget"})
    send(part, {"do": "add", "text": "x"})
    assert s.calls == [
        ("choose_profile", "Raspberry Pi 5"),
        ("choose_profile", None),
        ("calibrate", 0.005),
        ("forget_calibration",),
        ("add_profiles", "x"),
    ]


def test_what_is_refused_is_said_beside_it_until_something_else_is_chosen(session, send):
    s = session(recipe=INT8, profile=profile("Raspberry Pi 5"), elsewhere=found("Raspberry Pi 5"))
    part = DevicePanel(s)
    send(part, {"do": "calibrate", "ms": "soon"})
    assert "'soon'" in part.view["said"] and s.problem == ""
    s.profile = profile("Raspberry Pi 4")
    assert part.draw()["said"] == ""


def test_an_earlier_answer_is_greyed_until_the_new_one_is_there(session):
    s = session(recipe=INT8, profile=profile("Raspberry Pi 5"), elsewhere=found("Raspberry Pi 5"))
    part = DevicePanel(s)
    assert part.draw()["state"] == "final"
    s.recipe = Recipe()
    assert part.draw()["state"] == "stale"
    s.elsewhere = None
    assert part.draw()["state"] == "waiting"


def test_the_latency_here_stands_beside_it_only_for_the_same_recipe(session, report):
    s = session(recipe=INT8, profile=profile("Raspberry Pi 5"), elsewhere=found("Raspberry Pi 5"), report=report(INT8))
    part = DevicePanel(s)
    assert part.draw()["answer"]["latency"]["here"] == "measured here: 32.0\u202fµs with onnxruntime, 1 thread, batch 1"
    s.recipe = Recipe()
    assert part.draw()["answer"]["latency"]["here"] == ""


def test_the_tile_of_the_latency_names_the_device_that_is_asked_about(session, report):
    s = session(recipe=INT8, report=report(INT8))
    tiles = Tiles(s)
    assert [tile.get("there") for tile in tiles.draw()["tiles"]] == [None] * 4
    s.elsewhere = found("Raspberry Pi 5")
    there = tiles.draw()["tiles"][2]["there"]
    assert there["name"] == "Raspberry Pi 5" and there["origin"] == "predicted" and "µs" in there["text"]
    s.elsewhere = found("Coral Edge TPU", Recipe())
    assert tiles.draw()["tiles"][2]["there"]["text"] == "not possible there"
