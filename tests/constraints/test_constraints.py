"""Constraints: laws against enumeration, no violation whatever the network says, and contradictions refused."""

import itertools
from collections import Counter
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import UNKNOWN, Condition, Generator, Pack, numbers, one_hot
from crysjax.constraints import constraint as given
from crysjax.constraints.constraint import Fixed
from crysjax.constraints.constraints import Constraints, compiled, constrain, possible_sizes
from crysjax.constraints.feasible import feasible, neutral
from crysjax.constraints.projection import least_distance, separate
from crysjax.constraints.violations import violations
from crysjax.data import batching, datasets
from crysjax.generators import processes
from crysjax.generators.iterative import iterative
from crysjax.geometry.neighbors import crystal_edges
from crysjax.nets.dense import dense

jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})  # compiling is most of the time here
STATES = {3: (1,), 8: (-2, -1), 11: (1,), 12: (2,), 17: (-1,), 22: (2, 3, 4), 26: (2, 3)}
ELEMENTS = tuple(STATES)
SIZES = [4, 6, 5]
SEED = Fixed(np.array([22, 8]), np.array([[0, 0, 0], [0.5, 0.5, 0.1]], np.float32))
CELL = np.array([[4.1, 0, 0], [0, 4.1, 0], [1, 0, 5.3]], np.float32)


