"""Structure from a powder pattern: many starts descend at once, from blurred patterns to sharp ones.

The misfit is Rietveld's weighted profile factor with the scale fitted in closed form:

    Rwp² = min_c Σ_g w (y - c y_calc)² / Σ_g w y²,   w = 1 / max(y, 1 % of the strongest)

so that it lies between 0 and 1. Peaks are first blurred by a Gaussian, which joins neighbours and lets a wrong cell
feel where it should go, and low angles count more (a Debye-Waller factor on data and model alike), which smooths the
landscape of the positions; both are taken back stage by stage. Atoms closer than a distance are pushed apart. Every
start runs through all stages in one compiled program (`search.run`), by Adam or by Langevin dynamics.

With the cell given, angles are fixed: data, peak shapes and weights shrink to a vector and a matrix over reflections.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from crysjax.base import Crystal, PyTree, Search, site_mask
from crysjax.data import datasets
from crysjax.data.datasets import Dataset, Entry
from crysjax.data.scattering import Scattering, of_species, scattering
from crysjax.geometry import lattice as lattices
from crysjax.geometry import torus
from crysjax.properties import diffraction
from crysjax.properties.diffraction import Indices, Shape, profile, reflections
from crysjax.search import langevin
from crysjax.search.gradient import gradient
from crysjax.search.run import run

FLOOR = 0.01  # of the strongest point: below it the weight does not grow any more
RWP = "rwp"
METHODS = ("adam", "langevin")
_SLOTS, _ROWS = 4, 128  # atoms, species and reflections are filled up to multiples: compiled programs are used again
_CELL = 0.2  # the unit of cell coordinates while they move
_GROWTH = 1.2  # how much longer axes may become than those of any start
_IMAGES = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3, indexing="ij"), -1).reshape(27, 3).astype(np.float32)


class Descent(NamedTuple):
    """How starts move. Lists have an entry a stage, and the last stage sees the pattern as it is."""

    blur_degree: tuple[float, ...] = (2.0, 0.7, 0.2, 0.0)  # FWHM added to every peak
    damping_angstrom2: tuple[float, ...] = (4.0, 2.0, 0.5, 0.0)  # B that data and model are damped by
    steps: int = 100  # a stage
    rate: float = 0.02  # fractional units a step (Adam), falling to a tenth within a stage
    method: str = "adam"  # or "langevin", whose last stage is Adam too
    temperature: float = 0.01  # of Rwp² in the first Langevin stage; falls linearly to 0 in the last
    repulsion: float = 1.0  # Rwp² that two atoms on one place cost


class _Data(NamedTuple):
    """What a stage compares with; leaves have a leading axis of stages."""

    pull: Array  # (k, r) weighted data along the peaks of each reflection
    gram: Array  # (k, r, r) overlap of the peaks of two reflections
    seen: Array  # (k, g) blurred data (free cells)
    weight: Array  # (k, g)
    blur: Array  # (k,) degrees


class _Problem(NamedTuple):
    """All arrays of one pattern and composition."""

    occupancy: Array  # (n, s)
    lattice: Array  # (3, 3) of a given cell
    table: Scattering
    given: Indices
    grid: Array  # (g,)
    shape: Shape
    data: _Data
    closest: Array  # () Å


def solve(
    two_theta: np.ndarray, intensity: np.ndarray, numbers: np.ndarray, *, lattice: np.ndarray | None = None,
    starts: int | Dataset = 64, table: Scattering | None = None, shape: Shape = Shape(),  # noqa: B008
    descent: Descent = Descent(), closest_angstrom: float | None = None, volume_per_atom: float = 16.0,  # noqa: B008
    seed: int = 0,
) -> Dataset:  # fmt: skip
    """Candidates for a pattern by rising Rwp (property `rwp`; `start` says which start one came from).

    Args:
        two_theta: (g,) degrees, rising; `intensity` (g,) the measured profile, background taken off.
        numbers: (n,) atomic numbers of the cell.
        lattice: (3, 3) the cell, if known; else it is found too, which needs many more starts and small cells.
        starts: how many random ones, or crystals with these numbers (from a generator), cells of which are used if
            `lattice` is not given.
        table: radiation, `NUM_SPECIES` columns; Cu Kα if left out.
        shape: of the measured peaks.
        closest_angstrom: atoms closer than this repel; 0.6 (V / n)^(1/3) if left out.
        volume_per_atom: Å^3, centre of the random cells where none is given.
    """
    x, y, numbers = _checked(two_theta, intensity, numbers, descent)
    begin = _starts(starts, numbers, lattice, volume_per_atom, seed)
    table = scattering() if table is None else table
    reach = min(float(x[-1]) + 1, 179.0)  # tails of peaks just beyond the data reach into them
    problem = _problem(x, y, numbers, begin, lattice is not None, table, shape, descent, closest_angstrom, reach)
    keys = jax.random.split(jax.random.key(seed), len(begin.frac))
    points = {"frac": jnp.pad(begin.frac, ((0, 0), (0, len(problem.occupancy) - len(numbers)), (0, 0)))}
    if lattice is None:
        points["cell"] = lattices.encode(begin.lattice, jnp.ones(len(begin.lattice))) / _CELL
    final = _descend(problem, keys, points, descent, reach)
    calculated = np.asarray(_profiles(problem, final, reach), float)
    return _ranked(jax.tree.map(np.asarray, final), factor(y, calculated), numbers)


def factor(seen: np.ndarray, calculated: np.ndarray) -> np.ndarray:
    """Rwp of calculated profiles with the best scale of each: (g,), (..., g) -> (...), 1 without peaks."""
    weight = 1 / np.maximum(seen, FLOOR * seen.max())
    own = (weight * calculated**2).sum(-1)
    scale = (weight * seen * calculated).sum(-1) / np.where(own > 0, own, 1)
    rest = (weight * (seen - scale[..., None] * calculated) ** 2).sum(-1)
    return np.sqrt(rest / (weight * seen**2).sum())


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


def _problem(x, y, numbers, begin: Crystal, fixed: bool, table, shape, descent: Descent, closest, reach) -> _Problem:
    """Everything as arrays, of few different shapes."""
    found, species = np.unique(numbers, return_inverse=True)
    atoms, kinds = (-(-len(rows) // _SLOTS) * _SLOTS for rows in (numbers, found))
    columns = of_species(table, np.pad(found, (0, kinds - len(found))))
    angle = {"wavelength_angstrom": float(table.wavelength), "two_theta_max_degree": reach}
    cells = np.asarray(begin.lattice, float)
    given = diffraction.indices(diffraction.reflections_needed(cells * (1 if fixed else _GROWTH), **angle).max(0))
    if fixed:
        hkl = diffraction.within(given, cells[0], **angle).hkl
        given = given._replace(hkl=np.pad(hkl, ((0, -len(hkl) % _ROWS), (0, 0))))
    occupancy = np.pad(np.eye(kinds, dtype=np.float32)[species], ((0, atoms - len(numbers)), (0, 0)))
    size = abs(np.linalg.det(cells)).mean() / len(numbers)
    near = 0.6 * np.cbrt(size) if closest is None else closest
    problem = _Problem(
        occupancy, np.asarray(begin.lattice[0]), columns, given, x.astype(np.float32),
        Shape(*map(np.float32, shape)), (), np.float32(near),
    )  # fmt: skip
    problem = jax.tree.map(jnp.asarray, problem)
    return problem._replace(data=_stages(problem, y, descent, fixed))


def _stages(problem: _Problem, y: np.ndarray, descent: Descent, fixed: bool) -> _Data:
    """Blurred and damped data a stage; with the cell given also what it needs of them."""
    x, parts = np.asarray(problem.grid, float), []
    s2 = np.square(np.sin(np.radians(x / 2)) / float(problem.table.wavelength))
    if fixed:
        still = Crystal(problem.occupancy, jnp.zeros((len(problem.occupancy), 3)), problem.lattice)
        angles = np.asarray(reflections(still, problem.table, problem.given).two_theta, float)
    for blur, damping in zip(descent.blur_degree, descent.damping_angstrom2):
        seen = _blurred(x, y, blur)
        weight = np.exp(-4 * damping * s2) / np.maximum(seen, FLOOR * seen.max())
        weight = weight / (weight * seen**2).sum()
        pull, gram = np.zeros(0), np.zeros((0, 0))
        if fixed:
            peaks = diffraction.peak_shapes(angles, x, Shape(*map(float, _wider(problem.shape, blur))))
            pull, gram = peaks @ (weight * seen), (peaks * weight) @ peaks.T
        parts.append((pull, gram, seen, weight, np.array(blur)))
    return _Data(*(jnp.asarray(np.stack(leaves), jnp.float32) for leaves in zip(*parts)))


def _blurred(x: np.ndarray, y: np.ndarray, fwhm: float) -> np.ndarray:
    if not fwhm:
        return y
    kernel = np.exp(-4 * np.log(2) * np.square((x[:, None] - x[None]) / fwhm)) * np.gradient(x)
    return kernel @ y / kernel.sum(1)


def _wider(shape: Shape, blur) -> Shape:
    return shape._replace(w=shape.w + blur**2)


@partial(jax.jit, static_argnums=(3, 4))
def _descend(problem: _Problem, keys: Array, points: PyTree, descent: Descent, reach: float) -> Crystal:
    """All starts through all stages; the crystals where each was best in the last stage."""
    heat = descent.temperature * jnp.linspace(1, 0, len(descent.blur_degree))

    def stage(sampled: bool, point: PyTree, inputs: tuple) -> tuple[PyTree, None]:
        seen, key, temperature = inputs
        scale = 1 / temperature if sampled else 1.0  # Langevin at temperature 1 of the scaled objective
        cost = lambda p: scale * _misfit(problem, seen, p, reach, descent.repulsion)  # noqa: E731
        best, trace = run(_search(descent, sampled), cost, key, point, descent.steps)
        return (trace.last if sampled else best.x), None

    def one(key: Array, point: PyTree) -> Crystal:
        inputs, sampled = (problem.data, jax.random.split(key, len(heat)), heat), 0
        if descent.method == "langevin":
            sampled = len(heat) - 1
            point, _ = jax.lax.scan(partial(stage, True), point, jax.tree.map(lambda leaf: leaf[:sampled], inputs))
        point, _ = jax.lax.scan(partial(stage, False), point, jax.tree.map(lambda leaf: leaf[sampled:], inputs))
        return _crystal(problem, point)

    return jax.vmap(one)(keys, points)


def _search(descent: Descent, sampled: bool) -> Search:
    def home(point: PyTree) -> PyTree:
        return point | {"frac": torus.wrap(point["frac"])}

    if sampled:
        return langevin.psgld(step_size=descent.rate / 4, alpha=0.9, project=home)
    return gradient(optax.adam(optax.cosine_decay_schedule(descent.rate, descent.steps, 0.1)), project=home)


def _crystal(problem: _Problem, point: PyTree) -> Crystal:
    lattice = problem.lattice
    if "cell" in point:
        lattice = lattices.decode(point["cell"] * _CELL, jnp.ones((), lattice.dtype))
    return Crystal(problem.occupancy, point["frac"], lattice)


def _misfit(problem: _Problem, seen: _Data, point: PyTree, two_theta_max: float, repulsion: float) -> Array:
    """Rwp² of one stage, and what close atoms cost; infinite for a cell that needs more reflections than listed."""
    crystal = _crystal(problem, point)
    found = reflections(crystal, problem.table, problem.given, two_theta_max_degree=two_theta_max)
    if "cell" in point:
        calculated = profile(found, problem.grid, _wider(problem.shape, seen.blur))
        pull, own = (seen.weight * seen.seen * calculated).sum(), (seen.weight * calculated**2).sum()
    else:
        pull, own = seen.pull @ found.intensity, found.intensity @ seen.gram @ found.intensity
    misfit = 1 - jnp.square(pull) / jnp.where(own > 0, own, 1)
    return jnp.where(found.valid, misfit + repulsion * _overlap(crystal, problem.closest), jnp.inf)


def _overlap(crystal: Crystal, closest: Array) -> Array:
    """Σ over pairs of (1 - d / closest)² where d is less, by the nearest of 27 images (exact in a reduced cell)."""
    i, j = np.triu_indices(len(crystal.frac), 1)
    delta = torus.log(crystal.frac[j] - crystal.frac[i])
    vectors = (delta[:, None] + _IMAGES.astype(delta.dtype)[None]) @ crystal.lattice
    distance = jnp.sqrt(jnp.square(vectors).sum(-1).min(-1) + 1e-6)
    atom = site_mask(crystal.occupancy)
    return (atom[i] * atom[j] * jnp.square(jnp.maximum(1 - distance / closest, 0))).sum()


@partial(jax.jit, static_argnums=2)
def _profiles(problem: _Problem, crystals: Crystal, two_theta_max: float) -> Array:
    def one(crystal: Crystal) -> Array:
        found = reflections(crystal, problem.table, problem.given, two_theta_max_degree=two_theta_max)
        return profile(found, problem.grid, problem.shape)

    return jax.lax.map(one, crystals)


def _ranked(crystals: Crystal, values: np.ndarray, numbers: np.ndarray) -> Dataset:
    """Candidates by rising Rwp."""
    frac, rows = crystals.frac[:, : len(numbers)], []
    for k, i in enumerate(np.argsort(values, kind="stable")):
        facts = {RWP: float(values[i]), "start": float(i)}
        rows.append(Entry(f"candidate-{k:04d}", numbers, frac[i], crystals.lattice[i], facts))
    return datasets.from_entries(rows, split="candidate", provenance={"made by": "crysjax solve"})
