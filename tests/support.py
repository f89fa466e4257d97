"""What several test files build on: crystals, one of them described in many equivalent ways, and derivatives."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from crysjax.base import NUM_SPECIES, Crystal
from crysjax.data.datasets import Entry


def beside(file: str, name: str) -> ModuleType:
    """Another test file of the folder of `file`, as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(file).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def random_entries(count: int, seed: int = 0) -> list[Entry]:
    """Crystals of 1 to 8 atoms of any elements in skewed cells, with a label that counts them."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        n = int(rng.integers(1, 9))
        numbers = np.sort(rng.integers(1, 101, n))
        lattice = np.eye(3) * 5 + rng.normal(size=(3, 3))
        rows.append(Entry(f"m{i}", numbers, rng.random((n, 3)), lattice, {"band_gap_ev": float(i)}))
    return rows


def slope_is_a_finite_difference(apply: Callable[[Crystal], Any], one: Crystal) -> None:
    """The derivative of all outputs along a random direction of positions and cell, by a central difference."""
    rng = np.random.default_rng(0)
    d_frac, d_lattice = (jnp.asarray(rng.normal(size=x.shape)) for x in (one.frac, one.lattice))

    def score(t):
        moved = one._replace(frac=one.frac + t * d_frac, lattice=one.lattice + t * d_lattice)
        return sum(jnp.sum(jnp.sin(leaf)) for leaf in jax.tree.leaves(apply(moved)))

    value = jax.jit(jax.value_and_grad(score), compiler_options={"xla_backend_optimization_level": 0})
    h = 1e-5
    numeric = (value(h)[0] - value(-h)[0]) / (2 * h)
    np.testing.assert_allclose(value(0.0)[1], numeric, rtol=1e-5)


def crystal(numbers: np.ndarray, frac: np.ndarray, lattice: np.ndarray) -> Crystal:
    """A crystal of known species as float32 host arrays."""
    occupancy = np.eye(NUM_SPECIES, dtype=np.float32)[np.asarray(numbers, int) - 1]
    return Crystal(occupancy, np.asarray(frac, np.float32), np.asarray(lattice, np.float32))


def basis(matrix: list) -> Callable[[Crystal], Crystal]:
    """The lattice vectors `matrix @ lattice`, of the same lattice: whole numbers, determinant 1 or -1."""
    u = np.asarray(matrix, np.float64)
    return lambda c: c._replace(
        frac=(c.frac.astype(float) @ np.linalg.inv(u)).astype(np.float32), lattice=(u @ c.lattice).astype(np.float32)
    )


def supercell(matrix: list) -> Callable[[Crystal], Crystal]:
    """The supercell with the lattice vectors `matrix @ lattice`, an upper triangle of whole numbers."""
    u = np.asarray(matrix, np.float64)
    steps = np.stack(np.meshgrid(*(np.arange(int(k)) for k in np.diag(u)), indexing="ij"), -1).reshape(-1, 3)

    def build(c: Crystal) -> Crystal:
        frac = (c.frac.astype(float)[:, None] + steps[None]).reshape(-1, 3) @ np.linalg.inv(u)
        lattice = (u @ c.lattice).astype(np.float32)
        return Crystal(np.repeat(c.occupancy, len(steps), 0), (frac - np.floor(frac)).astype(np.float32), lattice)

    return build


def _rotated(c: Crystal) -> Crystal:
    return c._replace(lattice=c.lattice @ Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix().astype(np.float32))


def _moved_by_whole_cells(c: Crystal) -> Crystal:
    steps = np.random.default_rng(len(c.frac)).integers(-2, 3, c.frac.shape)
    return c._replace(frac=(c.frac + steps).astype(np.float32))


def _reordered(c: Crystal) -> Crystal:
    order = np.random.default_rng(len(c.frac)).permutation(len(c.frac))
    return c._replace(occupancy=c.occupancy[order], frac=c.frac[order])


EQUIVALENT: dict[str, Callable[[Crystal], Crystal]] = {
    "rotation": _rotated,
    "reflection": lambda c: c._replace(lattice=c.lattice * np.float32([-1, 1, 1])),
    "translation": lambda c: c._replace(frac=c.frac + np.float32([0.21, 0.63, -0.4])),
    "whole cells": _moved_by_whole_cells,
    "order of sites": _reordered,
    "axes renamed in a cycle": basis([[0, 1, 0], [0, 0, 1], [1, 0, 0]]),
    "two axes exchanged": basis([[0, 1, 0], [1, 0, 0], [0, 0, 1]]),
    "one axis turned round": basis([[1, 0, 0], [0, -1, 0], [0, 0, 1]]),
    "all axes turned round": basis([[-1, 0, 0], [0, -1, 0], [0, 0, -1]]),
    "sheared": basis([[1, 1, 0], [0, 1, 0], [-1, 0, 1]]),
    "sheared far": basis([[1, 7, 0], [0, 1, -5], [0, 0, 1]]),
    "doubled along one axis": supercell([[2, 0, 0], [0, 1, 0], [0, 0, 1]]),
    "a multiple of four": supercell([[2, 0, 0], [0, 2, 0], [0, 0, 1]]),
    "a sheared supercell": supercell([[3, 1, 0], [0, 1, 2], [0, 0, 1]]),
}
"""The 14 kinds of description that a function of a crystal must not see, each a change of one that is described."""
