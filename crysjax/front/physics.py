"""Verbs that ask physics of crystals: relaxation, phonons, elastic constants, diffraction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Pack, Params
from crysjax.chemistry.scattering import scattering
from crysjax.data import batching, datasets, files
from crysjax.data.readers import io
from crysjax.data.readers.source import read
from crysjax.geometry.neighbors import radius_graph_host
from crysjax.models import registry
from crysjax.physics import pair_distribution as pairs
from crysjax.physics.diffraction import table as diffraction_table
from crysjax.physics.diffraction.table import Patterns
from crysjax.physics.elasticity import driver, soft_ions
from crysjax.physics.elasticity import table as elastic_table
from crysjax.physics.elasticity.driver import Curves, Elastic
from crysjax.physics.phonons.analysis import Analysis, analysis
from crysjax.potentials import ensemble, implicit, trajectories
from crysjax.potentials.relax import Relax
from crysjax.potentials.relax_dataset import RelaxedSet, relax_dataset
from crysjax.reports import phonon_files

Progress = Callable[[int, int], None]
"""Told how many crystals are done, of how many."""
ROOM_TEMPERATURES = tuple(range(50, 1001, 50))


def _engine(potential: str | Sequence[str]) -> tuple[Any, Params]:
    """A potential, or the mean of several of one kind, and its parameters."""
    if isinstance(potential, str):
        return registry.load_potential(potential)[:2]
    return registry.load_potential(potential[0])[:2] if len(potential) == 1 else registry.load_ensemble(potential)


def relax(
    crystals: Any, potential: str | Sequence[str] = "student", *, steps: int = 200, fmax: float = 0.05,
    pressure_gpa: float = 0.0, cell: bool = True, method: str = "lbfgs", keep_symmetry: float | None = None,
    out: str | PathLike | None = None, trajectory: str | PathLike | None = None, progress: Progress | None = None,
) -> RelaxedSet:  # fmt: skip
    """Positions and cells at the nearest minimum of a potential, many crystals at once.

    Args:
        crystals: as `read` takes them.
        potential: "student", a pulled one such as "nequix-mp-1", or a path. Several paths, of potentials that differ by
            the seed of their training, are an ensemble: their mean relaxes, and `energy_std` tells how far they are
            apart at the end.
        steps: most evaluations of energy, forces and stress per crystal.
        fmax: largest force that counts as relaxed, eV/Å.
        pressure_gpa: outer pressure, GPa.
        cell: whether the cell moves.
        method: "lbfgs", or "fire": slower, calmer.
        keep_symmetry: keep the operations found within this distance, Å.
        out: a file or folder for the relaxed crystals.
        trajectory: a folder for all steps of each crystal.
        progress: told how many crystals are done, of how many.

    Returns:
        One row per crystal: `crystals`, `energy` (eV), `fmax` (eV/Å), `steps`, `converged`, `valid`, and `reason`, why
        a crystal is not valid, with its `code` (`data.reasons`), which also says "not_converged".
    """
    if out is not None:
        io.refuse_other_suffixes(out)
    (engine, params), given = _engine(potential), read(crystals)
    settings = Relax(method=method, fmax_ev_angstrom=fmax, pressure_gpa=pressure_gpa, move_cell=cell)
    frames: trajectories.Frames = {}
    recorded: dict[str, Any] = {} if trajectory is None else {"record": trajectories.recorder(frames), "chunk": 1}
    found = relax_dataset(
        engine.energy_forces_stress, params, given, cutoff_angstrom=engine.cutoff_angstrom, known=engine.numbers,
        settings=settings, max_steps=steps, keep_symmetry_angstrom=keep_symmetry or None, progress=progress, **recorded,
    )  # fmt: skip
    answers = {"potential_ev_per_atom": found.energy / given.num_atoms, "fmax_ev_per_angstrom": found.fmax}
    if isinstance(engine, ensemble.Ensemble):
        spread = ensemble.apart(found.crystals, engine, params)
        answers["potential_std_ev_per_atom"] = spread
        found = found._replace(energy_std=spread * given.num_atoms)
    answers |= {"converged": found.converged.astype(np.float32), "valid": found.valid.astype(np.float32)}
    relaxed = replace(
        found.crystals, frac=datasets.wrap(found.crystals.frac), properties=found.crystals.properties | answers
    )
    if out is not None:
        io.write(relaxed, out)
    if trajectory is not None:
        trajectories.write(frames, given.ids, Path(trajectory))
    return found._replace(crystals=relaxed)


class Minimum(NamedTuple):
    """Relaxed crystals as a function of what relaxed them."""

    params: Params  # of the potential
    occupancy: Array  # (n, s) of the sites: the composition
    crystals: Callable[[Params, Array], Pack]  # positions and cells; reverse mode knows how they move


def at_minimum(
    crystals: Any, potential: str = "student", *, steps: int = 1000, fmax: float = 0.005, pressure_gpa: float = 0.0,
    cell: bool = True,
) -> Minimum:  # fmt: skip
    """Relax crystals, and differentiate where they come to rest by the potential and by the composition.

    Args:
        crystals: as `read` takes them, relaxed by `fmax` (eV/Å) within `steps`, at `pressure_gpa`, with `cell` moving.
        potential: by name or path.

    Returns:
        `crystals(params, occupancy)`, a pack whose derivatives by both are those of the implicit function theorem. A
        crystal that is at no minimum has the derivative zero; one that was not relaxed is an error here.
    """
    engine, params = _engine(potential)
    found = relax(crystals, potential, steps=steps, fmax=fmax, pressure_gpa=pressure_gpa, cell=cell)
    if not found.converged.all():
        row = int(np.argmin(found.converged))
        why = found.reason[row] or f"{found.fmax[row]:.3g} eV/Å remain after {steps} steps"
        raise ValueError(f"{found.crystals.ids[row]}: not relaxed: {why}")
    atoms = found.crystals.num_atoms.astype(int)
    shape = batching.Capacity(int(atoms.sum()), max(int((atoms * (atoms - 1) // 2).sum()), 1), len(atoms))
    pack = batching.pack_rows(found.crystals, np.arange(len(atoms)), shape)
    graph = radius_graph_host(pack, engine.cutoff_angstrom)
    known = implicit.at_minimum(engine.energy, pressure_gpa=pressure_gpa, move_cell=cell)
    pack, graph = jax.tree.map(jnp.asarray, (pack, graph))
    return Minimum(params, pack.occupancy, lambda p, occupancy: known(p, pack._replace(occupancy=occupancy), graph))


def phonons(
    crystal: Any, potential: str | Sequence[str] = "student", *, length_angstrom: float = 10.0,
    mesh_per_angstrom: float = 0.02, width_thz: float = 0.1, temperatures_k: Sequence[float] = ROOM_TEMPERATURES,
    relax: bool = True, remedy: int = 0, out: str | PathLike | None = None,
) -> Analysis:  # fmt: skip
    """Phonons of one crystal: band structure, density of states, free energy, entropy and heat capacity.

    Args:
        crystal: one, as `read` takes them.
        potential: by name or path, or several of one kind.
        length_angstrom: least edge of the supercell, Å.
        mesh_per_angstrom: step between wave vectors of the density of states, 1/Å.
        width_thz: smearing of the density of states, THz.
        temperatures_k: of the thermodynamics, K.
        relax: whether to relax first; a crystal that is at no minimum has no phonons.
        remedy: follow soft modes to lower polymorphs, at most this many times.
        out: a folder for bands.csv, dos.csv, thermal.csv, phonons.svg, crystal.cif and summary.json.

    A crystal that cannot be relaxed or computed is a `ValueError` with the reason.
    """
    (engine, params), given = _engine(potential), read(crystal)
    if len(given) != 1:
        raise ValueError(f"phonons: {len(given)} crystals; expected one")
    said = analysis(
        engine, params, datasets.entries(given)[0], np.asarray(temperatures_k, float), relax=relax, remedies=remedy,
        width_thz=width_thz, length_angstrom=length_angstrom, mesh_per_angstrom=mesh_per_angstrom,
    )  # fmt: skip
    if out is not None:
        phonon_files.write(Path(out), said, potential if isinstance(potential, str) else ", ".join(potential))
    return said


class ElasticAnswers(NamedTuple):
    """Elastic constants of crystals, their equations of state where asked for, and both as rows of a table."""

    elastic: Elastic
    curves: Curves | None
    rows: list[dict]  # names with units -> values; what is not known is None
    written: int  # crystals in the file of relaxed ones


def elasticity(
    crystals: Any, potential: str | Sequence[str] = "student", *, relax: bool = True, steps: int = 500,
    fmax: float = 0.01, eos: bool = True, eos_range: float = 0.06, remedy: int = 0, out: str | PathLike | None = None,
    structures: str | PathLike | None = None, progress: Progress | None = None,
) -> ElasticAnswers:  # fmt: skip
    """Elastic tensors with relaxed ions, Voigt-Reuss-Hill moduli, stability, Debye temperatures, equations of state.

    Args:
        crystals: as `read` takes them.
        potential: by name or path, or several of one kind.
        relax: positions and cell first, by at most `steps` evaluations to `fmax` eV/Å; else they are taken as at rest.
        eos: the Birch-Murnaghan equation of state too, over volumes of `eos_range` below and above.
        remedy: follow soft internal modes to lower polymorphs, at most so many times.
        out: .json or .csv, one row per crystal.
        structures: a file for the crystals that the tensors belong to.
        progress: told how many crystals are done, of how many.
    """
    (engine, params), given = _engine(potential), read(crystals)
    asked: dict[str, Any] = {"settings": Relax(fmax_ev_angstrom=fmax), "max_steps": steps}
    told: dict[str, Any] = {} if progress is None else {"progress": progress}
    found, gain = driver.elasticity(engine, params, given, relax=relax, **asked, **told), None
    if remedy:
        found, gain = soft_ions.remedied(engine, params, found, times=remedy, **asked)
    curves = driver.equations_of_state(engine, params, found.crystals, strain=eos_range, **asked) if eos else None
    rows = elastic_table.rows(found, curves, gain)
    if out is not None:
        files.write(out, elastic_table.text(rows, Path(out).suffix))
    some = elastic_table.writable(found)
    if structures is not None and len(some):
        io.write(some, structures)
    return ElasticAnswers(found, curves, rows, 0 if structures is None else len(some))


def diffraction(
    crystals: Any, *, radiation: str = "CuKa", wavelength: float | None = None,
    angles: tuple[float, float] = (0.0, 90.0), profile: bool = False, fwhm: float = 0.1,
    out: str | PathLike | None = None,
) -> Patterns:  # fmt: skip
    """Powder diffraction patterns; the strongest peak is 100, intensities of a profile are areas of such peaks.

    Args:
        crystals: as `read` takes them.
        radiation: an X-ray line such as "CuKa1" or "MoKa", or "neutron".
        wavelength: Å, instead of the line's own.
        angles: from and to, 2θ in degrees.
        profile: the smooth patterns as well, of peaks `fwhm` degrees wide.
        out: a CSV of the peaks, or of the profiles.

    A crystal without a pattern has a reason in `peaks`.
    """
    given = read(crystals)
    beam = scattering(radiation, wavelength_angstrom=wavelength, dtype=np.float64)
    said = diffraction_table.patterns(given, beam, angles=angles, fwhm_degree=fwhm, profiles=profile)
    if out is not None:
        files.write(out, diffraction_table.csv_text(said))
    return said


class PairDistributions(NamedTuple):
    """Pair distribution functions G(r) on one grid."""

    ids: np.ndarray  # (m,)
    r_angstrom: np.ndarray  # (k,)
    value: np.ndarray  # (m, k) Å⁻², NaN where there is a reason
    reason: list[str]


def pair_distribution(
    crystals: Any, longest_angstrom: float = 10.0, *, radiation: str = "CuKa", wavelength: float | None = None,
    step_angstrom: float = 0.02, sigma_angstrom: float = 0.1, out: str | PathLike | None = None,
) -> PairDistributions:  # fmt: skip
    """Reduced pair distribution functions G(r), which total scattering measures.

    Args:
        crystals: as `read` takes them.
        longest_angstrom: the longest distance, Å.
        radiation, wavelength: what weighs the elements: atomic numbers for X-rays, scattering lengths for neutrons.
        step_angstrom: of the grid, Å.
        sigma_angstrom: standard deviation of every distance, Å.
        out: a CSV with a row per point.
    """
    given, r = read(crystals), np.arange(step_angstrom, longest_angstrom + step_angstrom / 2, step_angstrom)
    beam = scattering(radiation, wavelength_angstrom=wavelength)
    value, reason = pairs.of_dataset(given, r, table=beam, sigma_angstrom=sigma_angstrom)
    if out is not None:
        points = [
            (n, f"{x:.4f}", f"{y:.6g}") for n, g, w in zip(given.ids, value, reason) if not w for x, y in zip(r, g)
        ]
        files.write(out, files.csv_text(["id", "r_angstrom", "g_per_angstrom2"], points))
    return PairDistributions(given.ids, r, value, reason)
