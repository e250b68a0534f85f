"""Planting traps in copies of real training files. To import it registers all kinds, a module a family."""

from planting import amp, clearing, cut, iterators, kept, modes, numerics, parameters, state, step

__all__ = ["amp", "clearing", "cut", "iterators", "kept", "modes", "numerics", "parameters", "state", "step"]
