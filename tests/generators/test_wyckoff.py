"""The Wyckoff transformer: exact rules and probabilities, and symmetry that spglib confirms."""

from functools import cache, lru_cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import spglib

from crysjax.base import Condition, Orbits, one_hot
from crysjax.data import batching
from crysjax.generators.wyckoff import von_mises, wyckoff_rules
from crysjax.generators.wyckoff.family import orbit_model, wyckoff
from crysjax.generators.wyckoff.wyckoff_network import orbit_network
from crysjax.generators.wyckoff.wyckoff_orbits import CHOICES, Given, OrbitNoise, law
from crysjax.generators.wyckoff.wyckoff_sites import lattice_parameters
from crysjax.geometry import symmetry
from crysjax.sampling.draws import blank

SMALL = {"width": 16, "layers": 1, "heads": 2, "components": 2, "max_sites": 8, "max_kinds": 3, "max_states": 128}
CRYSTALS = 62  # and one more of sites that may be O or S, and one with too many sites
GENERATOR, MODEL = wyckoff(**SMALL), orbit_model(**SMALL)
# compiling is most of the time here
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False})
sample = jit(GENERATOR.sample)


def rough(params, seed: int = 9):
    """Parameters far enough from their start that no probability is near uniform."""
    rng = np.random.default_rng(seed)  # NumPy: every leaf has its own shape, and would be compiled for
    return jax.tree.map(lambda a: jnp.asarray(a + 0.3 * rng.normal(size=a.shape), a.dtype), jax.device_get(params))


@lru_cache
def asked(seed: int = 0):
    """Templates of 1 to 8 sites, half with all species known, half of them with a requested group; and the two."""
    rng = np.random.default_rng(seed)
    sizes = np.append(rng.integers(1, 9, CRYSTALS), [4, 9])
    known = np.append(rng.random(CRYSTALS) < 0.5, [False, False])
    numbers = np.concatenate([rng.choice([8, 22, 56], n) if k else np.zeros(n, int) for n, k in zip(sizes, known)])
    shape = batching.Capacity(8 * CRYSTALS + 18, 28 * CRYSTALS + 42, CRYSTALS + 3)
    pack = jax.tree.map(jnp.asarray, batching.pack_rows(blank(sizes, numbers), np.arange(CRYSTALS + 2), shape))
    either = (sizes[:CRYSTALS].sum() <= np.arange(shape.sites)) & (np.arange(shape.sites) < sizes[:-1].sum())
    two = 0.5 * (one_hot(jnp.asarray(8)) + one_hot(jnp.asarray(16)))
    pack = pack._replace(occupancy=jnp.where(jnp.asarray(either)[:, None], two[None], pack.occupancy))
    groups = np.where(rng.random(CRYSTALS + 3) < 0.5, rng.integers(1, 231, CRYSTALS + 3), 0)
    condition = Condition(jnp.zeros((CRYSTALS + 3, 0)), jnp.asarray(groups, jnp.int32))
    return sizes[:CRYSTALS], numbers, pack, condition


@lru_cache
def parameters():
    _, _, pack, condition = asked()
    return rough(jit(GENERATOR.init)(jax.random.key(0), pack, condition))


def brute(group: int, count: tuple[int, ...]) -> bool:
    """Whether orbits of the group can have the composition, by trying."""
    t = symmetry.table()
    positions = [(int(m), bool(f.any())) for m, f in zip(t.sites[group], t.free[group]) if m]

    @cache
    def can(k: int, left: tuple[int, ...]) -> bool:
        if not any(left):
            return True
        if k == len(positions):
            return False
        sites, free = positions[k]
        for kind, n in enumerate(left):
            if n >= sites and can(k if free else k + 1, (*left[:kind], n - sites, *left[kind + 1 :])):
                return True
        return can(k + 1, left)

    return can(0, count)


