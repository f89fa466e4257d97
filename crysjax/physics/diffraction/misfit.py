"""How well crystals explain a powder pattern, as a descent sees it: in stages, from blurred patterns to sharp ones.

The misfit is Rietveld's weighted profile factor with the scale fitted in closed form:

    Rwp² = min_c Σ_g w (y - c y_calc)² / Σ_g w y²,   w = 1 / max(y, 1 % of the strongest)

so that it lies between 0 and 1; y and y_calc are those without a fitted `background`. A stage blurs peaks by a Gaussian
and damps high angles, of data and model alike. No stage has more points than its peaks have structure: a fine pattern
is averaged over steps of a quarter of their width.

With the cell given, angles are fixed: data, peak shapes and weights shrink to a vector and a matrix over reflections.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Crystal, PyTree, site_mask
from crysjax.chemistry.scattering import Scattering, of_species
from crysjax.geometry import lattice as lattices
from crysjax.geometry import torus
from crysjax.physics.diffraction import background
from crysjax.physics.diffraction import pattern as powder_pattern
from crysjax.physics.diffraction.pattern import Indices, Shape, profile, reflections

FLOOR = 0.01  # of the strongest point: below it the weight does not grow any more
CELL = 0.2  # the unit of cell coordinates while they move
POINTS = 4  # a peak's full width at half maximum
MOST_TERMS = 2**26  # reflections times atoms of one crystal; a few such arrays are in memory at once
MOST_PAIRED = 5_000  # reflections whose overlaps are a matrix
_SLOTS, _ROWS = 4, 128  # atoms, species and reflections are filled up to multiples: compiled programs are used again
_GROWTH = 1.2  # how much longer axes may become than those of any start
_TILE = 1_000_000  # numbers of host arrays that are made at once


class Stage(NamedTuple):
    """What a stage compares with: points, or sums over them for a given cell. The other leaves are empty."""

    grid: Array  # (g,) degrees
    seen: Array  # (g,) blurred data
    weight: Array  # (g,)
    basis: Array  # (g, k) of the background
    blur: Array  # () degrees
    pull: Array  # (r,) weighted data along the peaks of each reflection
    gram: Array  # (r, r) overlap of the peaks of two reflections


class MisfitProblem(NamedTuple):
    """A composition and a radiation, as arrays."""

    occupancy: Array  # (n, s)
    lattice: Array  # (3, 3) of a given cell
    table: Scattering
    given: Indices  # what a descent looks at: all that strains of up to `_GROWTH` bring within the angles
    every: Indices  # the whole box within their limits
    shape: Shape
    closest: Array  # () Å


def weights(seen: np.ndarray) -> np.ndarray:
    """1 / y, as counts have it, with a floor."""
    return 1 / np.maximum(seen, FLOOR * seen.max())


def factor(seen: np.ndarray, calculated: np.ndarray, x: np.ndarray | None = None, terms: int = 0) -> np.ndarray:
    """Rwp of calculated profiles with the best scale of each: (g,), (..., g) -> (...), 1 without peaks.

    With a background of `terms` over the grid `x`, the best one of each, and the Rwp of what is above it.
    """
    weight = weights(seen)
    if terms:
        found = background.basis(x, weight, terms)
        seen, calculated = (background.without(values, weight, found) for values in (seen, calculated))
    own = (weight * calculated**2).sum(-1)
    scale = (weight * seen * calculated).sum(-1) / np.where(own > 0, own, 1)
    rest = (weight * (seen - scale[..., None] * calculated) ** 2).sum(-1)
    return np.sqrt(rest / (weight * seen**2).sum())


def problem(
    numbers: np.ndarray, cells: np.ndarray, table: Scattering, shape: Shape, *, fixed: bool, closest: float | None,
    reach: float,
) -> MisfitProblem:  # fmt: skip
    """Arrays of few different shapes; `cells` (m, 3, 3) are where the starts begin, `fixed` whether they stay there."""
    found, species = np.unique(numbers, return_inverse=True)
    atoms, kinds = (-(-len(rows) // _SLOTS) * _SLOTS for rows in (numbers, found))
    columns = of_species(table, np.pad(found, (0, kinds - len(found))))
    angle = {"wavelength_angstrom": float(table.wavelength), "two_theta_max_degree": reach}
    cells = np.asarray(cells, float)
    reached = cells[:1] if fixed else _GROWTH * cells
    box = powder_pattern.indices(powder_pattern.reflections_needed(reached, **angle).max(0))
    hkl = powder_pattern.within(box, reached, **angle).hkl
    given = box._replace(hkl=np.pad(hkl, ((0, -len(hkl) % _ROWS), (0, 0))))
    every = given if fixed else box
    if len(every.hkl) * atoms > MOST_TERMS:
        what = "" if fixed else ", or the cell"
        raise ValueError(
            f"solve: {len(every.hkl):,} reflections of {len(numbers)} atoms are too many; give a smaller cell{what} or "
            f"a pattern that ends earlier"
        )
    occupancy = np.pad(np.eye(kinds, dtype=np.float32)[species], ((0, atoms - len(numbers)), (0, 0)))
    size = abs(np.linalg.det(cells)).mean() / len(numbers)
    near = 0.6 * np.cbrt(size) if closest is None else closest
    shape = Shape(*map(np.float32, shape))
    made = MisfitProblem(occupancy, cells[0].astype(np.float32), columns, given, every, shape, np.float32(near))
    return jax.tree.map(jnp.asarray, made)


# What the stages compare with


def stages(
    made: MisfitProblem, x: np.ndarray, y: np.ndarray, blurs: Sequence[float], dampings: Sequence[float], *,
    fixed: bool, terms: int = 0,
) -> list[Stage]:  # fmt: skip
    """The stages of a pattern (g,), by the blur in degrees and the damping in Å² of each; `terms` of a background."""
    narrow = narrowest(made.shape, x)
    x, y, lost = binned(x, y, narrow / POINTS)
    shape = Shape(*map(float, made.shape))
    shape = shape._replace(w=shape.w + 8 * math.log(2) / 12 * lost**2)  # a mean over a step broadens peaks
    angles = angles_of(made) if fixed and len(made.given.hkl) <= MOST_PAIRED else None
    answers = []
    for blur, damping in zip(blurs, dampings):
        grid = _coarser(x, math.hypot(narrow, blur) / POINTS) if blur else x
        seen = blurred(x, y, blur, grid)
        s2 = np.square(np.sin(np.radians(grid / 2)) / float(made.table.wavelength))
        weight = np.exp(-4 * damping * s2) * weights(seen)
        smooth = background.basis(grid, weight, terms)
        seen = background.without(seen, weight, smooth)
        size = (weight * seen**2).sum()
        weight, smooth = weight / size, smooth * np.sqrt(size)
        wide = math.sqrt(blur**2 + shape.w - float(made.shape.w))  # beyond the problem's own shape
        pull, gram = np.zeros(0), np.zeros((0, 0))
        if angles is not None:
            pull, gram = _overlaps(angles, grid, _wider(shape, blur), seen, weight, smooth)
            grid = seen = weight = np.zeros(0)  # nobody needs them, and one program serves all stages
            smooth = np.zeros((0, 0))
        leaves = (grid, seen, weight, smooth, np.array(wide), pull, gram)
        answers.append(Stage(*(jnp.asarray(leaf, jnp.float32) for leaf in leaves)))
    return answers


def angles_of(made: MisfitProblem) -> np.ndarray:
    """2θ of the reflections of a given cell, (r,) degrees."""
    still = Crystal(made.occupancy, jnp.zeros((len(made.occupancy), 3)), made.lattice)
    return np.asarray(reflections(still, made.table, made.given).two_theta, float)


def zero_shift(made: MisfitProblem, x: np.ndarray, y: np.ndarray, terms: int) -> float:
    """By how many degrees a pattern is shifted, of a given cell (see `background.zero_shift`)."""
    shape = Shape(*map(float, made.shape))
    step = narrowest(shape, x) / POINTS
    x, y, lost = binned(x, y, step)
    shape = shape._replace(w=shape.w + 8 * math.log(2) / 12 * lost**2)
    return background.zero_shift(angles_of(made), x, y, weights(y), shape, terms, step)


def narrowest(shape: Shape, x: np.ndarray) -> float:
    """The least width of a peak on a grid of 2θ, degrees."""
    tan = np.tan(np.radians(x / 2))
    square = (float(shape.u) * tan**2 + float(shape.v) * tan + float(shape.w)).min()
    if not square > 0:
        raise ValueError(f"solve: peaks of u, v, w = {shape.u}, {shape.v}, {shape.w} have no width at all angles")
    return math.sqrt(square)


def binned(x: np.ndarray, y: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Means of a pattern over steps that hold two points or more, and the step; finer patterns alone, else as it is."""
    if len(x) < 4 or np.median(np.diff(x)) > step / 2:
        return x, y, 0.0
    place = np.floor((x - x[0]) / step + 1e-6).astype(int)
    _, place, count = np.unique(place, return_inverse=True, return_counts=True)
    return np.bincount(place, x) / count, np.bincount(place, y) / count, step


