"""Structure from a powder pattern: many starts descend by their `misfit`, from blurred patterns to sharp ones.

Peaks are first blurred by a Gaussian, which joins neighbors and lets a wrong cell feel where it should go, and low
angles count more (a Debye-Waller factor on data and model alike), which smooths the landscape of the positions; both
are taken back stage by stage. Atoms closer than a distance are pushed apart. A stage is one compiled program
(`search.run`), by Adam or by Langevin dynamics, of as many starts at once as fit into little memory.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from crysjax.base import Crystal, PyTree, Search
from crysjax.chemistry.scattering import Scattering, scattering
from crysjax.crystallography import equivalence
from crysjax.data import datasets
from crysjax.data.datasets import Dataset, Entry
from crysjax.geometry import lattice as lattices
from crysjax.geometry import torus
from crysjax.physics.diffraction import noise
from crysjax.physics.diffraction.misfit import (
    CELL,
    MisfitProblem,
    Stage,
    crystal_at,
    factor,
    misfit,
    narrowest,
    problem,
    stages,
    zero_shift,
)
from crysjax.physics.diffraction.pattern import Shape, profile, reflections
from crysjax.search import langevin
from crysjax.search.gradient import gradient
from crysjax.search.run import run

RWP, START, COPIES = "rwp", "start", "copies"
METHODS = ("adam", "langevin")
COPY = equivalence.Tolerance(stol=0.1, angle_degree=3.0, ltol=0.03)  # closer than solutions that differ
_LIKE = 0.02  # by how much the Rwp, and relatively the volumes, of copies may differ
_TOGETHER = 2**21  # reflections times atoms of the starts that move at once
_CALL = 4  # starts a call where the cell moves: between two of them progress is told
Progress = Callable[..., None]  # (done, total, what)


class Descent(NamedTuple):
    """How starts move. Tuples have one entry per stage, and the last stage sees the pattern as it is."""

    blur_degree: tuple[float, ...] = (2.0, 0.7, 0.2, 0.0)  # FWHM added to every peak
    damping_angstrom2: tuple[float, ...] = (4.0, 2.0, 0.5, 0.0)  # B that data and model are damped by
    steps: int = 100  # a stage
    rate: float = 0.02  # fractional units a step (Adam), falling to a tenth within a stage
    method: str = "adam"  # or "langevin", whose last stage is Adam too
    temperature: float = 0.01  # of Rwp² in the first Langevin stage; falls linearly to 0 in the last
    repulsion: float = 1.0  # Rwp² that two atoms on one place cost


def solve(
    two_theta: np.ndarray, intensity: np.ndarray, numbers: np.ndarray, *, lattice: np.ndarray | None = None,
    starts: int | Dataset = 64, table: Scattering | None = None, shape: Shape = Shape(),  # noqa: B008
    descent: Descent = Descent(), closest_angstrom: float | None = None, volume_per_atom: float = 16.0,  # noqa: B008
    background: int = 0, zero_degree: float | None = 0.0, seed: int = 0, progress: Progress = lambda *_: None,
) -> Dataset:  # fmt: skip
    """Candidates for a pattern by rising Rwp (property `rwp`; `start` says which start one came from).

    Starts that broke (no finite misfit, a cell without volume) are left out and counted in the provenance. Many starts
    end in one structure: `distinct` removes its copies. The provenance holds what noise alone gives (`noise.expected`):
    `rwp_expected`, and `rwp_noise_limit`, up to which a candidate differs from the pattern by no more than noise does.

    Args:
        two_theta: (g,) degrees, rising; `intensity` (g,) the measured profile.
        numbers: (n,) atomic numbers of the cell.
        lattice: (3, 3) the cell, if known; else it is found too, which needs many more starts and small cells.
        starts: how many random ones, or crystals with these numbers (from a generator), cells of which are used if
            `lattice` is not given.
        table: radiation, `NUM_SPECIES` columns; Cu Kα if left out.
        shape: of the measured peaks.
        closest_angstrom: atoms closer than this repel; 0.6 (V / n)^(1/3) if left out.
        background: terms of a Chebyshev polynomial that is fitted beside the peaks, 0 where it was taken off. The Rwp
            is then that of what lies above it.
        zero_degree: by how much the angles are too high; `None`: found, if `lattice` is given, and told in the
            provenance. Where the cell moves it takes up what is left of a shift.
        volume_per_atom: Å^3, center of the random cells where none is given.
        progress: is told how many starts are done, of how many, and the stage of the others or the best Rwp so far.
    """
    x, y, numbers = _checked(two_theta, intensity, numbers, descent)
    begin = _starts(starts, numbers, lattice, volume_per_atom, seed)
    table, fixed = scattering() if table is None else table, lattice is not None
    reach = min(float(x[-1]) + 1, 179.0)  # tails of peaks just beyond the data reach into them
    made = problem(numbers, begin.lattice, table, shape, fixed=fixed, closest=closest_angstrom, reach=reach)
    if zero_degree is None:
        zero_degree = zero_shift(made, x, y, background) if fixed else 0.0
    x = x - zero_degree
    todo = stages(made, x, y, descent.blur_degree, descent.damping_angstrom2, fixed=fixed, terms=background)
    keys = jax.random.split(jax.random.key(seed), len(begin.frac))
    points = {"frac": jnp.pad(begin.frac, ((0, 0), (0, len(made.occupancy) - len(numbers)), (0, 0)))}
    if not fixed:
        points["cell"] = lattices.encode(begin.lattice, jnp.ones(len(begin.lattice))) / CELL
    final = _descend(made, todo, keys, points, descent, reach, progress)
    calculated = np.asarray(_profiles(made, final, jnp.asarray(x, jnp.float32), reach), float)
    answer = _ranked(jax.tree.map(np.asarray, final), factor(y, calculated, x, background), numbers)
    alone = noise.expected(x, y, narrowest(shape, x), background)
    answer.provenance.update({"rwp_expected": alone.rwp, "rwp_noise_limit": alone.limit})
    answer.provenance.update({"zero_degree": zero_degree, "background_terms": background})
    return answer


def distinct(found: Dataset, most: int) -> Dataset:
    """The best candidates without copies of one another, `most` of them; property `copies` counts the starts of each.

    Copies are equal within `COPY` by pymatgen's StructureMatcher, in any cell, origin and handedness (a pattern does
    not tell enantiomers apart), and in volume and Rwp.
    """
    kept: list[int] = []
    cells, copies, values = [], [], found.properties[RWP]
    volume = np.abs(np.linalg.det(found.lattice.astype(float)))
    for k, row in enumerate(datasets.entries(found)):
        cell = _reduced(row)
        alike = [j for j, i in enumerate(kept) if values[k] - values[i] < _LIKE and
                 abs(volume[k] / volume[i] - 1) < _LIKE and cells[j] is not None and cell is not None]  # fmt: skip
        home = next((j for j in alike if any(True for _ in equivalence.matches(cells[j], [cell], COPY))), None)
        if home is not None:
            copies[home] += 1
        elif len(kept) < most:
            kept, cells, copies = [*kept, k], [*cells, cell], [*copies, 1]
    best = datasets.take(found, np.array(kept, int))
    best.properties[COPIES] = np.array(copies, np.float32)
    return best


def _reduced(row: Entry) -> Entry | None:
    """Its primitive cell, None for a cell so odd that pymatgen gives up: such a one has no copies."""
    try:
        return equivalence.primitive([row])[0]
    except Exception:  # pymatgen raises many kinds
        return None


def _checked(two_theta, intensity, numbers, descent: Descent) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Arrays that a pattern and a cell can be made of, atoms sorted by element."""
    x, y, z = np.asarray(two_theta, float), np.asarray(intensity, float), np.sort(np.asarray(numbers, int))
    if x.ndim != 1 or x.shape != y.shape or len(x) < 3 or not np.isfinite(x).all() or not np.isfinite(y).all():
        raise ValueError(
            f"solve: angles {x.shape} and intensities {y.shape}; expected two equal rows of finite numbers"
        )
    if (np.diff(x) <= 0).any() or x[0] < 0 or x[-1] >= 180 or y.max() <= 0:
        raise ValueError("solve: expected rising angles between 0 and 180 degrees and intensities above 0 among them")
    if not len(z) or z[0] < 1 or z[-1] > 100:
        raise ValueError("solve: expected atomic numbers from 1 to 100, one an atom of the cell")
    if descent.method not in METHODS:
        raise ValueError(f"solve: method {descent.method!r}; expected one of {', '.join(METHODS)}")
    stages = {len(descent.blur_degree), len(descent.damping_angstrom2)}
    if len(stages) > 1 or 0 in stages or descent.blur_degree[-1] or descent.damping_angstrom2[-1]:
        raise ValueError("solve: blur_degree and damping_angstrom2 need an entry a stage each, and 0 in the last")
    return x, np.maximum(y, 0), z