def test_which_groups_can_have_a_composition_is_what_trying_finds():
    """By both programs: the one over classes of groups, and the one that masks the letters."""
    rng = np.random.default_rng(1)
    counts = np.array([[1, 0, 0], [2, 0, 0], [3, 1, 1], [4, 2, 2], [0, 0, 0], *rng.integers(0, 5, (5, 3))], np.int32)
    groups, some = np.arange(1, 231), np.arange(1, 231, 5)

    def both(count):
        of = wyckoff_rules.states(count, 128)
        here = (of.count * of.stride).sum()
        letters = jax.lax.map(lambda g: wyckoff_rules.reachable(g, of, 8)[0, 0, here], jnp.asarray(some, jnp.int32))
        return wyckoff_rules.feasible_groups(of, 8)[1:], letters

    by_class, by_letter = jit(lambda c: jax.lax.map(both, c))(jnp.asarray(counts))
    expected = np.array([[brute(int(g), tuple(map(int, c))) for g in groups] for c in counts])
    np.testing.assert_array_equal(by_class, expected)
    # the first letter is `a`: entry [0, 0] counts its own orbits only where it may be used again and again
    free_first = symmetry.table().free[some, 0].any(-1)
    assert free_first.sum() > 5
    np.testing.assert_array_equal(np.asarray(by_letter)[:, free_first], expected[:, some - 1][:, free_first])


def test_samples_keep_size_composition_and_group():
    sizes, numbers, pack, condition = asked()
    ends, total = np.cumsum(sizes), sizes.sum()
    possible = [
        k for k, (g, a, b) in enumerate(zip(np.asarray(condition.space_group), ends - sizes, ends))
        if g > 0 and brute(int(g), tuple(np.unique(numbers[a:b], return_counts=True)[1].tolist()))
    ]  # fmt: skip
    assert 5 < len(possible) < CRYSTALS
    judged = 0
    for seed in range(3):
        out = jax.tree.map(np.asarray, sample(parameters(), jax.random.key(seed), pack, condition))
        assert np.isfinite(out.frac[:total]).all() and np.isfinite(out.lattice[:CRYSTALS]).all()
        found = out.occupancy[:total].argmax(-1) + 1
        np.testing.assert_array_equal(out.occupancy.sum(-1), np.asarray(pack.occupancy.sum(-1)) > 0)
        np.testing.assert_array_equal(np.where(numbers[:total] > 0, found, 0), numbers[:total])
        for k in possible:
            at = slice(ends[k] - sizes[k], ends[k])
            operations = spglib.get_symmetry((out.lattice[k], out.frac[at], found[at]), 1e-3)
            if operations is None:  # sites on top of each other, or a cell that spglib cannot reduce
                continue
            # a group that holds the requested one has a multiple of its order (Lagrange)
            judged += 1
            assert len(operations["rotations"]) % symmetry.table().operations[int(condition.space_group[k])] == 0
    assert judged > 2.5 * len(possible)


def test_the_same_key_gives_the_same_bits():
    _, _, pack, condition = asked()
    first, again = (sample(parameters(), jax.random.key(3), pack, condition) for _ in range(2))
    for a, b in zip(first, again):
        np.testing.assert_array_equal(a, b)  # NaN, where a crystal is too large, equals NaN


def test_restricted_sites_take_their_elements_and_too_large_crystals_are_nan():
    sizes, _, pack, condition = asked()
    out, first = sample(parameters(), jax.random.key(1), pack, condition), sizes.sum()
    assert set(np.asarray(out.occupancy[first : first + 4].argmax(-1)) + 1) <= {8, 16}
    assert np.isnan(out.frac[first + 4 : first + 13]).all() and np.isnan(out.lattice[CRYSTALS + 1]).all()
    assert np.isfinite(out.lattice[CRYSTALS]).all()


def tiny(count: tuple[int, ...], group: int, elements: list[int]):
    """The law of a crystal with these kinds, of any of the elements, at a temperature; parameters; what is given."""
    network = orbit_network(width=8, layers=1, heads=2, components=2, context=102)

    @jit
    def make():
        states = wyckoff_rules.states(jnp.asarray(count, jnp.int32), 16)
        rows = jnp.tile((one_hot(jnp.asarray(elements)).sum(0) > 0)[None], (len(count), 1))
        groups = wyckoff_rules.feasible_groups(states, 3)
        given = Given(jnp.linspace(-1, 1, 102), states, rows, jnp.asarray(group, jnp.int32), groups)
        return rough(network.init(jax.random.key(2)), 5), given

    return law(network, orbits=3, temperature=1.25), *make()


