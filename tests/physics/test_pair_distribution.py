"""Shells of the face-centered cubic crystal, density far away, derivatives by finite differences, what is not valid."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Crystal
from crysjax.physics.pair_distribution import capacity, coordination, pair_distribution

EDGE = 4.0
FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
SHELLS = {np.sqrt(0.5): 12, 1.0: 6, np.sqrt(1.5): 24, np.sqrt(2.0): 12}  # distance / edge: neighbors
GRID = np.linspace(0.5, 6.2, 400)
quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def crystal(frac, lattice, species=None, dtype=jnp.float32) -> Crystal:
    """One-hot rows over three species."""
    rows = np.eye(3)[np.zeros(len(frac), int) if species is None else species]
    return Crystal(*(jnp.asarray(a, dtype) for a in (rows, frac, lattice)))


def computed(given: Crystal, grid=GRID, **settings):
    edges, images = capacity(np.asarray(given.frac), np.asarray(given.lattice), r_max_angstrom=float(grid[-1]))
    one = partial(pair_distribution, r_angstrom=grid, **{"max_edges": edges, "max_images": images} | settings)
    return quick(lambda c: one(c))(given)


@pytest.mark.parametrize("cell", ["conventional", "primitive"])
def test_shells_of_a_face_centered_cubic_crystal(cell):
    """Distances and numbers of the first four shells; a shell's integral lacks 1e-5 of its tails, and rounding."""
    if cell == "conventional":
        given = crystal(FCC, EDGE * np.eye(3))
    else:
        given = crystal(np.array([[0.3, 0.1, 0.7]]), EDGE / 2 * (1 - np.eye(3)))
    found = computed(given, kind="R", sigma_angstrom=0.06)
    assert bool(found.valid)
    for ratio, neighbors in SHELLS.items():
        center = ratio * EDGE
        number = coordination(found.value, jnp.asarray(GRID, jnp.float32), center - 0.4, center + 0.4)
        assert float(number) == pytest.approx(neighbors, rel=1e-3)
        near = np.abs(GRID - center) < 0.4
        assert np.average(GRID[near], weights=found.value[near]) == pytest.approx(center, abs=1e-3)