def _starts(starts: int | Dataset, numbers: np.ndarray, lattice, volume_per_atom: float, seed: int) -> Crystal:
    """Positions (m, n, 3) and cells (m, 3, 3) to begin with; atoms in the order of `numbers`."""
    n, rng = len(numbers), np.random.default_rng(seed)
    if isinstance(starts, Dataset):
        rows = datasets.entries(starts)
        if any(np.sort(row.numbers).tolist() != numbers.tolist() for row in rows):
            raise ValueError("solve: starts have other atoms than the formula; expected the same in every one")
        frac = np.stack([row.frac[np.argsort(row.numbers, kind="stable")] for row in rows])
        cells = starts.lattice
    else:
        if starts < 1:
            raise ValueError(f"solve: {starts} starts; expected at least 1")
        frac = rng.random((starts, n, 3))
        drawn = rng.normal(0, 0.15, (starts, 6))
        drawn[:, 5] = np.log(volume_per_atom) / np.sqrt(3) + rng.normal(0, 0.1, starts)
        cells = np.asarray(lattices.decode(jnp.asarray(drawn, jnp.float32), jnp.full(starts, n, jnp.float32)))
    if lattice is not None:
        cells = np.broadcast_to(np.asarray(lattice, float), (len(frac), 3, 3))
    return Crystal(None, jnp.asarray(frac, jnp.float32), jnp.asarray(cells, jnp.float32))