def _coarser(x: np.ndarray, step: float) -> np.ndarray:
    """Points of this step over the range of a grid, or the grid where they would hardly be fewer."""
    return x if np.median(np.diff(x)) > step / 2 else np.arange(x[0], x[-1], step)


def blurred(x: np.ndarray, y: np.ndarray, fwhm: float, grid: np.ndarray) -> np.ndarray:
    """A pattern under a Gaussian, at the points of `grid`; without one, as it is."""
    if not fwhm:
        return y
    width, rows, parts = np.gradient(x), max(_TILE // len(x), 1), []
    for k in range(0, len(grid), rows):
        kernel = np.exp(-4 * np.log(2) * np.square((grid[k : k + rows, None] - x[None]) / fwhm)) * width
        parts.append(kernel @ y / kernel.sum(1))
    return np.concatenate(parts)


def _overlaps(
    angles: np.ndarray, grid: np.ndarray, shape: Shape, seen: np.ndarray, weight: np.ndarray, smooth: np.ndarray
) -> tuple:
    """Sums over the points for every reflection (r,) and every two of them (r, r), without what is background."""
    pull, gram, wide = np.zeros(len(angles)), np.zeros((len(angles),) * 2), max(_TILE // len(angles), 1)
    flat = np.zeros((len(angles), smooth.shape[1]))
    for k in range(0, len(grid), wide):
        part = slice(k, k + wide)
        peaks = powder_pattern.peak_shapes(angles, grid[part], shape)
        pull += peaks @ (weight * seen)[part]
        gram += (peaks * weight[part]) @ peaks.T
        flat += (peaks * weight[part]) @ smooth[part]
    return pull, gram - flat @ flat.T


def _wider(shape: Shape, blur: float | Array) -> Shape:
    return shape._replace(w=shape.w + blur**2)


# What a descent minimizes


def crystal_at(made: MisfitProblem, point: PyTree) -> Crystal:
    """The crystal of a point {"frac": (n, 3)}, with "cell" (6,) where the cell moves too."""
    lattice = made.lattice
    if "cell" in point:
        lattice = lattices.decode(point["cell"] * CELL, jnp.ones((), lattice.dtype))
    return Crystal(made.occupancy, point["frac"], lattice)


def misfit(made: MisfitProblem, stage: Stage, point: PyTree, two_theta_max: float, repulsion: float) -> Array:
    """Rwp² of one stage, and what close atoms cost; infinite for a cell that needs more reflections than listed."""
    crystal = crystal_at(made, point)
    found = reflections(crystal, made.table, made.given, two_theta_max_degree=two_theta_max)
    if stage.gram.size:
        pull, own = stage.pull @ found.intensity, found.intensity @ stage.gram @ found.intensity
    else:
        calculated = profile(found, stage.grid, _wider(made.shape, stage.blur))
        calculated = background.without(calculated, stage.weight, stage.basis)
        pull, own = (stage.weight * stage.seen * calculated).sum(), (stage.weight * calculated**2).sum()
    value = 1 - jnp.square(pull) / jnp.where(own > 0, own, 1)
    return jnp.where(found.valid, value + repulsion * overlap(crystal, made.closest), jnp.inf)


def overlap(crystal: Crystal, closest: Array) -> Array:
    """Σ over pairs of (1 - d / closest)² where d is less, by the nearest of 27 images (exact in a reduced cell)."""
    i, j = np.triu_indices(len(crystal.frac), 1)
    delta = torus.log(crystal.frac[j] - crystal.frac[i])
    vectors = (delta[:, None] + torus.AROUND.astype(delta.dtype)[None]) @ crystal.lattice
    distance = jnp.sqrt(jnp.square(vectors).sum(-1).min(-1) + 1e-6)
    atom = site_mask(crystal.occupancy)
    return (atom[i] * atom[j] * jnp.square(jnp.maximum(1 - distance / closest, 0))).sum()
