"""The seams: what the pump does not do by itself, passed in so that a simulation can.

Owns: one value with the clock, the chance and the ear.
Must never: have a default: whoever starts a pump says which.
Called by: the service (the machine's), tests (virtual ones).
"""

from msgspec import Struct

from dibs.clock import Clock
from dibs.events import Observer
from dibs.policy import Uniform


class Seams(Struct, frozen=True):
    """Time, chance, and telling people."""

    clock: Clock
    uniform: Uniform
    observe: Observer
