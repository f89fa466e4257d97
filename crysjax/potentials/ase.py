"""Our potentials as ASE calculators; ASE is imported on use. The other way, ASE calculators as oracles: `oracles/`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from crysjax.base import Crystal, Params
from crysjax.data import batching
from crysjax.geometry.neighbors import Graph, radius_graph_host
from crysjax.potentials.mlip import Potential, unknown

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import Calculator


def calculator(potential: Potential, params: Params) -> Calculator:
    """An ASE calculator for periodic structures: energy (eV), forces (eV/Å) and stress (eV/Å³, Voigt).

    The graph is padded to a multiple of 256 edges and the sites to a multiple of 8, so that a relaxation rarely
    compiles again. A structure that cannot be computed raises ASE's `CalculationFailed`.
    """
    from ase.calculators.calculator import CalculationFailed, Calculator, all_changes
    from ase.stress import full_3x3_to_voigt_6_stress

    evaluate = jax.jit(potential.energy_forces_stress)

    class PotentialCalculator(Calculator):
        implemented_properties = ["energy", "free_energy", "forces", "stress"]  # noqa: RUF012 (ASE's own convention)

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            try:
                pack, graph = _pack_and_graph(self.atoms, potential.cutoff_angstrom)
            except ValueError as error:  # no crystal at all: not periodic, not finite, without volume
                raise CalculationFailed(str(error)) from None
            if reason := unknown(potential.numbers, self.atoms.numbers):
                raise CalculationFailed(reason)
            energy, forces, stress = evaluate(params, pack, graph)
            if not np.isfinite(energy[0]):
                raise CalculationFailed("atoms touch or the cell has no volume")
            self.results = {
                "energy": float(energy[0]),
                "free_energy": float(energy[0]),
                "forces": np.asarray(forces[: len(self.atoms)], float),
                "stress": full_3x3_to_voigt_6_stress(np.asarray(stress[0], float)),
            }

    return PotentialCalculator()


def _pack_and_graph(atoms: Atoms, cutoff: float) -> tuple:
    """One structure as a pack of rounded-up shape, and its graph."""
    from crysjax.data.readers.io import from_atoms

    crystal = from_atoms(atoms)
    n = -(-len(atoms) // 8) * 8
    occupancy = np.zeros((n, crystal.occupancy.shape[-1]), np.float32)
    occupancy[: len(atoms)] = crystal.occupancy
    frac = np.zeros((n, 3), np.float32)
    frac[: len(atoms)] = crystal.frac
    pack = batching.pack_one(Crystal(jnp.asarray(occupancy), jnp.asarray(frac), jnp.asarray(crystal.lattice)))
    graph = radius_graph_host(pack, cutoff)
    return pack, _padded(graph, -(-max(len(graph.sender), 1) // 256) * 256, n)


def _padded(graph: Graph, edges: int, sites: int) -> Graph:
    """The graph with empty edges at the end of each half."""
    half, spare = len(graph.sender) // 2, (edges - len(graph.sender)) // 2

    def pad(x: np.ndarray, fill: float) -> np.ndarray:
        empty = np.full((spare, *x.shape[1:]), fill, x.dtype)
        return np.concatenate([x[:half], empty, x[half:], empty])

    filled = pad(graph.sender, sites - 1), pad(graph.receiver, sites - 1), pad(graph.shift, 0), pad(graph.mask, 0)
    return Graph(*filled, graph.overflow)
