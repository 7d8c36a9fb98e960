"""Devices that are not here: what a network computes and moves, and what that takes under a device's roofline."""

from workbench.hardware.bound import DeviceBound, MemoryNeed, RooflineRow
from workbench.hardware.counts import Count, Counts, OperatorClass
from workbench.hardware.library import load_profiles, profile, profiles
from workbench.hardware.profile import Profile, ProfileError

__all__ = [
    "Count",
    "Counts",
    "DeviceBound",
    "MemoryNeed",
    "OperatorClass",
    "Profile",
    "ProfileError",
    "RooflineRow",
    "load_profiles",
    "profile",
    "profiles",
]
