"""What others may use to test their own code on: a seeded method, a recorder for any method, and power cuts."""

from ..methods.recording import Recording
from ..methods.scripted import Scripted
from ..methods.trace import Event, Trace
from .disk import Disk
from .power_cuts import Cut, check, power_cuts
from .synced import Synced, assert_synced

__all__ = [
    "Cut",
    "Disk",
    "Event",
    "Recording",
    "Scripted",
    "Synced",
    "Trace",
    "assert_synced",
    "check",
    "power_cuts",
]