def blank(sizes, shape=None) -> Pack:
    """Free crystals of these sizes, and one slot that is not used."""
    sizes = np.array(sizes)
    shape = shape or batching.Capacity(int(sizes.sum()) + 2, int((sizes * (sizes - 1) // 2).sum()) + 2, len(sizes) + 1)
    owner, pairs, mask = map(jnp.asarray, batching.topology(sizes, shape))
    real = (np.arange(shape.sites) < sizes.sum())[:, None]
    occupancy = jnp.asarray(np.where(real, UNKNOWN, 0.0) * np.ones((1, 100)), jnp.float32)
    cells = jnp.tile(jnp.eye(3)[None], (shape.crystals, 1, 1))
    return Pack(occupancy, jnp.zeros((shape.sites, 3)), cells, owner, pairs, mask)


def as_dataset(packs: list[Pack]) -> datasets.Dataset:
    rows = [c for pack in packs for c in batching.unpack(pack)]
    return datasets.from_entries(
        datasets.Entry(str(i), np.asarray(numbers(c.occupancy)), c.frac, c.lattice, {}) for i, c in enumerate(rows)
    )


def none_broken(wanted: Constraints, packs: list[Pack]) -> None:
    broken = {name: int(rows.sum()) for name, rows in violations(wanted, as_dataset(packs)).items() if rows.any()}
    assert broken == {}


def toy(edge: float = 4.0) -> Generator:
    """A generator that draws a species of each free row, positions and cells at random, and knows no constraint."""

    def noise(key, template):
        keys = jax.random.split(key, 3)
        shape = template.lattice.shape
        return (
            jax.random.categorical(keys[0], jnp.log(jnp.maximum(template.occupancy, 1e-30))),
            jax.random.uniform(keys[1], template.frac.shape),
            edge * jnp.eye(3)[None] + 0.6 * jax.random.normal(keys[2], shape),
        )

    def decode(params, key, noise, template, condition):
        rows = one_hot(noise[0] + 1) * (template.occupancy.sum(-1, keepdims=True) > 0).astype(jnp.float32)
        return template._replace(occupancy=rows, frac=noise[1], lattice=noise[2])

    def sample(params, key, template, condition):
        return decode(params, key, noise(key, template), template, condition)

    return Generator(None, None, noise, decode, sample)


def test_neutral_draws_have_the_conditional_law():
    """Three sites, one state per element: the law is the product of softmaxes given neutrality, by enumeration.

    20,000 draws; each of the outcomes within 4.5 standard errors (a chance of 1e-4 for all of them together).
    """
    states = {3: (1,), 8: (-2,), 12: (2,), 17: (-1,), 22: (4,)}
    pack = blank([3])
    rules = compiled(Constraints(states=states), [3], proposals=1).species
    logits = jax.random.normal(jax.random.key(0), (len(pack.frac), 100)) * 1.5
    held = jnp.zeros_like(logits)

    def one(key):
        return numbers(rules.draw(key, logits, held, rules.start(key, pack), pack)[0])[:3]

    found = Counter(map(tuple, np.asarray(jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 20_000))).tolist()))
    columns = np.array(list(states)) - 1
    chance = np.asarray(jax.nn.softmax(logits[:3, columns], -1))
    expected = {
        z: np.prod([chance[i, list(states).index(e)] for i, e in enumerate(z)])
        for z in itertools.product(states, repeat=3)
        if sum(states[e][0] for e in z) == 0
    }
    total = sum(expected.values())
    assert set(found) <= set(expected)
    for outcome, weight in expected.items():
        p = weight / total
        assert abs(found[outcome] / 20_000 - p) < 4.5 * np.sqrt(p * (1 - p) / 20_000) + 1 / 20_000, outcome


def test_the_number_of_elements_has_the_stated_law():
    """Two sites, two elements: an ordered pair without replacement, then which site gets which (equal logits)."""
    pack = blank([2])
    rules = compiled(Constraints(allowed=(3, 8, 26), num_elements=(2, 2)), [2]).species
    p = np.array([0.5, 0.3, 0.2])
    logits = jnp.zeros((len(pack.frac), 100)).at[:, np.array([3, 8, 26]) - 1].set(jnp.log(p)[None].astype(jnp.float32))
    held = jnp.zeros_like(logits)

    def one(key):
        return numbers(rules.draw(key, logits, held, rules.start(key, pack), pack)[0])[:2]

    found = Counter(map(tuple, np.asarray(jit(jax.vmap(one))(jax.random.split(jax.random.key(1), 20_000))).tolist()))
    for (i, a), (j, b) in itertools.permutations(enumerate((3, 8, 26)), 2):
        expected = p[i] * p[j] * (1 / (1 - p[i]) + 1 / (1 - p[j])) / 2  # Plackett-Luce in both orders, either site
        assert abs(found[a, b] / 20_000 - expected) < 4.5 * np.sqrt(expected * (1 - expected) / 20_000), (a, b)
    assert sum(found.values()) == 20_000 and all(a != b for a, b in found)


@pytest.mark.parametrize("count", [(3, 3), (2, 4), None])
def test_sites_revealed_one_after_another_never_leave_the_feasible_set(count):
    """Logits anew at every step, up to odds of e^30 against what is feasible; 900 crystals."""
    wanted = Constraints(allowed=ELEMENTS, num_elements=count, states=STATES)
    rules = compiled(wanted, SIZES, proposals=2).species
    pack = blank(SIZES)

    def one(key):
        def step(carry, this):
            (held, plan), (key, last) = carry, this
            keys = jax.random.split(key, 3)
            logits = 10 * jax.random.normal(keys[0], held.shape)
            rows, plan = rules.draw(keys[1], logits, held, plan, pack)
            shown = (jax.random.uniform(keys[2], (len(held), 1)) < jnp.where(last, 1.0, 0.3)) & (
                held.sum(-1, keepdims=True) == 0
            )
            return (jnp.where(shown, rows, held), plan), None

        first, rest = jax.random.split(key)
        start = jnp.zeros_like(pack.occupancy), rules.start(first, pack)
        last = jnp.arange(6) == 5
        return numbers(jax.lax.scan(step, start, (jax.random.split(rest, 6), last))[0][0])

    found = np.asarray(jit(lambda keys: jax.lax.map(one, keys))(jax.random.split(jax.random.key(3), 300)))
    kinds = set()
    for row in found:
        for part in np.split(row[: sum(SIZES)], np.cumsum(SIZES)[:-1]):
            composition = Counter(part.tolist())
            assert neutral(composition, STATES) and set(composition) <= set(ELEMENTS)
            assert count is None or count[0] <= len(composition) <= count[1]
            kinds.add(tuple(sorted(composition.items())))
    assert len(kinds) > 30 and (found[:, sum(SIZES) :] == 0).all()


def test_feasible_compositions_against_brute_force():
    allowed, states = [3, 8, 17, 22], {3: (1,), 8: (-2,), 17: (-1,), 22: (3, 4)}
    at_least = {22: 1}
    found = feasible([1, 2, 3, 4, 5], allowed, num_elements=(1, 4), states=states, at_least=at_least)
    for n, m in itertools.product(range(1, 6), range(1, 5)):
        compositions = [Counter(z) for z in itertools.combinations_with_replacement(allowed, n)]
        fit = [c for c in compositions if len(c) == m and c[22] >= 1 and neutral(c, states)]
        assert found.possible[n, m] == bool(fit), (n, m)
        if fit:
            used = set((np.flatnonzero(found.elements[n, m]) + 1).tolist())
            charge = {z: int(found.charge[n, m, z - 1]) for z in used}
            assert any(set(c) == used and sum(c[z] * charge[z] for z in used) == 0 for c in fit)


def test_mixed_valence_is_neutral_by_the_atom_alone():
    assert not neutral({26: 3, 8: 4}, {26: (2, 3), 8: (-2,)})
    assert neutral({26: 3, 8: 4}, {26: (2, 3), 8: (-2,)}, mixed_valence=True)
    assert not neutral({2: 1}, {26: (2, 3)}, mixed_valence=True)


FIELDS = {
    "absorbing": dict(sampler="heun", species=processes.SPECIES["discrete"]()),
    "uniform": dict(species=processes.SPECIES["discrete"](noise="uniform")),
    "simplex": dict(species=processes.SPECIES["simplex"]()),
}


@pytest.mark.parametrize("kind", list(FIELDS))
def test_the_sampler_keeps_everything_inside(kind):
    """Ternary, neutral, fixed atoms and cell, whatever process the species have; the network is random."""
    wanted = Constraints(allowed=ELEMENTS, num_elements=(3, 3), states=STATES, fixed=SEED._replace(lattice=CELL))
    network = dense(width=8, layers=1, frequencies=2, geometry=2, scan_layers=True)
    fields = dict(frac=processes.POSITIONS["flow"](), lattice=processes.LATTICE["flow"]()) | FIELDS[kind]
    generator = iterative(network, **fields, steps=4, constraint=compiled(wanted, SIZES, proposals=4))
    pack, condition = blank(SIZES), Condition(jnp.zeros((4, 0)), jnp.zeros(4, jnp.int32))
    params = jit(generator.init)(jax.random.key(0), pack, condition)
    params = jax.tree.map(lambda v: v + 0.5 * np.random.default_rng(5).normal(size=v.shape).astype(v.dtype), params)
    sample = jit(generator.sample)
    packs = [sample(params, jax.random.key(i), pack, condition) for i in range(30)]
    none_broken(wanted, packs)
    assert len({tuple(np.asarray(numbers(p.occupancy)).tolist()) for p in packs}) > 10


WANTED = {
    "formula": (Constraints(formula={22: 1, 8: 2}, fixed=SEED), [3, 6]),
    "elements": (Constraints(allowed=ELEMENTS, forbidden=(17,)), SIZES),
    "number": (Constraints(allowed=ELEMENTS, num_elements=(2, 3)), SIZES),
    "neutral": (Constraints(states=STATES), SIZES),
    "all": (
        Constraints(num_elements=(3, 3), states=STATES, fixed=SEED, forbidden=(3,), min_distance_angstrom=1.6), SIZES
    ),
    "a cell": (Constraints(fixed=SEED._replace(lattice=CELL), min_distance_angstrom=1.2), [4, 6]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(WANTED))
def test_any_generator_keeps_its_constraints(name):
    """Draft and repair around a generator that knows nothing of them; 600 crystals or so."""
    wanted, sizes = WANTED[name]
    guided = constrain(toy(), compiled(wanted, sizes), min_distance_angstrom=wanted.min_distance_angstrom)
    pack = blank(sizes * 10)
    sample = jit(guided.sample)
    none_broken(
        wanted, [sample({}, jax.random.key(i), pack, Condition(None, None)) for i in range(600 // len(pack.lattice))]
    )


@pytest.mark.parametrize(("draft", "changed"), [([8, 12, 12, 8], 0), ([8, 8, 12, 8], 1)])
def test_repair_changes_no_more_than_it_has_to(draft, changed):
    """Neutral crystals of O 2- and Mg 2+: a draft that is one stays, others change as few sites as can be (e^-20)."""

    def decode(params, key, noise, template, condition):
        unknown = template.occupancy.max(-1, keepdims=True) < 0.9
        return template._replace(occupancy=jnp.where(unknown, one_hot(jnp.asarray(draft * 50)), template.occupancy))

    def sample(params, key, template, condition):
        return decode(params, key, (), template, condition)

    fixed_draft = Generator(None, None, lambda key, template: (), decode, sample)
    wanted = Constraints(allowed=(8, 12), num_elements=(2, 2), states=STATES | {8: (-2,)})
    pack = blank([4] * 50, batching.Capacity(200, 300, 50))
    found = jit(constrain(fixed_draft, compiled(wanted, [4])).sample)(
        {}, jax.random.key(0), pack, Condition(None, None)
    )
    rows = np.asarray(numbers(found.occupancy)).reshape(50, 4)
    assert ((rows == 8).sum(1) == 2).all()
    assert ((rows != np.array(draft)).sum(1) == changed).all()


def skewed(count: int, n: int, edge: float) -> Pack:
    pack, rng = blank([n] * count), np.random.default_rng(7)
    shear = np.eye(3) + np.triu(rng.integers(-3, 4, (count + 1, 3, 3)), 1)
    cells = shear @ (edge * np.eye(3) + rng.normal(0, 0.3, (count + 1, 3, 3)))
    frac = rng.random(pack.frac.shape)
    frac[: 2 * n : n], frac[1 : 2 * n : n] = 0.25, 0.25  # the first two crystals: two atoms in one place
    return pack._replace(lattice=jnp.asarray(cells, jnp.float32), frac=jnp.asarray(frac, jnp.float32))


def closest(pack: Pack) -> np.ndarray:
    """Shortest distances by the edges of a radius graph, in double precision."""

    def one(frac, cell):
        pair, shift = crystal_edges(frac, cell, 12.0)
        vectors = (frac[pair[:, 1]] - frac[pair[:, 0]] + shift) @ cell
        return np.linalg.norm(vectors, axis=-1).min()

    return np.array([one(c.frac.astype(float), c.lattice.astype(float)) for c in batching.unpack(pack)])


def test_least_distance_is_that_of_the_radius_graph():
    pack = skewed(20, 4, 4.0)
    np.testing.assert_allclose(jit(least_distance)(pack)[:-1], closest(pack), rtol=2e-5, atol=3e-6)
    assert np.isinf(jit(least_distance)(pack)[-1])


def test_projection_ends_with_all_distances():
    """60 skewed cells of 5 atoms; those that kept the distance do not move, the rest end at it."""
    pack = skewed(60, 5, 4.5)
    before = closest(pack)
    after, ok = jit(partial(separate, distance_angstrom=2.0))(pack)
    assert np.asarray(ok).all() and (closest(after) >= 2.0).all()
    same = (np.asarray(after.frac)[:300].reshape(60, -1) == np.asarray(pack.frac)[:300].reshape(60, -1)).all(1)
    np.testing.assert_array_equal(same, before >= 2.0 * (1 + 1e-4))
    grown = np.linalg.det(after.lattice)[:60] / np.linalg.det(pack.lattice)[:60]
    assert (grown[before >= 2.001] == 1).all()
    assert (grown < 1.001).mean() > 0.9  # 18 Å^3 an atom is room enough: the cell is the last resort


def test_projection_says_what_it_cannot_do():
    """Fixed atoms in one place, a fixed cell too small for an atom's own image, positions that are not finite."""
    pack = blank([2, 2, 2, 2])
    frac = jnp.asarray(pack.frac).at[:8].set(jnp.asarray([[0.2, 0.2, 0.2], [0.2, 0.2, 0.2]] * 4, jnp.float32))
    pack = pack._replace(
        frac=frac.at[4].set(jnp.nan), lattice=pack.lattice * jnp.asarray([4.0, 1.5, 4, 4, 1])[:, None, None]
    )
    still = jnp.arange(len(pack.frac)) < 2
    after, ok = separate(pack, 2.0, fixed=still, fixed_cell=True)
    assert np.asarray(ok).tolist() == [False, False, False, True, True]
    np.testing.assert_array_equal(after.lattice, pack.lattice)
    np.testing.assert_array_equal(after.frac[:2], pack.frac[:2])
    after, ok = separate(pack, 2.0, fixed=still)
    assert np.asarray(ok).tolist() == [False, True, False, True, True]


REFUSED = {
    "not whole units": (Constraints(formula={3: 1, 26: 1, 15: 1, 8: 4}), "6 atoms are not a whole number"),
    "not neutral": (Constraints(formula={11: 1, 17: 2}, states=STATES), "formula NaCl2: no choice of the declared"),
    "no states": (Constraints(formula={2: 1}, states=STATES), "formula He: no choice"),
    "forbidden in a formula": (Constraints(formula={11: 1, 17: 1}, forbidden=(17,)), "Cl is not among"),
    "elements of a formula": (Constraints(formula={11: 1, 17: 1}, num_elements=(3, 3)), "has 2 elements; 3 to 3"),
    "no element": (Constraints(allowed=(3, 8), forbidden=(3, 8)), "leave no element"),
    "noble gases": (Constraints(allowed=(2, 10), states=STATES), "none of the elements .* oxidation state"),
    "one sign": (Constraints(allowed=(3, 12), states=STATES), "neutrality: no composition of 6 atoms .* Li, Mg"),
    "too many elements": (Constraints(num_elements=(7, 7)), "7 in a crystal of 6 atoms"),
    "more than allowed": (Constraints(allowed=(3, 8), num_elements=(3, 3)), "3, but only 2 may appear"),
    "backwards": (Constraints(num_elements=(3, 2)), "3 to 2; expected"),
    "odd charge": (
        Constraints(allowed=(12, 17), num_elements=(2, 2), states={12: (2,), 17: (-1,)}, fixed=Fixed(np.array([17] * 5),
        np.random.default_rng(0).random((5, 3)).astype(np.float32))), "2 elements and neutrality: no composition of 6",
    ),
    "a large seed": (Constraints(fixed=Fixed(np.array([8] * 7), np.zeros((7, 3), np.float32))), "more than the 6"),
    "a forbidden seed": (Constraints(fixed=SEED, forbidden=(22,)), "fixed part: Ti is not among"),
    "seed and formula": (Constraints(formula={8: 1, 12: 1}, fixed=SEED), "Ti is not among|1 Ti, too many"),
    "a close seed": (Constraints(fixed=SEED._replace(lattice=CELL), min_distance_angstrom=3.5), "closer than the 3.5"),
    "one place": (
        Constraints(fixed=Fixed(np.array([8, 8]), np.zeros((2, 3), np.float32)), min_distance_angstrom=1.0),
        "one place",
    ),
    "outside": (Constraints(fixed=Fixed(np.array([8]), np.ones((1, 3), np.float32))), r"lie in \[0, 1\)"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", list(REFUSED))
def test_a_contradiction_is_refused_before_sampling(mistake):
    wanted, message = REFUSED[mistake]
    with pytest.raises(ValueError, match=message) as error:
        compiled(wanted, [6])
    assert "\n" not in str(error.value)


def test_violations_finds_each_kind():
    good = datasets.Entry("a", np.array([22, 8, 8]), np.array([[0, 0, 0], [0.5, 0.5, 0.1], [0.5, 0, 0.5]]), CELL, {})
    wanted = Constraints(
        allowed=(8, 22),
        num_elements=(2, 2),
        states=STATES,
        fixed=SEED._replace(lattice=CELL),
        min_distance_angstrom=1.9,
    )
    broken = {
        "": good,
        "elements": good._replace(numbers=np.array([22, 8, 16])),
        "num_elements": good._replace(numbers=np.array([22, 8, 12])),
        "neutral": good._replace(numbers=np.array([22, 8, 22])),
        "fixed": good._replace(frac=good.frac + 1e-6),
        "min_distance": good._replace(frac=np.array([[0, 0, 0], [0.5, 0.5, 0.1], [0.5, 0.2, 0.1]])),
    }
    found = violations(wanted, datasets.from_entries(broken.values()))
    assert not any(rows[0] for rows in found.values())
    for i, name in enumerate(broken):
        assert name == "" or found[name][i], name
    assert violations(Constraints(formula={22: 1, 8: 1}), datasets.from_entries([good]))["formula"].all()


@pytest.mark.parametrize("handedness", [1, -1])
def test_a_density_is_that_of_either_handedness(handedness):
    """MgO in a cube of 4 Å: 40.304 amu in 64 Å³ are 1.0457 g/cm³."""
    cell = np.diag([4.0, 4.0, 4.0 * handedness])
    row = datasets.Entry("a", np.array([12, 8]), np.array([[0, 0, 0], [0.5] * 3]), cell, {})
    for window, broken in (((1.0455, 1.0460), False), ((1.0460, 9.0), True), ((0.1, 1.0455), True)):
        found = violations(Constraints(density_g_cm3=window), datasets.from_entries([row]))
        assert found["density"].tolist() == [broken], window


def test_a_formula_fills_what_the_fixed_part_leaves():
    pack = given.prepare(compiled(Constraints(formula={22: 1, 8: 2}, fixed=SEED), [3, 6]), blank([3, 6]))
    assert sorted(numbers(pack.occupancy)[:3].tolist()) == [8, 8, 22]
    assert numbers(pack.occupancy)[3:9].tolist() == [22, 8, 8, 8, 8, 22]
    assert numbers(pack.occupancy)[9:].tolist() == [0, 0]


def test_each_required_element_has_a_site_of_its_own_behind_the_fixed_part():
    pack = blank([4, 5])
    free = given.prepare(compiled(Constraints(required=(8, 22, 12)), [4, 5]), pack).occupancy
    beside = given.prepare(compiled(Constraints(required=(8, 26, 12), fixed=SEED), [4, 5]), pack).occupancy
    for k in (0, 4):
        assert numbers(free[k : k + 3]).tolist() == [8, 22, 12] and float(free[k + 3].max()) < 0.1
        assert numbers(beside[k : k + 4]).tolist() == [22, 8, 26, 12]  # O is in the fixed part


def test_sizes_count_the_required_elements():
    """Mg(x)O(y)Cl(2z) is neutral for x = y + z, with all three there for y, z >= 1: 2y + 3z atoms, by hand."""
    states = {12: (2,), 8: (-2,), 17: (-1,)}
    wanted = Constraints(allowed=tuple(states), states=states, required=(12, 8, 17))
    assert possible_sizes(wanted, list(range(1, 10))) == [5, 7, 8, 9]
    assert possible_sizes(wanted._replace(required=()), [1, 2, 3, 4, 5, 6]) == [2, 3, 4, 5, 6]
    with pytest.raises(ValueError, match=r"neutrality and required Mg, O, Cl: no composition of 6 atoms"):
        compiled(wanted, [5, 6])
