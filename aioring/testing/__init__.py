"""What others may use to test their own code on aioring: a seeded method, and a recorder for any method."""

from ..methods.recording import Event, Recording, Trace
from ..methods.scripted import Scripted

__all__ = ["Event", "Recording", "Scripted", "Trace"]