def orbits_of(group: int, letters, numbers, u, lattice) -> Orbits:
    """One crystal of a group with up to three orbits."""
    n = len(letters)
    pad = lambda x: jnp.concatenate([jnp.asarray(x, jnp.int32), jnp.zeros(3 - n, jnp.int32)])  # noqa: E731
    coordinates = jnp.concatenate([u, jnp.zeros((3 - n, 3))])
    return Orbits(jnp.asarray(group, jnp.int32), pad(letters), pad(numbers), coordinates, lattice)


def test_probabilities_of_a_mirror_plane_integrate_to_one():
    """One site in Pm lies on one of two mirror planes (x, z free): letters, two elements and the two coordinates."""
    one, params, given = tiny((1,), 6, [8, 22])
    grid = (jnp.arange(192.0) + 0.5) / 192
    x, z = (g.reshape(-1) for g in jnp.meshgrid(grid, grid))
    lattice = jnp.asarray([3.0, 4.0, 5.0, 90.0, 100.0, 90.0])

    @jit
    def mass(letter, number):
        def at(x, z):
            of = orbits_of(6, letter[None], number[None], jnp.stack([x, 0.0 * x, z])[None], lattice)
            parts = one.score(params, of, one.kinds(of, given), given)
            return parts.letter + parts.species + parts.coordinates

        return jnp.exp(jax.vmap(at)(x, z)).mean()

    total = [float(mass(jnp.asarray(l), jnp.asarray(n))) for l in (0, 1) for n in (8, 22)]
    assert min(total) > 1e-3
    assert sum(total) == pytest.approx(1, abs=1e-3)
    assert float(mass(jnp.asarray(0), jnp.asarray(9))) == 0 and float(mass(jnp.asarray(2), jnp.asarray(8))) == 0


def test_probabilities_of_groups_letters_elements_and_a_cubic_lattice_sum_to_one():
    """Two sites in Pm-3m: both fixed positions, or none; the lattice by quadrature over its only coordinate."""
    one, params, given = tiny((2,), 221, [8, 22])
    z = jnp.linspace(-30, 30, 1201)
    total = given.states.count.sum()
    lattices = jit(jax.vmap(lambda z: lattice_parameters(221, jnp.zeros(6).at[0].set(z), total)))(z)

    @jit
    def parts(numbers, lattice):
        of = orbits_of(221, [0, 1], numbers, jnp.zeros((2, 3)), lattice)
        return one.score(params, of, one.kinds(of, given), given)

    total = 0.0
    for numbers in [(a, b) for a in (8, 22) for b in (8, 22)]:
        found = jax.vmap(parts, (None, 0))(jnp.asarray(numbers), lattices)
        total += float(jnp.exp(sum(found)).sum() * (z[1] - z[0]))
    assert total == pytest.approx(1, abs=1e-3)
    drawn = given._replace(group=jnp.zeros((), jnp.int32))
    lattice = lattices[600]

    def of_group(group):
        of = orbits_of(0, [0], [8], jnp.zeros((1, 3)), lattice)._replace(group=group)
        return one.score(params, of, jnp.zeros(3, jnp.int32), drawn).group

    mass = np.exp(np.asarray(jit(jax.vmap(of_group))(jnp.arange(231, dtype=jnp.int32))))
    assert mass.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_array_equal(mass[1:] > 0, [brute(g, (2,)) for g in range(1, 231)])


def test_the_mean_of_the_score_is_zero():
    """E_p[d log p] = 0 along random directions, within five standard errors of 400 draws; the group is drawn too."""
    one, params, given = tiny((2, 1), 0, [8, 22, 56])
    rng = np.random.default_rng(3)
    direction = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape), a.dtype), params)

    def slope(key):
        first, second = jax.random.split(key)
        keys = jax.random.split(first, 4)
        shapes = (), (4, CHOICES), (), (6,)
        orbits, kind = one.draw(
            params, second, OrbitNoise(*(jax.random.normal(k, s) for k, s in zip(keys, shapes))), given
        )
        orbits = jax.lax.stop_gradient(orbits)
        along = lambda p: sum(one.score(p, orbits, kind, given))  # noqa: E731
        return jax.jvp(along, (params,), (direction,))

    value, slopes = jit(jax.vmap(slope))(jax.random.split(jax.random.key(4), 400))
    assert np.isfinite(np.asarray(value)).all()
    slopes = np.asarray(slopes)
    assert slopes.std() > 0.1
    assert abs(slopes.mean()) < 5 * slopes.std() / np.sqrt(len(slopes))


