"""Which values a property can take at all: a band gap or a modulus is not negative.

What predicts one of these with a Gaussian `N(value, std²)` means the censored law: what lies below the least value
counts as the least value. A value itself is never given below it.
"""

from __future__ import annotations

import math

NOT_NEGATIVE = ("band_gap", "modulus", "hardness", "density", "volume", "frequency")
"""Parts of names of properties whose least value is 0; a distance to a hull is none of them (it may lie below)."""


def least(name: str) -> float:
    """The least value that a property can take, in its own unit; -inf where there is none."""
    return 0.0 if any(part in name for part in NOT_NEGATIVE) else -math.inf
