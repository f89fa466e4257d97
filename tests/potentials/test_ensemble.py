"""Ensembles of potentials against NumPy's mean and deviation of the members, each computed by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.data import datasets
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Entry
from crysjax.potentials.ensemble import apart, ensemble, member, stack
from crysjax.potentials.label import label
from crysjax.potentials.mlip import mlip
from crysjax.potentials.relax import Relax, relax, start

MEMBERS = 3
SETTINGS = dict(network="morse", numbers=(8, 14), cutoff_angstrom=4.4,
                pairs=[[8, 8, 0.2, 1.3, 2.6], [8, 14, 1.0, 1.6, 1.7], [14, 14, 0.3, 1.1, 2.4]])  # fmt: skip


@pytest.fixture(scope="module")
def committee(toys):
    """A committee, its parameters in float64, a member's compiled answers, the ensemble's, and its spread."""
    one = mlip(**SETTINGS)
    many, rng = ensemble(one, members=MEMBERS, spread_factors=(1.5, 1.0, 2.0)), np.random.default_rng(0)
    first = {k: np.asarray(v, np.float64) for k, v in one.init(jax.random.key(0)).items()}
    different = [{k: v * rng.uniform(0.9, 1.1, v.shape) for k, v in first.items()} for _ in range(MEMBERS)]
    said = jax.jit(one.energy_forces_stress, compiler_options=toys.fast)
    both = jax.jit(lambda *a: (many.energy_forces_stress(*a), many.spread(*a)), compiler_options=toys.fast)
    return many, different, said, both


@pytest.fixture(scope="module")
def packs(toys):
    """Crystals of oxygen and silicon with room for another, the same with a broken one there, and an empty slot."""
    sound = [toys.draw_crystal(n, 5) for n in (3, 4)]
    for c in sound:
        c.occupancy[:] = 0
        c.occupancy[np.arange(len(c.frac)), [7, 13, 7, 7][: len(c.frac)]] = 1
    bad = sound[0]._replace(frac=sound[0].frac * np.nan)
    empty = sound[0]._replace(occupancy=np.zeros_like(sound[0].occupancy))
    made = [toys.make_pack([sound[0], other, sound[1]], dtype=float) for other in (empty, bad)]
    return [(pack, toys.make_graph(pack, 4.4)) for pack in made]


def test_it_is_the_mean_and_the_deviation_of_its_members(committee, packs):
    _, different, said, both = committee
    with jax.enable_x64(True):
        alone = [said(p, *packs[0]) for p in different]
        (energy, forces, stress), spread = both(stack(different), *packs[0])
    apart = [np.stack([np.asarray(x[k]) for x in alone]) for k in range(3)]
    for found, members in zip((energy, forces, stress), apart):
        assert np.abs(members).max() > 1e-2
        np.testing.assert_allclose(found, members.mean(0), rtol=1e-10, atol=1e-12)
    counts = np.array([3, 1, 4, 1])  # empty slots: nothing to divide
    an_atom = apart[0] / counts
    np.testing.assert_allclose(spread.energy.value, an_atom.mean(0), rtol=1e-10)
    np.testing.assert_allclose(spread.energy.std, 1.5 * an_atom.std(0, ddof=1), rtol=1e-7)
    np.testing.assert_array_equal(spread.energy.valid, [True, False, True, False])
    np.testing.assert_allclose(spread.forces, apart[1].var(0, ddof=1).sum(-1) ** 0.5, rtol=1e-7)
    np.testing.assert_allclose(spread.stress, 2 * apart[2].var(0, ddof=1).sum((1, 2)) ** 0.5, rtol=1e-7)
    assert np.asarray(spread.forces)[:3].min() > 1e-3


def test_members_that_agree_have_no_spread(committee, packs):
    """Up to the rounding of a mean of three."""
    _, different, said, both = committee
    with jax.enable_x64(True):
        alone = said(different[0], *packs[0])
        mean, spread = both(stack([different[0]] * MEMBERS), *packs[0])
    for a, b in zip(mean, alone):
        np.testing.assert_allclose(a, b, rtol=1e-14, atol=1e-14)
    scale = float(np.abs(alone[0]).max())
    for std in (spread.energy.std, spread.forces, spread.stress):
        np.testing.assert_allclose(std, 0, atol=1e-13 * scale)


def test_a_broken_crystal_is_not_valid_and_changes_no_bit_of_the_others(committee, packs):
    _, different, _, both = committee
    with jax.enable_x64(True):
        reference, found = (jax.tree.map(np.asarray, both(stack(different), *where)) for where in packs)
    (energy, forces, stress), spread = found
    assert np.isnan(energy[1]) and not forces[3:6].any() and not stress[1].any()
    assert not spread.energy.valid[1]
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(spread))
    keep = [0, 2, 3]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(reference)):
        rows = (
            keep if len(a) == 4 else slice(None)
        )  # one row per crystal; the sites of a broken one have zeros either way
        assert np.array_equal(a[rows], b[rows])


def test_slopes_are_finite_where_members_agree(committee, packs):
    """The slope of the spread by the parameters, which has a corner there."""
    many, different, _, _ = committee
    pack, graph = packs[0]

    def total(params):
        spread = many.spread(params, pack, graph)
        return spread.energy.std.sum() + spread.forces.sum() + spread.stress.sum()

    with jax.enable_x64(True):
        slope = jax.jit(jax.grad(total))(stack([different[0]] * MEMBERS))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


def test_it_relaxes_as_the_potential_that_it_is(toys):
    """Two potentials of argon that differ by their depth have the minimum of either, at the mean depth."""
    one, crystal = toys.argon, toys.draw_argon(2, 0)
    many = ensemble(one, members=2, together=2)
    params = stack([{"epsilon_ev": jnp.float32(e), "sigma_angstrom": jnp.float32(3.4)} for e in (0.010, 0.014)])
    settings = Relax(method="fire", fmax_ev_angstrom=1e-3)
    state = start(toys.make_pack([crystal], Capacity(2, 1, 1)), settings)
    size = dict(cutoff_angstrom=7.0, max_edges=256, max_images=3, settings=settings, max_steps=200)
    run = jax.jit(lambda p, s: relax(many.energy_forces_stress, p, s, **size), compiler_options=toys.fast)
    found = run(params, state)
    assert found.converged[0] and found.valid[0]
    graph = toys.make_graph(jax.tree.map(np.asarray, found.pack), 7.0, 256)
    evaluate = jax.jit(one.energy_forces_stress, compiler_options=toys.fast)
    shallow, deep = (evaluate(member(params, k), found.pack, graph) for k in range(2))
    np.testing.assert_allclose(deep[0][0] / shallow[0][0], 1.4, rtol=1e-5)
    np.testing.assert_allclose(found.energy[0], (shallow[0][0] + deep[0][0]) / 2, rtol=1e-5)
    assert np.linalg.norm(deep[1], axis=1).max() < 1e-3 * 14 / 12 * 1.01


def test_the_spread_of_a_data_set_is_that_of_its_members(toys):
    """Two depths of argon: energies are proportional to them, so their deviation is known. Krypton has no answer."""
    many = ensemble(toys.argon, members=2)
    params = stack([{"epsilon_ev": jnp.float32(e), "sigma_angstrom": jnp.float32(3.4)} for e in (0.010, 0.014)])
    cube = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    rows = [Entry("a", np.full(4, z), cube, 5.3 * np.eye(3), {}) for z in (18, 36)]
    given = datasets.from_entries(rows)
    energy = label(given, toys.argon, member(params, 0)).properties["energy_ev_per_atom"]
    found = apart(given, many, params)
    np.testing.assert_allclose(found[0], abs(energy[0]) * 0.4 / np.sqrt(2), rtol=1e-5)
    assert np.isnan(found[1])


def test_settings_that_make_no_ensemble_are_named(committee, packs):
    many, different, _, _ = committee
    one = mlip(**SETTINGS)
    with pytest.raises(ValueError, match="members is 1; a spread needs at least 2"):
        ensemble(one, members=1)
    with pytest.raises(ValueError, match=r"spread_factors is \[1.0, 0.0, 1.0\]; expected three positive numbers"):
        ensemble(one, spread_factors=(1.0, 0.0, 1.0))
    with pytest.raises(ValueError, match="parameters are not stacked; expected 3 of each"):
        many.energy(stack(different[:2]), *packs[0])
