"""What this machine really does: how fast, how surely, by which lever, in which runtime, and where the time goes."""

from workbench.speed.details import TimingDetails
from workbench.speed.layer_times import LayerTime, LayerTimes
from workbench.speed.sweep import Cell, Sweep, Winner
from workbench.speed.waterfall import Step, Waterfall

__all__ = ["Cell", "LayerTime", "LayerTimes", "Step", "Sweep", "TimingDetails", "Waterfall", "Winner"]
