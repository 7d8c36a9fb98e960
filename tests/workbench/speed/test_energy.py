from __future__ import annotations

from pathlib import Path

import pytest

from workbench.speed import energy
from workbench.speed.energy import EnergyCounter


@pytest.fixture
def powercap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(energy, "POWERCAP", tmp_path)
    return tmp_path


def zone(powercap: Path, name: str, microjoules: int, most: int = 10_000_000, called: str = "package-0") -> Path:
    folder = powercap / name
    folder.mkdir(exist_ok=True)
    (folder / "name").write_text(f"{called}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{most}\n")
    return folder


def test_packages_are_added_and_their_parts_are_not(powercap: Path) -> None:
    zones = {"intel-rapl:0": "package-0", "intel-rapl:1": "package-1", "intel-rapl:2": "psys", "intel-rapl:0:0": "core"}
    for name, called in zones.items():
        zone(powercap, name, 1_000_000, called=called)
    counter = EnergyCounter.found()
    assert counter is not None
    for (name, called), now in zip(zones.items(), (1_500_000, 1_250_000, 8_000_000, 9_000_000), strict=True):
        zone(powercap, name, now, called=called)
    assert counter.joules() == pytest.approx(0.75)
    assert counter.joules() == 0


def test_a_counter_that_began_anew(powercap: Path) -> None:
    zone(powercap, "intel-rapl:0", 9_900_000)
    counter = EnergyCounter.found()
    assert counter is not None
    zone(powercap, "intel-rapl:0", 100_000)
    assert counter.joules() == pytest.approx(0.2)


def test_a_platform_alone_is_no_package(powercap: Path) -> None:
    zone(powercap, "intel-rapl:1", 1_000_000, called="psys")
    assert EnergyCounter.found() is None


def test_no_counter_and_one_that_may_not_be_read(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert EnergyCounter.found() is None
    zone(powercap, "intel-rapl:0", 1)

    def refused(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(EnergyCounter, "_read", staticmethod(refused))
    assert EnergyCounter.found() is None
