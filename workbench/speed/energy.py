"""Joules, where the machine counts them."""

from __future__ import annotations

from pathlib import Path

POWERCAP = Path("/sys/class/powercap")
"""Intel's and AMD's running average power limit (RAPL), as Linux shows it; readable by the administrator alone on
most machines."""


class EnergyCounter:
    """The processor packages' energy counters. They count everything that the packages do, not only this process."""

    def __init__(self, zones: list[Path]) -> None:
        """
        Args:
            zones: Folders with `energy_uj`.
        """
        self._zones = zones
        self._last = [self._read(zone) for zone in zones]

    @classmethod
    def found(cls) -> EnergyCounter | None:
        """Those of this machine; None where there are none, or they may not be read."""
        zones = sorted(POWERCAP.glob("intel-rapl:[0-9]*"))
        try:
            # the others are parts of packages, or hold them: psys counts the whole platform
            packages = [zone for zone in zones if (zone / "name").read_text().startswith("package")]
            return cls(packages) if packages else None
        except (OSError, ValueError):
            return None

    def joules(self) -> float:
        """Since the last call, or since it was made.

        Raises:
            OSError: The counter cannot be read any more.
        """
        now = [self._read(zone) for zone in self._zones]
        total = 0
        for zone, before, after in zip(self._zones, self._last, now, strict=True):
            total += after - before if after >= before else after - before + self._range(zone)
        self._last = now
        return total / 1e6

    @staticmethod
    def _read(zone: Path) -> int:
        return int((zone / "energy_uj").read_text())

    @staticmethod
    def _range(zone: Path) -> int:
        """Where the counter begins anew."""
        return int((zone / "max_energy_range_uj").read_text())
