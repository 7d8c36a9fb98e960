"""Ranges against a roofline by hand, and what must hold for every device and network."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.hardware import Count, Counts, DeviceBound, OperatorClass, Profile, ProfileError, profiles
from workbench.hardware.efficiency import CACHED, EFFICIENCY, LINK, RESIDUAL
from workbench.hardware.precision import Bits, Precision
from workbench.hardware.roofline import bound
from workbench.recipe import Quantization

CONV = EFFICIENCY[OperatorClass.CONVOLUTION]
KINDS = [kind for kind in OperatorClass if kind is not OperatorClass.MEMORY]


def device(**changes: object) -> Profile:
    fields = {"peaks": {"fp32": 1e9, "int8": 4e9}, "memory_bandwidth": 1e9, "memory": 1e6} | changes
    given = {name: value for name, value in fields.items() if value is not None}
    return Profile(name="Board", family="desktop", sources=dict.fromkeys(given, "by hand"), **given)


def layer(name: str = "conv", macs: int = 1000, kind: OperatorClass = OperatorClass.CONVOLUTION, **changes) -> Count:
    fields = {"weights": ((f"{name}.weight", 100),), "inputs": 50, "outputs": 60} | changes
    return Count(name, "convolution", kind, macs, **fields)


def network(*rows: Count, peak: int = 110, **changes) -> Counts:
    state = {name: elements for row in rows for name, elements in row.weights}
    fields = {"state": state, "inputs": 50, "outputs": 60, "peak_activation": peak, "uncounted": {}} | changes
    return Counts(rows=rows, **fields)


def precision(bits: Mapping[str, Bits], **fields) -> Precision:
    return Precision(Quantization(**fields), bits, {f"{name}.weight": name for name in bits})


def ask(profile: Profile, *rows: Count, weight: int | None = None, activation: int | None = None, batch: int = 1):
    names = {row.name for row in rows if row.weights}
    asked = precision(dict.fromkeys(names, (weight, activation)), weight_bits=weight, activation_bits=activation)
    return bound(network(*rows), asked, profile, batch)


def test_a_layer_that_compute_limits_by_hand() -> None:
    (row,) = ask(device(), layer(macs=10_000_000)).rows
    seconds = 2 * 10_000_000 / 1e9
    assert row.low == pytest.approx(seconds / CONV.compute[1])
    assert row.high == pytest.approx(seconds / CONV.compute[0])
    assert row.value == pytest.approx(math.sqrt(row.low * row.high))
    assert (row.limit, row.kernel, row.bytes) == ("compute", "fp32", 4 * (100 + 50 + 60))
    assert row.intensity == pytest.approx(20_000_000 / 840)


def test_a_layer_that_memory_limits_by_hand() -> None:
    (row,) = ask(device(), layer(macs=10), weight=8, activation=8).rows
    assert (row.limit, row.kernel, row.bytes) == ("memory", "int8", 210)
    assert row.low == pytest.approx(210 / 1e9 / CONV.memory[1])
    assert row.high == pytest.approx(210 / 1e9 / CONV.memory[0])


def test_what_fits_in_the_cache_may_come_faster() -> None:
    without = ask(device(), layer(macs=10))
    within = ask(device(cache=840), layer(macs=10))
    beyond = ask(device(cache=839), layer(macs=10))
    assert within.latency.low == pytest.approx(without.latency.low / CACHED)
    assert within.latency.high == without.latency.high
    assert beyond.latency == without.latency


def test_a_batch_multiplies_activations_and_not_weights() -> None:
    (row,) = ask(device(), layer(), batch=8).rows
    assert (row.macs, row.bytes) == (8000, 4 * (100 + 8 * 110))


def test_a_weight_that_is_read_at_every_step_lies_in_the_cache_once() -> None:
    recurrent = layer(kind=OperatorClass.RECURRENT, macs=10, weights=(("conv.weight", 3200),))
    counts = network(recurrent, state={"conv.weight": 100})
    asked = precision({"conv": (None, None)})
    cached = bound(counts, asked, device(cache=4 * 210))
    assert cached.latency.low == pytest.approx(4 * 3310 / 1e9 / CACHED)


def test_a_scratchpad_holds_what_fits_and_its_link_carries_the_rest() -> None:
    kept = ask(device(scratchpad=1000, memory=None), layer(macs=10), weight=8, activation=8)
    assert kept.rows[0].bytes == 0
    assert kept.overhead.low == pytest.approx(110 / 1e9 / LINK[1])
    assert kept.overhead.high == pytest.approx(110 / 1e9 / LINK[0])
    streamed = ask(device(scratchpad=25, memory=None), layer(macs=10), weight=8, activation=8)
    assert streamed.rows[0].bytes == pytest.approx(75 + 110)


def test_idle_parts_of_a_matrix_unit_cost() -> None:
    full = ask(device(tile=(16, 16), memory_bandwidth=None), layer(channels=(32, 16)))
    half = ask(device(tile=(16, 16), memory_bandwidth=None), layer(channels=(8, 16)))
    odd = ask(device(tile=(16, 16), memory_bandwidth=None), layer(channels=(17, 16)))
    assert half.latency.low == pytest.approx(2 * full.latency.low)
    assert odd.latency.low == pytest.approx(full.latency.low * 32 / 17)
    plain = ask(device(memory_bandwidth=None), layer(channels=(8, 16)))
    assert plain.latency.low == full.latency.low


def test_a_matrix_unit_is_not_blamed_twice_for_a_depthwise_convolution() -> None:
    depthwise = layer(kind=OperatorClass.DEPTHWISE, channels=(1, 16))
    found = ask(device(tile=(16, 16), memory_bandwidth=None), depthwise)
    assert found.latency.low == pytest.approx(2 * 1000 / (1e9 / 16) / CONV.compute[1])
    plain = ask(device(memory_bandwidth=None), depthwise)
    assert plain.latency.low == pytest.approx(2 * 1000 / 1e9 / EFFICIENCY[OperatorClass.DEPTHWISE].compute[1])


def test_overheads_are_added_for_each_call() -> None:
    profile = device(call_overhead=(1.0, 2.0), operator_overhead=(0.1, 0.5))
    found = ask(profile, layer("a", calls=3), layer("b"))
    assert (found.overhead.low, found.overhead.high) == (pytest.approx(1.4), pytest.approx(4.0))
    assert found.limited_by == "overhead"


@pytest.mark.parametrize(
    ("bits", "kernel", "moved"),
    [
        ((8, 8), "int8", 8),
        ((3, 4), "int8", 8),
        ((2, None), "fp32", 32),
        ((None, 8), "fp32", 32),
        ((None, None), "fp32", 32),
    ],
)
def test_bits_without_kernels_run_in_the_next_wider(bits: Bits, kernel: str, moved: int) -> None:
    (row,) = ask(device(), layer(), weight=bits[0], activation=bits[1]).rows
    assert row.kernel == kernel
    assert row.bytes == 210 * moved / 8
    assert (row.weight_bits, row.activation_bits) == bits


def test_the_notes_say_what_runs() -> None:
    assert "3-bit layer runs in 8-bit kernels there (conv)." in ask(device(), layer(), weight=3, activation=3).notes
    assert any("floating point multiplies" in note for note in ask(device(), layer(), weight=3).notes)
    floats = device(peaks={"fp32": 1e9, "fp16": 2e9})
    assert "8-bit layer runs in fp32 kernels there (conv)." in ask(floats, layer(), weight=8, activation=8).notes
    assert not ask(device(), layer(), weight=8, activation=8).notes


def test_weights_alone_are_moved_packed_where_kernels_unpack_them() -> None:
    (row,) = ask(device(weight_only=(4, 8)), layer(), weight=3).rows
    assert (row.kernel, row.bytes) == ("fp32", 100 * 4 / 8 + 110 * 4)


def test_uneven_grids_have_no_integer_kernels() -> None:
    asked = precision({"conv": (4, 8)}, weight_bits=4, activation_bits=8, scheme="codebook")
    assert bound(network(layer()), asked, device()).rows[0].kernel == "fp32"


def test_a_device_without_floating_point_refuses_it_by_name() -> None:
    found = ask(device(peaks={"int8": 4e9}), layer("first"), layer("second"))
    assert found.latency is None
    assert "first, second" in found.reason
    assert "8 bits or fewer" in found.reason
    assert "first" in str(found)
    assert "first" in found._repr_html_()
    with pytest.raises(ProfileError, match="nothing is predicted"):
        found.rescaled(1.0)


def test_what_no_recipe_can_change_is_said_apart() -> None:
    attention = Count("attention", "attention", OperatorClass.GEMM, 100, (), 10, 10)
    asked = precision({"conv": (8, 8)}, weight_bits=8, activation_bits=8)
    found = bound(network(layer(), attention), asked, device(peaks={"int8": 4e9}))
    assert "A recipe has no bits for attention." in found.reason
    assert "Put weights" not in found.reason


def test_a_quantized_table_stays_packed_whatever_the_kernels() -> None:
    table = Count("table", "embedding", OperatorClass.MEMORY, 0, (("table.weight", 40),), 10, 40)
    counts = network(table, state={"table.weight": 4000})
    found = bound(counts, precision({"table": (4, None)}, weight_bits=4), device())
    assert found.memory.weights == 4000
    assert found.rows[0].bytes == 40 + 4 * 50
    assert not any("floating point" in note for note in found.notes)


def test_a_load_that_does_not_fill_the_device_is_noted() -> None:
    small = ask(device(operator_overhead=(1.0, 2.0)), layer())
    assert any("does not fill" in note for note in small.notes)
    assert not any("does not fill" in note for note in ask(device(), layer()).notes)


def test_a_calibrated_profile_is_never_wider_than_before() -> None:
    rows = (Count("add", "add", OperatorClass.MEMORY, 0, (), 1000, 1000),)
    plain = ask(device(), *rows)
    pinned = ask(device().calibrated(plain.latency.value, 1.0), *rows)
    width = plain.latency.high / plain.latency.low
    assert pinned.latency.high / pinned.latency.low == pytest.approx(min(width, RESIDUAL**2))
    assert width < RESIDUAL**2


def test_it_fits_or_the_largest_batch_is_told() -> None:
    fits = ask(device(memory=4 * 320), layer(), batch=2)  # 100 weights, 2 x 110 activations
    assert (fits.memory.weights, fits.memory.activations) == (400, 880)
    assert fits.memory.fits
    assert fits.largest_batch == 2
    tight = ask(device(memory=4 * 320), layer(), batch=3)
    assert tight.memory.fits is False
    assert tight.largest_batch == 2
    assert any("does not fit" in note for note in tight.notes)
    assert ask(device(memory=None), layer()).memory.fits is None


def test_weights_may_have_a_memory_of_their_own() -> None:
    assert ask(device(weight_memory=400, memory=440), layer()).memory.fits
    assert not ask(device(weight_memory=399, memory=440), layer()).memory.fits
    assert ask(device(weight_memory=399, memory=440), layer()).largest_batch == 0
    assert not ask(device(weight_memory=400, memory=439), layer()).memory.fits


def test_what_is_not_known_is_said() -> None:
    found = ask(device(memory_bandwidth=None, memory=None), layer())
    assert any("bandwidth is not known" in note for note in found.notes)
    assert "not known" in str(found.memory)
    uncounted = bound(network(layer(), uncounted={"fft": 2}), precision({"conv": (None, None)}), device())
    assert any("fft" in note for note in uncounted.notes)


def test_products_of_activations_stay_in_floating_point_unless_they_are_named() -> None:
    row = Count("attention.bmm", "bmm", OperatorClass.GEMM, 100, (), 10, 10)
    common = Quantization(weight_bits=8, activation_bits=8)
    unnamed = Precision(common, {"attention.queries": (None, None), "attention.keys": (None, None)}, {})
    named = Precision(common, {"attention.queries": (None, 8), "attention.keys": (None, 4)}, {})
    assert unnamed.of(row).whole is None
    assert named.of(row).whole == 8


def test_one_measured_latency_rescales() -> None:
    found = ask(device(operator_overhead=(1e-6, 4e-6)), layer("a"), layer("b", macs=5000))
    measured = 3 * found.latency.value
    there = found.rescaled(measured)
    assert (there.latency.value, there.latency.low, there.latency.source) == (measured, measured, "imported")
    assert sum(row.value for row in there.rows) + there.overhead.value == pytest.approx(measured)
    assert any("measured there" in note for note in there.notes)
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ProfileError, match="seconds above 0"):
            found.rescaled(wrong)


def test_a_calibrated_profile_foretells_what_was_measured_and_is_narrower() -> None:
    plain = device()
    rows = (layer("a", macs=10**7), layer("b", macs=10**6))
    before = ask(plain, *rows)
    pinned = plain.calibrated(before.latency.value, 2 * before.latency.value)
    after = ask(pinned, *rows)
    assert after.latency.value == pytest.approx(2 * before.latency.value)
    assert after.latency.high / after.latency.low == pytest.approx(RESIDUAL**2)
    assert after.latency.high / after.latency.low < before.latency.high / before.latency.low
    twice = ask(pinned.calibrated(after.latency.value, 1e-3), *rows)
    assert twice.latency.value == pytest.approx(1e-3)


def test_weights_of_fewer_bits_than_the_kernels_say_how_they_lie() -> None:
    said = " ".join(ask(device(), layer("a"), layer("b"), weight=4, activation=8).notes)
    assert "4-bit weights lie in 8 bits there, as its kernels read them (a, b)." in said
    assert "lie in" not in " ".join(ask(device(), layer("a"), weight=8, activation=8).notes)


def test_kernels_name_what_they_multiply_the_widest_first() -> None:
    pool = Count("pool", "max_pool2d", OperatorClass.MEMORY, 0, (), 10, 10)
    bits = {"a": (8, 8), "b": (None, None)}
    found = bound(network(layer("a"), layer("b"), pool), precision(bits), device(), 1)
    assert found.kernels == {"fp32": ("b",), "int8": ("a",)}
    assert list(found.kernels) == ["fp32", "int8"]


def test_energy_is_power_times_latency_and_not_told_without_either() -> None:
    found = ask(device(power=5.0), layer("a"))
    assert (found.energy.low, found.energy.value, found.energy.high) == pytest.approx(
        tuple(5 * end for end in (found.latency.low, found.latency.value, found.latency.high))
    )
    assert (found.energy.unit, found.energy.source) == ("J", "predicted")
    assert found.rescaled(1.0).energy.source == "predicted"
    assert ask(device(), layer("a")).energy is None
    assert ask(device(peaks={"int8": 1e9}, power=5.0), layer("a")).energy is None


def test_names_of_layers_cannot_break_the_page() -> None:
    assert "<script>" not in ask(device(), layer("<script>"))._repr_html_()


def test_the_roof() -> None:
    found = ask(device(), layer())
    assert found.attainable(0.5, "fp32") == 0.5e9
    assert found.attainable(100.0, "fp32") == 1e9


# What must hold for every device and network

sizes = st.integers(1, 10**7)
layers = st.builds(
    layer,
    name=st.sampled_from("abcdef"),
    macs=st.integers(1, 10**10),
    kind=st.sampled_from(KINDS),
    inputs=sizes,
    outputs=sizes,
    calls=st.integers(1, 9),
    channels=st.tuples(st.integers(1, 300), st.integers(1, 300)),
)
traffic = st.builds(
    layer,
    macs=st.just(0),
    kind=st.just(OperatorClass.MEMORY),
    weights=st.just(()),
    inputs=sizes,
    outputs=sizes,
)
networks = st.lists(st.one_of(layers, traffic), min_size=1, max_size=6)
whole = st.integers(2, 8)
devices = st.sampled_from(profiles())


@settings(deadline=None)
@given(networks, devices, whole, whole, st.integers(1, 64))
def test_ranges_are_ordered_narrow_and_sums(rows, profile: Profile, weight: int, activation: int, batch: int) -> None:
    found: DeviceBound = ask(profile, *rows, weight=weight, activation=activation, batch=batch)
    assert found.latency.source == "predicted"
    for each in (*found.rows, found.latency):
        assert 0 <= each.low <= each.value * (1 + 1e-9)
        assert each.value <= each.high * (1 + 1e-9)
        assert each.high <= 10 * each.low * (1 + 1e-9)
    for end in ("low", "value", "high"):
        parts = [*found.rows, *([found.overhead] if found.overhead else [])]
        assert getattr(found.latency, end) == pytest.approx(math.fsum(getattr(part, end) for part in parts))
    assert sum(found.shares.values()) == pytest.approx(1.0 if found.latency.value else 0.0)


@settings(deadline=None)
@given(networks, devices, whole, whole, st.booleans(), st.integers(1, 4))
def test_more_bits_are_never_faster(
    rows, profile: Profile, weight: int, activation: int, first: bool, batch: int
) -> None:
    wider = (min(8, weight + 1), activation) if first else (weight, min(8, activation + 1))
    narrow = ask(profile, *rows, weight=weight, activation=activation, batch=batch)
    wide = ask(profile, *rows, weight=wider[0], activation=wider[1], batch=batch)
    assert narrow.latency.low <= wide.latency.low
    assert narrow.latency.high <= wide.latency.high
    assert narrow.memory.weights <= wide.memory.weights
    floating = ask(profile, *rows, batch=batch)
    if floating.latency is not None:
        assert wide.latency.high <= floating.latency.high


@settings(deadline=None)
@given(networks, devices, whole, st.floats(1, 4))
def test_larger_peaks_are_never_slower(rows, profile: Profile, bits: int, factor: float) -> None:
    plain = ask(profile, *rows, weight=bits, activation=bits)
    faster = profile.model_copy(update={"peaks": {name: factor * peak for name, peak in profile.peaks.items()}})
    feeding = profile.model_copy(
        update={"memory_bandwidth": profile.memory_bandwidth and factor * profile.memory_bandwidth}
    )
    for better in (faster, feeding):
        found = ask(better, *rows, weight=bits, activation=bits)
        assert found.latency.low <= plain.latency.low
        assert found.latency.high <= plain.latency.high


@settings(deadline=None)
@given(networks, devices, whole, st.integers(1, 32))
def test_a_larger_batch_is_never_faster_and_needs_more(rows, profile: Profile, bits: int, batch: int) -> None:
    one, more = (ask(profile, *rows, weight=bits, activation=bits, batch=n) for n in (batch, batch + 1))
    assert one.latency.high <= more.latency.high
    assert one.memory.activations <= more.memory.activations