def test_kinds_are_one_another():
    """g = R / (4π r² ρ0) and G = 4π r ρ0 (g - 1)."""
    given, density = crystal(FCC, EDGE * np.eye(3)), 4 / EDGE**3
    edges, images = capacity(FCC, EDGE * np.eye(3), r_max_angstrom=6.2)
    one = partial(pair_distribution, r_angstrom=GRID, max_edges=edges, max_images=images)
    found = quick(lambda c: [one(c, kind=kind).value for kind in ("R", "g", "G")])(given)
    radial, ratio, reduced = (np.asarray(value, float) for value in found)
    np.testing.assert_allclose(ratio, radial / (4 * np.pi * GRID**2 * density), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(reduced, 4 * np.pi * GRID * density * (ratio - 1), rtol=1e-4, atol=1e-4)


def test_far_away_there_is_only_the_density():
    """Shells smeared over each other leave 4π ρ0 r² convolved with a Gaussian: g = 1 + σ² / r²."""
    given, far, sigma = crystal(FCC, EDGE * np.eye(3)), np.linspace(6.0, 9.0, 40), 1.2
    wide = computed(given, grid=far, kind="g", sigma_angstrom=sigma, **_room(given, 9.0, sigma))
    np.testing.assert_allclose(wide.value, 1 + sigma**2 / far**2, atol=3e-3)  # exp(-(2πσ/d)²/2) of plane spacing d


def _room(given: Crystal, r_max: float, sigma: float) -> dict:
    edges, images = capacity(given.frac, given.lattice, r_max_angstrom=r_max, sigma_angstrom=sigma)
    return {"max_edges": edges, "max_images": images}


def test_weights_and_occupancies():
    """Rock salt: first shell is unlike, second like; weighed, and half a site counts half."""
    salt = np.concatenate([FCC, FCC + np.array([0.5, 0, 0])])
    given = crystal(salt, EDGE * np.eye(3), [0] * 4 + [1] * 4)
    pick = jnp.array([2.0, 1.0, 0.0])
    found = computed(given, kind="R", weights=pick, sigma_angstrom=0.06)
    grid = jnp.asarray(GRID, jnp.float32)
    shells = [float(coordination(found.value, grid, d - 0.3, d + 0.3)) for d in (EDGE / 2, EDGE / np.sqrt(2))]
    np.testing.assert_allclose(shells, [6 * 2 / 1.5**2, 12 * (4 + 1) / 2 / 1.5**2], rtol=1e-3)
    halved = given._replace(occupancy=given.occupancy.at[4:].multiply(0.5))
    found = computed(halved, kind="R", sigma_angstrom=0.06)
    first = float(coordination(found.value, grid, EDGE / 2 - 0.3, EDGE / 2 + 0.3))
    # 6 atoms of 4 sites see 6 halves, 2 of 4 half atoms see 6 whole ones; <b> is 1 only over whole atoms
    assert first == pytest.approx((4 * 6 * 0.5 + 4 * 0.5 * 6) / 6, rel=1e-3)


def test_derivatives_are_those_of_finite_differences():
    rng = np.random.default_rng(0)
    frac, lattice = rng.random((3, 3)), 3 * np.eye(3) + rng.normal(0, 0.2, (3, 3))
    grid, probe = np.linspace(1.0, 4.0, 30), rng.normal(size=30)
    edges, images = capacity(frac, lattice, r_max_angstrom=4.0, sigma_angstrom=0.2, spare=1.3)
    with jax.enable_x64(True):
        given = crystal(frac, lattice, [0, 1, 2], jnp.float64)
        settings = {"max_edges": edges, "max_images": images, "sigma_angstrom": 0.2}
        weights = jnp.array([1.0, 2.0, 3.0])

        def total(c):
            found = pair_distribution(c, grid, weights=weights, **settings)
            return found.value @ jnp.asarray(probe), found.valid

        run, slope = quick(total), quick(jax.grad(lambda c: total(c)[0]))
        assert run(given)[1]
        for seed in range(3):  # a central difference of step h errs by h² (here 1e-10 of it), and rounding by 1e-16 / h
            way = Crystal(*(jnp.asarray(np.random.default_rng(seed).normal(size=leaf.shape)) for leaf in given))
            ends = (run(jax.tree.map(lambda a, b, h=h: a + h * b, given, way))[0] for h in (1e-5, -1e-5))
            numeric = float(next(ends) - next(ends)) / 2e-5
            exact = sum(float((a * b).sum()) for a, b in zip(slope(given), way))
            assert exact == pytest.approx(numeric, rel=1e-6, abs=1e-6)


def test_what_does_not_fit_is_not_valid():
    given = crystal(FCC, EDGE * np.eye(3))
    edges, images = capacity(FCC, EDGE * np.eye(3), r_max_angstrom=6.2)
    few = computed(given, max_edges=edges // 4 * 2)
    near = computed(given, max_images=(1, 1, 1))
    assert bool(computed(given).valid) and not few.valid and not near.valid
    bad = [given._replace(frac=given.frac.at[0, 0].set(jnp.nan)), given._replace(lattice=jnp.zeros((3, 3)))]
    bad.append(given._replace(occupancy=jnp.zeros_like(given.occupancy)))
    together = jax.tree.map(lambda *a: jnp.stack(a), given, *bad)
    one = partial(pair_distribution, r_angstrom=GRID[::8], max_edges=edges, max_images=images)
    found, slope = quick(lambda c: (jax.vmap(one)(c), jax.grad(lambda c: jax.vmap(one)(c).value.sum())(c)))(together)
    assert found.valid.tolist() == [True, False, False, False]
    assert np.isfinite(found.value).all() and not np.asarray(found.value[1:]).any()
    assert all(np.isfinite(leaf).all() for leaf in slope)


def test_mistakes_are_told():
    given = crystal(FCC, EDGE * np.eye(3))
    for settings, message in (
        ({"kind": "h"}, "kind"), ({"sigma_angstrom": 0.0}, "sigma_angstrom"), ({"r_angstrom": GRID[::-1]}, "r_angstrom")
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            pair_distribution(given, **{"r_angstrom": GRID, "max_edges": 2, "max_images": (1, 1, 1)} | settings)
    with pytest.raises(ValueError, match="volume"):
        capacity(FCC, np.zeros((3, 3)), r_max_angstrom=3.0)