# The descent


def _descend(
    made: MisfitProblem,
    todo: list[Stage],
    keys: Array,
    points: PyTree,
    descent: Descent,
    reach: float,
    progress: Progress,
) -> Crystal:
    """All starts through all stages, some at a time; the crystals where each was best in the last stage."""
    m, best, ends = len(keys), np.inf, []
    size = len(made.given.hkl) * len(made.occupancy)
    at_once = min(_CALL if not todo[0].gram.size else max(_TOGETHER // size, 1), m)
    at_once = -(-m // -(-m // at_once))  # equal calls
    heat = np.linspace(1, 0, len(todo))
    progress(0, m)
    for first in range(0, m, at_once):
        rows = np.minimum(np.arange(first, first + at_once), m - 1)  # the last call is filled up
        point, own = jax.tree.map(lambda leaf, rows=rows: leaf[rows], points), keys[rows]
        each = jax.vmap(lambda key: jax.random.split(key, len(todo)))(own)
        for k, stage in enumerate(todo):
            sampled = descent.method == "langevin" and k + 1 < len(todo)
            point, value = _stage(made, stage, each[:, k], point, float(heat[k]), descent, reach, sampled)
            best = min(best, float(value.min())) if k + 1 == len(todo) else best
            told = f"Rwp {100 * max(best, 0) ** 0.5:.1f} % at best, " if best < np.inf else ""
            done = first if k + 1 < len(todo) else min(m, first + at_once)
            progress(done, m, f"{told}stage {k + 1} of {len(todo)} done")
        ends.append(jax.vmap(partial(crystal_at, made), 0)(point))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:m], *ends)


@partial(jax.jit, static_argnums=(5, 6, 7))
def _stage(
    made: MisfitProblem,
    stage: Stage,
    keys: Array,
    points: PyTree,
    heat: float,
    descent: Descent,
    reach: float,
    sampled: bool,
) -> tuple[PyTree, Array]:
    """Where some starts are after a stage, and their misfits."""
    # Langevin at temperature 1 of the scaled objective
    scale = 1 / (descent.temperature * heat) if sampled else 1.0

    def one(given: tuple[Array, PyTree]) -> tuple[PyTree, Array]:
        key, point = given
        cost = lambda p: scale * misfit(made, stage, p, reach, descent.repulsion)  # noqa: E731
        best, trace = run(_search(descent, sampled), cost, key, point, descent.steps)
        return (trace.last if sampled else best.x), best.value

    # overlaps of peaks are one matrix product for all starts; points of a profile stay in the cache of one start
    return jax.vmap(one)((keys, points)) if stage.gram.size else jax.lax.map(one, (keys, points))


def _search(descent: Descent, sampled: bool) -> Search:
    def home(point: PyTree) -> PyTree:
        return point | {"frac": torus.wrap(point["frac"])}

    if sampled:
        return langevin.psgld(step_size=descent.rate / 4, alpha=0.9, project=home)
    return gradient(optax.adam(optax.cosine_decay_schedule(descent.rate, descent.steps, 0.1)), project=home)


@partial(jax.jit, static_argnums=3)
def _profiles(made: MisfitProblem, crystals: Crystal, grid: Array, two_theta_max: float) -> Array:
    def one(crystal: Crystal) -> Array:
        found = reflections(crystal, made.table, made.every, two_theta_max_degree=two_theta_max)
        return profile(found, grid, made.shape)

    return jax.lax.map(one, crystals)


def _ranked(crystals: Crystal, values: np.ndarray, numbers: np.ndarray) -> Dataset:
    """Candidates by rising Rwp; starts that broke are left out."""
    frac, rows = crystals.frac[:, : len(numbers)], []
    with np.errstate(all="ignore"):
        sound = np.isfinite(frac).all((1, 2)) & (np.abs(np.linalg.det(crystals.lattice.astype(float))) > 0.1)
    sound &= np.isfinite(values)
    if not sound.any():
        raise ValueError(
            f"solve: none of {len(values)} starts ended in a crystal; expected smaller cells or more starts"
        )
    for i in np.argsort(values, kind="stable"):
        if sound[i]:
            facts = {RWP: float(values[i]), START: float(i)}
            rows.append(Entry(f"candidate-{len(rows):04d}", numbers, frac[i], crystals.lattice[i], facts))
    about = {"made by": "crysjax solve", "starts": len(values), "broken": int((~sound).sum())}
    return datasets.from_entries(rows, split="candidate", provenance=about)
