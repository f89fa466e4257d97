"""One crystal in the views of others: `Crystal`, `Entry`, pymatgen's `Structure`, ASE's `Atoms`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crysjax.base import NUM_SPECIES, Crystal
from crysjax.chemistry.elements import isotope_number
from crysjax.data import frame_labels, lost
from crysjax.data.datasets import ENERGY, FORCES, STRESS, Entry, SourceRow, checked
from crysjax.data.labels import IDS, cells

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core import Structure


def to_structure(material: Crystal | Entry) -> Structure:
    """A pymatgen structure; of a `Crystal` the likeliest element of each filled slot."""
    from pymatgen.core import Lattice, Structure

    numbers, frac, lattice = _host(material)
    return Structure(Lattice(lattice), numbers.tolist(), frac)


def to_atoms(material: Crystal | Entry) -> Atoms:
    """ASE atoms, periodic; of a `Crystal` the likeliest element of each filled slot."""
    from ase import Atoms

    numbers, frac, lattice = _host(material)
    return Atoms(numbers, scaled_positions=frac, cell=lattice, pbc=True)


def with_results(entry: Entry) -> Atoms:
    """ASE atoms whose `SinglePointCalculator` has energy (eV), forces (eV/Å) and stress of the entry, where finite."""
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = to_atoms(entry)
    values = {
        "energy": np.float64(entry.properties.get(ENERGY, np.nan)) * len(atoms),
        "forces": np.asarray(entry.site_properties.get(FORCES, np.nan), float),
        "stress": np.array([entry.properties.get(name, np.nan) for name in STRESS]),
    }
    if found := {name: value for name, value in values.items() if np.isfinite(value).all()}:
        atoms.calc = SinglePointCalculator(atoms, **found)
    return atoms


def from_structure(structure: Structure) -> Crystal:
    """A `Crystal` of float32 NumPy arrays with as many slots as sites."""
    return _crystal(entry_of_structure(structure, "", {}))


def from_atoms(atoms: Atoms) -> Crystal:
    """A `Crystal` of float32 NumPy arrays with as many slots as atoms."""
    return _crystal(entry_of_atoms(atoms, ""))


def as_entry(material: Crystal | Entry, name: str = "") -> Entry:
    """A host entry of either view."""
    return material if isinstance(material, Entry) else Entry(name, *_host(material), {})


def _host(material: Crystal | Entry) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if isinstance(material, Entry):
        return material.numbers, np.asarray(material.frac, float), np.asarray(material.lattice, float)
    occupancy = np.asarray(material.occupancy, float)
    filled = occupancy.sum(-1) > 0
    frac = np.asarray(material.frac, float)[filled]
    return occupancy[filled].argmax(-1) + 1, frac, np.asarray(material.lattice, float)


def _crystal(entry: Entry) -> Crystal:
    entry = checked(entry)
    return Crystal(np.eye(NUM_SPECIES, dtype=np.float32)[entry.numbers - 1], entry.frac, np.float32(entry.lattice))


def entry_of_structure(structure: Structure, name: str, properties: dict[str, float]) -> Entry:
    """A host entry of a pymatgen structure."""
    if not structure.is_ordered:
        raise ValueError("sites with partial occupancy are not read yet")
    if not all(structure.lattice.pbc):
        raise ValueError("not periodic in all three directions")
    species = [site.specie for site in structure]
    numbers = np.array([isotope_number(one.symbol) for one in species])
    unkept = lost.isotopes(getattr(one, "element", one).name for one in species)
    oxidation, spins = ([getattr(one, which, None) for one in species] for which in ("oxi_state", "spin"))
    unkept |= lost.of_species(oxidation, spins, structure.charge, len(species))
    unkept |= lost.of_site_properties(structure.site_properties)
    row = SourceRow(cells(structure.properties.items())) if getattr(structure, "properties", None) else None
    return Entry(name, numbers, structure.frac_coords, structure.lattice.matrix, properties, row=row, lost=unkept)


def entry_of_atoms(atoms: Atoms, name: str) -> Entry:
    """A host entry of ASE atoms, with the labels of the frame (`frame_labels`); `name` unless they carry an id."""
    if not atoms.pbc.all():
        raise ValueError("not periodic in all three directions")
    occupancy = (atoms.info.get("occupancy") or {}).values()
    if any(len(site) != 1 or min(site.values()) < 1 for site in occupancy):
        raise ValueError("sites with partial occupancy are not read yet")
    name = str(next((atoms.info[k] for k in IDS if k in atoms.info), name))
    properties, of_sites, row = frame_labels.of_atoms(atoms)
    frac, cell = atoms.get_scaled_positions(wrap=False), np.asarray(atoms.cell)
    return Entry(name, atoms.numbers, frac, cell, properties, of_sites, row, lost.of_atoms(atoms))
