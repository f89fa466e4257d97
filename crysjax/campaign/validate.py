"""Validation of a batch: relax it with a potential, then ask again what its properties are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from crysjax.base import Estimate, Pack, Params
from crysjax.campaign.density_target import DENSITY, RELAXATION_G_CM3
from crysjax.campaign.goals import Goals, in_range
from crysjax.campaign.hull_distance import ABOVE_HULL
from crysjax.data import batching, datasets
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Dataset
from crysjax.data.entry import FORMATION_ENERGY
from crysjax.models import references
from crysjax.models.references import Reference
from crysjax.potentials.mlip import Potential
from crysjax.potentials.relax_dataset import AS_USUAL, relax_dataset
from crysjax.predictors.predictor import Predictor


class Relaxed(NamedTuple):
    """A batch after relaxation; one row per crystal."""

    crystals: Dataset
    energy: np.ndarray  # (m,) eV/atom
    max_force: np.ndarray  # (m,) eV/Å
    evaluations: np.ndarray  # (m,) of energy, forces and stress
    reason: np.ndarray  # (m,) str, "" where it worked
    judged: np.ndarray | tuple[()] = ()  # (m,) evaluations by a judge; (): there is none
    judge_seconds: float = 0.0  # wall time of the judge


def relaxer(
    potential: Potential, params: Params, *, steps: int, fmax: float = AS_USUAL.fmax_ev_angstrom, what: str = "relax"
) -> Callable[[Dataset, Callable], Relaxed]:
    """`(crystals, progress) -> Relaxed`: positions and cells, at most `steps` evaluations per crystal.

    `fmax` is the largest force that counts as relaxed, in eV/Å; `what` is how progress is told.
    """
    settings = AS_USUAL._replace(fmax_ev_angstrom=fmax)

    def relax(crystals: Dataset, progress: Callable[[str, int, int], None]) -> Relaxed:
        if not len(crystals):
            none = np.zeros(0, np.float32)
            return Relaxed(crystals, none, none, np.zeros(0, int), np.zeros(0, "<U80"))
        found = relax_dataset(
            potential.energy_forces_stress, params, crystals, cutoff_angstrom=potential.cutoff_angstrom,
            known=potential.numbers, settings=settings,
            max_steps=steps, progress=lambda done, total: progress(what, done, total),
        )  # fmt: skip
        wrapped = replace(found.crystals, frac=datasets.wrap(found.crystals.frac))
        return Relaxed(wrapped, found.energy / crystals.num_atoms, found.fmax, found.steps, found.reason)

    return relax


class Judged(NamedTuple):
    """Target properties after relaxation."""

    value: np.ndarray  # (m, k)
    std: np.ndarray  # (m, k)
    valid: np.ndarray  # (m,) bool
    novelty: np.ndarray | None = None  # (m,) how far from the heads' training data; None: they do not know


def judge_error(goals: Goals, reference: Reference | None) -> tuple[float, ...]:
    """Std of the error of what validates each target property in the heads' place; 0 where the heads do it.

    A density has that of the relaxation which stands between the crystal as drawn and as validated.
    """
    error = 0.0 if reference is None else reference.std_ev_per_atom
    of = {FORMATION_ENERGY: error, ABOVE_HULL: error, DENSITY: RELAXATION_G_CM3}
    return tuple(of.get(name, 0.0) for name in goals.names)


def judge(
    goals: Goals, predictor: Predictor, shape: Capacity, reference: Reference | None
) -> Callable[[Dataset, np.ndarray], Judged]:
    """`(relaxed crystals, potential energy in eV/atom) -> Judged`, values within their physical range.

    Properties come from the heads, on the relaxed structure. A formation energy comes from the potential where its
    `reference` is known: it was not what candidates were steered and chosen by, so it is an independent opinion.
    """

    @jax.jit
    def both(params: Params, pack: Pack) -> tuple[Estimate, Array | None]:
        said, novelty, _ = predictor.together(params, pack)
        return said, novelty

    def ask(crystals: Dataset, energy: np.ndarray) -> Judged:
        k = len(goals.names)
        if not len(crystals):
            return Judged(np.zeros((0, k), np.float32), np.zeros((0, k), np.float32), np.zeros(0, bool))
        said, novelty = batching.each_crystal(lambda pack: both(predictor.params, pack), crystals, shape)
        value, std = said.value[:, goals.column].copy(), said.std[:, goals.column].copy()
        if reference is not None and FORMATION_ENERGY in predictor.names:
            formation = energy - element_energy(crystals, reference)
            moved = formation - said.value[:, predictor.names.index(FORMATION_ENERGY)]
            for column, name in enumerate(goals.names):
                if name in (FORMATION_ENERGY, ABOVE_HULL):  # the hull stays where it is
                    value[:, column] += moved
                    std[:, column] = reference.std_ev_per_atom
        value = in_range(goals, value)
        return Judged(value, std, said.valid.all(-1) & np.isfinite(value).all(-1), novelty)

    return ask


def element_energy(crystals: Dataset, reference: Reference) -> np.ndarray:
    """Mean energy of the elements of each crystal, eV/atom: (m,)."""
    return references.element_energy(crystals, reference.element_ev)