draw_many = jit(jax.vmap(von_mises.draw, (0, None)))


@pytest.mark.parametrize("kappa", [0.05, 3.0, 500.0, 4000.0])
def test_von_mises_draws_have_their_law(kappa):
    keys = jax.random.split(jax.random.key(int(kappa)), 2000)
    drawn = np.asarray(draw_many(keys, jnp.asarray(kappa)), float)
    assert scipy.stats.kstest(2 * np.pi * drawn, scipy.stats.vonmises(kappa).cdf).pvalue > 1e-4
    x = jnp.linspace(-0.5, 0.5, 41)
    density = von_mises.log_prob(x, jnp.zeros((41, 1)), jnp.zeros((41, 1)), jnp.full((41, 1), kappa))
    expected = scipy.stats.vonmises(kappa).logpdf(2 * np.pi * np.asarray(x, float)) + np.log(2 * np.pi)
    np.testing.assert_allclose(density, expected, rtol=1e-4, atol=1e-3)


def test_double_precision_is_kept():
    with jax.enable_x64(True):
        _, _, pack, condition = asked()
        wide = jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a, (pack, condition))
        out = jax.eval_shape(GENERATOR.sample, parameters(), jax.random.key(0), *wide)
        assert out.frac.dtype == out.lattice.dtype == out.occupancy.dtype == jnp.float64


def test_the_loss_bounds_the_exact_score_and_its_gradient_is_its_derivative():
    """CsCl, wurtzite and a mirror plane; masks that cost nothing to know can only make a choice less probable."""
    numbers = [55, 17, 30, 30, 16, 16, 8]
    pack = batching.pack_rows(blank([2, 4, 1], np.array(numbers)), np.arange(3), batching.Capacity(8, 8, 4))
    pack = jax.tree.map(jnp.asarray, pack)
    cube, hexagon = [4.1, 4.1, 4.1, 90, 90, 90], [3.8, 3.8, 6.2, 90, 90, 120]
    orbits = [
        orbits_of(221, [0, 1], [55, 17], jnp.zeros((2, 3)), jnp.asarray(cube)),
        orbits_of(186, [1, 1], [16, 30], jnp.asarray([[0, 0, 0.4], [0, 0, 0]]), jnp.asarray(hexagon, jnp.float32)),
        orbits_of(6, [0], [8], jnp.asarray([[0.3, 0, 0.9]]), jnp.asarray([3, 4, 5, 90, 100, 90.0])),
    ]
    nothing = orbits_of(0, [0], [0], jnp.zeros((1, 3)), jnp.asarray([1, 1, 1, 90, 90, 90.0]))  # an unused slot
    view = jax.tree.map(lambda *leaves: jnp.stack(leaves), *orbits, nothing)
    condition = Condition(jnp.zeros((4, 0)), jnp.zeros(4, jnp.int32), orbits=view)
    model = wyckoff(**SMALL | {"max_sites": 4}, known_fraction=1.0)
    params, key = rough(jit(model.init)(jax.random.key(0), pack, condition), 3), jax.random.key(1)
    (value, parts), gradient = jit(jax.value_and_grad(model.loss, has_aux=True))(params, key, pack, condition)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert float(value) == pytest.approx(sum(map(float, parts.values())), rel=1e-5)
    exact = np.asarray(jit(model.log_prob)(params, pack, condition))[:3]
    assert np.isfinite(exact).all() and float(value) >= -exact.mean()
    params, gradient, step = jax.device_get(params), jax.device_get(gradient), 1e-3
    length = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(gradient)))
    moved = [jax.tree.map(lambda a, d, s=s: a + s * step / length * d, params, gradient) for s in (-1, 1)]
    low, high = (float(jit(model.loss)(p, key, pack, condition)[0]) for p in moved)
    assert (high - low) / (2 * step) == pytest.approx(float(length), rel=0.02)


def test_log_prob_without_orbits_says_so():
    _, _, pack, condition = asked()
    with pytest.raises(ValueError, match=r"condition\.orbits: missing"):
        GENERATOR.log_prob(parameters(), pack, condition)
