"""Soft spheres: the closed form of two, radii of another source, and overlaps that a relaxation takes away."""

from functools import partial

import jax
import numpy as np
import pytest
from ase.data import covalent_radii

from crysjax.base import Crystal, one_hot
from crysjax.data.batching import Capacity
from crysjax.geometry.neighbors import radius_graph_host
from crysjax.potentials.mlip import mlip
from crysjax.potentials.relax import Relax, relax, start
from crysjax.potentials.soft_sphere import COVALENT_RADII_ANGSTROM


def test_radii_are_those_of_ase():
    """The same table up to Cm; ASE marks what is missing by 0.2 Å, or 2 Å in later releases."""
    assert len(COVALENT_RADII_ANGSTROM) == 100
    np.testing.assert_allclose(COVALENT_RADII_ANGSTROM[:96], covalent_radii[1:97], atol=1e-9)


@pytest.mark.parametrize("exponent", [2.0, 2.5])
def test_two_atoms_have_the_closed_form_and_none_apart(toys, exponent):
    """Mg and O at 0.6, 0.95 and 1.05 of their contact, 0.9 (1.41 + 0.66) Å."""
    potential = mlip(network="soft_sphere", numbers=(8, 12), stiffness_ev=7.0, exponent=exponent)
    evaluate = jax.jit(potential.energy_forces_stress, compiler_options=toys.fast)
    contact = 0.9 * (1.41 + 0.66)
    for x in (0.6, 0.95, 1.05):
        frac = np.array([[0.1, 0.2, 0.3], [0.1, 0.2, 0.3 + x * contact / 12]])
        crystal = Crystal(np.asarray(one_hot(np.array([12, 8])), float), frac, 12 * np.eye(3))
        pack = toys.make_pack([crystal], Capacity(2, 4, 1), float)
        with jax.enable_x64(True):
            params = {"radii_angstrom": np.array([0.66, 1.41]) * 0.9, "stiffness_ev": np.array(7.0)}
            energy, forces, _ = evaluate(params, pack, toys.make_graph(pack, 4.7, 16))
        overlap = max(1 - x, 0)
        np.testing.assert_allclose(energy[0], 7 * overlap**exponent / exponent, rtol=1e-10)
        push = 7 * overlap ** (exponent - 1) / contact
        np.testing.assert_allclose(forces, [[0, 0, -push], [0, 0, push]], rtol=1e-9, atol=1e-12)


def test_overlapping_atoms_are_pushed_apart(toys):
    """Random atoms in a fixed cell with room for them: every pair ends at its contact, within 0.5 % of it.

    At a largest force of 0.02 eV/Å an overlap x of two atoms costs 10 x / contact: x is below 0.005.
    """
    potential = mlip(network="soft_sphere", numbers=(8, 12))
    rng = np.random.default_rng(0)
    occupancy = np.asarray(one_hot(np.array([12, 8] * 4)), np.float32)
    frac, room = rng.random((8, 3)).astype(np.float32), Capacity(8, 28, 1)
    pack = toys.make_pack([Crystal(occupancy, frac, 5.5 * np.eye(3))], room)
    settings = Relax(fmax_ev_angstrom=0.02, move_cell=False, closest_angstrom=0.1)
    size = dict(cutoff_angstrom=4.7, max_edges=1200, max_images=2, max_steps=300)
    run = jax.jit(partial(relax, potential.energy_forces_stress, settings=settings, **size), compiler_options=toys.fast)
    found = run(potential.init(jax.random.key(0)), start(pack, settings))
    radius = np.where(occupancy[:, 7] > 0, 0.66, 1.41)

    def closeness(pack) -> float:
        """The least distance in contacts."""
        graph = radius_graph_host(jax.tree.map(np.asarray, pack), 2.6)
        real = graph.mask > 0
        sender, receiver = graph.sender[real], graph.receiver[real]
        r = np.asarray(pack.frac)[sender] + graph.shift[real] - np.asarray(pack.frac)[receiver]
        return float((np.linalg.norm(5.5 * r, axis=1) / (0.9 * (radius[sender] + radius[receiver]))).min())

    assert closeness(pack) < 0.6
    assert found.converged.all() and found.valid.all()
    assert closeness(found.pack) > 0.995
