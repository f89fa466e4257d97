"""Which properties have a least value."""

import math

import pytest

from crysjax.predictors import ranges


@pytest.mark.parametrize("name", ["band_gap_ev", "bulk_modulus_gpa", "shear_modulus_gpa", "hardness_gpa"])
def test_what_cannot_be_negative(name):
    assert ranges.least(name) == 0


@pytest.mark.parametrize("name", ["formation_energy_ev_per_atom", "energy_above_hull_ev_per_atom", "gap"])
def test_what_can(name):
    assert ranges.least(name) == -math.inf
