"""Relaxation of a data set: refilled packs, capacities that grow, cells of every kind, and what is said of failures."""

from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest

from crysjax.base import GPA_PER_EV_A3, NUM_SPECIES, Crystal, numbers
from crysjax.data import datasets
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Dataset
from crysjax.geometry.neighbors import needed_images, radius_graph
from crysjax.potentials import relax_dataset as module
from crysjax.potentials.classical import pair_fade
from crysjax.potentials.pool import Pool
from crysjax.potentials.relax import Relax
from crysjax.potentials.relax_dataset import RelaxedSet

USUAL = Relax(fmax_ev_angstrom=1e-3)
MINIMUM_EV, EDGE = -0.0790735, 5.243195  # of argon, see test_relax: an atom, and the cube
FACES = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
LEFT_EV, LEFT_VOLUME = 1e-5, 1e-3  # what forces of 1e-3 eV/Å leave, see test_relax


def dataset(crystals: list[Crystal]) -> Dataset:
    """Crystals as they are; `datasets.from_entries` would refuse the broken ones."""
    count = np.array([len(c.frac) for c in crystals], np.int32)
    template = datasets.from_entries(
        [datasets.Entry(f"c{i}", np.full(n, 18), np.zeros((n, 3)), np.eye(3), {}) for i, n in enumerate(count)]
    )
    z = np.concatenate([np.asarray(numbers(c.occupancy)) for c in crystals]).astype(np.uint8)
    frac = np.concatenate([c.frac for c in crystals]).astype(np.float32)
    return replace(template, numbers=z, frac=frac, lattice=np.stack([c.lattice for c in crystals]).astype(np.float32))


@pytest.fixture(scope="module")
def relaxed(toys):
    """`relax_dataset` of argon."""

    def run(crystals: list[Crystal], **settings) -> RelaxedSet:
        settings = {"settings": USUAL} | settings
        cutoff = toys.argon.cutoff_angstrom
        return module.relax_dataset(
            toys.argon.energy_forces_stress, (), dataset(crystals), cutoff_angstrom=cutoff, **settings
        )

    return run


def at_minimum(found: RelaxedSet) -> np.ndarray:
    """Whether each crystal has argon's known energy and volume per atom."""
    n = found.crystals.num_atoms
    with np.errstate(invalid="ignore"):
        volume = np.abs(np.linalg.det(found.crystals.lattice.astype(float))) / n
    right = np.abs(found.energy / n - MINIMUM_EV) < LEFT_EV
    return right & (np.abs(volume / (EDGE**3 / 4) - 1) < LEFT_VOLUME) & found.converged & found.valid


@pytest.fixture(scope="module")
def sixty_four(toys, relaxed) -> tuple[list[Crystal], np.ndarray, RelaxedSet, list]:
    """Crystals of 1, 2 and 4 atoms, every fourth of them broken, relaxed in packs of 64 sites."""
    crystals = [toys.draw_argon((2, 4, 1, 4)[i % 4], i) for i in range(64)]
    broken, told = np.arange(64) % 4 == 1, []
    spoilt = [toys.break_crystal(c, i // 4 % 7)[0] if broken[i] else c for i, c in enumerate(crystals)]
    return crystals, broken, relaxed(spoilt, progress=lambda done, total: told.append((done, total))), told


def test_sixteen_broken_of_sixty_four_do_not_matter_to_the_others(relaxed, sixty_four):
    """Alone, the sound ones are in other packs, and equal to rounding, which may also decide on one step more."""
    crystals, broken, found, _ = sixty_four
    alone = relaxed([c for c, bad in zip(crystals, broken) if not bad])
    np.testing.assert_array_equal(found.valid, ~broken)
    np.testing.assert_array_equal(found.converged, ~broken)
    np.testing.assert_array_equal(at_minimum(found), ~broken)
    np.testing.assert_allclose(found.energy[~broken], alone.energy, atol=1e-6)
    np.testing.assert_allclose(found.fmax[~broken], alone.fmax, atol=1e-5)
    np.testing.assert_allclose(found.crystals.lattice[~broken], alone.crystals.lattice, atol=1e-4)
    assert np.abs(found.steps[~broken] - alone.steps).max() <= 1


def test_every_failure_has_its_reason(toys, sixty_four):
    crystals, broken, found, _ = sixty_four
    assert (found.reason[~broken] == "").all()
    for i in np.flatnonzero(broken):
        assert toys.break_crystal(crystals[i], i // 4 % 7)[1] in found.reason[i]
    runaway = np.char.startswith(found.reason, "the volume ran away")
    assert runaway.any() and np.isfinite(found.energy[runaway]).all()  # that of the last sound state
    assert np.isnan(found.energy[broken & ~runaway]).all() and np.isnan(found.fmax[broken & ~runaway]).all()


def test_progress_counts_to_the_end(sixty_four):
    *_, told = sixty_four
    done = [d for d, _ in told]
    assert done == sorted(done) and told[-1] == (64, 64) and {total for _, total in told} == {64}


def test_capacities_grow_until_everything_fits(toys, relaxed, monkeypatch):
    """From room for almost nothing, the same answers as with enough; compiled a few times on the way."""
    crystals, sizes = [toys.draw_argon(n, 7) for n in (1, 2, 4, 4)], []
    enough = relaxed(crystals)
    small = module.Size(module._shape(np.array([1, 2, 4, 4]), 64), 64, (1, 1, 1))
    monkeypatch.setattr(module, "_first_size", lambda *_: small)
    compiled = module._compiled
    monkeypatch.setattr(module, "_compiled", lambda *a: sizes.append(a[2]) or compiled(*a))
    found = relaxed(crystals)
    assert at_minimum(found).all() and len(set(sizes)) < 6
    assert sizes == sorted(sizes) and sizes[-1][0] > 64 and sizes[-1][1] > (1, 1, 1)
    np.testing.assert_allclose(found.steps, enough.steps, atol=1)
    np.testing.assert_allclose(found.energy, enough.energy, atol=1e-6)  # another program: another order of sums
    np.testing.assert_allclose(found.crystals.lattice, enough.crystals.lattice, atol=1e-4)


def test_growing_never_stands_still(toys):
    """Where rounding decides how many images or edges are needed, the host may see none missing; it grows all the same.

    Cubic cells whose needed images are a whole number to single precision, and a lack of edges that the host denies.
    """
    reach, shape = 7.5, module._shape(np.array([1]), 8)
    wanted = jax.jit(partial(radius_graph, cutoff=reach, max_edges=512), static_argnames="max_images")
    for images in (2, 3):
        for ulp in range(-3, 4):
            edge = np.float32(reach / (images - 0.5)) * np.float32(1 + ulp * 6e-8)
            lone = dataset([Crystal(toys.draw_argon(1, 0).occupancy, np.zeros((1, 3)), edge * np.eye(3))])
            pool, row = Pool(lone, USUAL, reach), np.array([0])
            pack = pool.load(row, shape).pack
            grown = module._grown(pool, row, module.Size(shape, 512, (images - 1,) * 3))
            if wanted(pack, max_images=images - 1).overflow[0]:
                assert not wanted(pack, max_images=grown.images).overflow[0]
            need = [int(pool.edges(row)[0])]
            for _ in range(12):
                grown = module._grown(pool, row, grown)
                need.append(int(pool.edges(row)[0]))
            assert need == sorted(set(need)), "more room each time"
            assert grown.edges >= need[-1] or need[-1] <= 512


def test_packs_side_by_side_change_no_bit(toys, relaxed, monkeypatch):
    """Several packs at once on a CPU: results do not depend on which ends first, run after run."""
    crystals = [toys.draw_argon((2, 4, 1, 4)[i % 4], i) for i in range(24)]
    monkeypatch.setattr(module, "_together", lambda: 3)
    first, again = (relaxed(crystals, sites=12, chunk=3) for _ in range(2))
    for x, y in zip(first[1:], again[1:]):
        np.testing.assert_array_equal(x, y)
    np.testing.assert_array_equal(first.crystals.frac, again.crystals.frac)
    assert at_minimum(first).all()


def test_a_row_depends_on_its_mates_by_rounding_alone(toys, relaxed):
    """Alone, in a pack of another size; among others; and last of them instead of first, at the documented bounds."""
    crystals = [toys.draw_argon((2, 4, 1, 4)[i % 4], i) for i in range(12)]
    alone, among = relaxed(crystals[:2], sites=8), relaxed(crystals, sites=24)
    turned = relaxed(crystals[::-1], sites=24)
    for other, rows in ((among, [0, 1]), (turned, [11, 10])):
        for k, row in enumerate(rows):
            mine, its = (datasets.entries(found.crystals)[r] for found, r in ((alone, k), (other, row)))
            off = mine.frac - its.frac
            np.testing.assert_allclose(off - np.round(off), 0, atol=1e-5)
            np.testing.assert_allclose(mine.lattice, its.lattice, atol=1e-4)
            np.testing.assert_allclose(alone.energy[k], other.energy[row], atol=1e-6 * len(mine.numbers))
            assert (alone.steps[k], alone.converged[k]) == (other.steps[row], other.converged[row])


def test_an_element_that_is_not_known_is_the_reason_of_its_crystal_alone(toys, relaxed):
    crystals = [toys.draw_argon(2, 0), toys.draw_argon(2, 1), toys.draw_argon(2, 2)]
    crystals[1] = crystals[1]._replace(occupancy=np.eye(NUM_SPECIES)[[17, 25]])
    found = relaxed(crystals, sites=8, known=(18,))
    assert found.reason.tolist() == ["", "the potential does not know Fe", ""]
    assert found.steps[1] == 0 and np.isnan(found.energy[1]) and not found.valid[1]
    assert at_minimum(found)[[0, 2]].all()


def test_a_limit_holds_whatever_the_chunk(toys, relaxed):
    """Evaluations are what a campaign pays for: never one more, and the energy is that of what is handed back."""
    crystals = [toys.draw_argon(n, 9) for n in (1, 2, 4)]
    found = relaxed(crystals, max_steps=5, chunk=2)
    back = [Crystal(np.eye(NUM_SPECIES)[e.numbers - 1], *e[2:4]) for e in datasets.entries(found.crystals)]
    np.testing.assert_array_equal(found.steps, 5)
    assert not found.converged.any() and found.valid.all()
    pack = toys.make_pack(back, Capacity(7, 7, 3))
    energy = jax.jit(toys.argon.energy)((), pack, toys.make_graph(pack, 7.0, None))
    np.testing.assert_allclose(found.energy, energy, atol=1e-6)


def test_one_two_hundred_atoms_and_a_skewed_cell(toys, relaxed):
    """The same lattice in the primitive cell, in one of 200 atoms, and in settings with entries up to forty."""
    rng, size = np.random.default_rng(0), np.array([5, 5, 2])
    primitive, cube = toys.draw_argon(1, 3), toys.draw_argon(4, 3)
    cells = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1).reshape(-1, 1, 3)
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    frac = (corners[None] + cells + rng.uniform(-0.01, 0.01, (50, 4, 3))).reshape(-1, 3) / size
    large = Crystal(np.tile(cube.occupancy, (50, 1)), frac, 5.2 * np.diag(size))
    shear = np.array([[1.0, 0, 0], [-40, 1, 0], [23, -37, 1]])
    skewed = [c._replace(frac=c.frac @ np.linalg.inv(shear), lattice=shear @ c.lattice) for c in (primitive, cube)]
    assert needed_images(skewed[0].lattice, 7.5).max() > 50
    found = relaxed([primitive, large, *skewed, cube])
    assert at_minimum(found).all(), found.reason
    # handed back in the setting in which it came, with every atom where it was but for the relaxation
    for k, start in ((2, skewed[0]), (3, skewed[1])):
        strain = np.linalg.solve(start.lattice, found.crystals.lattice[k].astype(float))
        assert np.abs(strain - np.eye(3)).max() < 0.1
    steps = found.crystals.frac[-8:-4] @ shear - found.crystals.frac[-4:]
    np.testing.assert_allclose(steps - np.round(steps), 0, atol=2e-3)
    np.testing.assert_allclose(found.energy[[2, 3]], found.energy[[0, 4]], atol=1e-5)


def test_pressure_is_worked_against(toys, relaxed):
    """dH/dP = V: from the known minimum to 0.1 GPa, by the trapezium rule.

    Its error is h^3 / 12 of V'', about V / GPa^2 for argon (bulk modulus 3 GPa): 2e-5 eV per atom.
    """
    crystals, n = [toys.draw_argon(1, 4), toys.draw_argon(4, 4)], (1, 4)
    found = relaxed(crystals, settings=USUAL._replace(pressure_gpa=0.1))
    volume = np.abs(np.linalg.det(found.crystals.lattice.astype(float))) / n
    assert found.converged.all() and (volume < EDGE**3 / 4 * (1 - 10 * LEFT_VOLUME)).all()
    work = 0.1 / GPA_PER_EV_A3 * (volume + EDGE**3 / 4) / 2
    np.testing.assert_allclose(found.energy / n, MINIMUM_EV + work, atol=2e-5 + LEFT_EV)


def test_labels_of_the_unrelaxed_crystal_stay_behind(toys, relaxed):
    """Energies, forces, stresses and distances to a hull are those of other positions; what was measured is kept."""
    data = dataset([toys.draw_argon(2, 0), toys.draw_argon(4, 1)])
    stale = [datasets.ENERGY, *datasets.STRESS, "formation_energy_ev_per_atom", "e_above_hull_ev_per_atom",
             "REF_energy", "potential_ev_per_atom", "fmax_ev_per_angstrom", "volume", "virial"]  # fmt: skip
    kept = ["hardness_gpa", "band_gap_ev", "year", "enforced"]
    of_sites = {datasets.FORCES: np.ones((6, 3), np.float32), "charge": np.ones(6, np.float32)}
    properties = {name: np.ones(2, np.float32) for name in [*stale, *kept]}
    data = replace(data, properties=properties, site_properties=of_sites)
    seen = []
    found = module.relax_dataset(
        toys.argon.energy_forces_stress, (), data, cutoff_angstrom=toys.argon.cutoff_angstrom, settings=USUAL, chunk=5,
        record=lambda rows, energy, now: seen.append(now),
    )  # fmt: skip
    for crystals in (found.crystals, seen[0]):
        assert sorted(crystals.properties) == sorted(kept) and list(crystals.site_properties) == ["charge"]
    assert set(stale) <= set(data.properties), "what was given is not changed"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pressure_gpa": float("nan")}, "pressure_gpa is nan; expected a finite pressure in GPa"),
        ({"pressure_gpa": float("inf")}, "pressure_gpa is inf"), ({"fmax_ev_angstrom": float("nan")}, "fmax_ev_ang"),
        ({"step_angstrom": -1.0}, "step_angstrom is -1"), ({"volume_range": (2.0, 1.0)}, "volume_range"),
        ({"method": "luck"}, "method 'luck'"),
    ],
)  # fmt: skip
def test_settings_that_are_none_are_named(toys, relaxed, changed, message):
    """Not blamed on the crystals' elements, one by one."""
    with pytest.raises(ValueError, match=message):
        relaxed([toys.draw_argon(1, 0)], settings=USUAL._replace(**changed))


def test_no_crystals_and_only_hopeless_ones(toys, relaxed):
    nothing = datasets.take(dataset([toys.draw_argon(1, 0)]), np.zeros(0, int))
    found = module.relax_dataset(toys.argon.energy_forces_stress, (), nothing, cutoff_angstrom=7.0)
    assert len(found.energy) == len(found.crystals) == 0
    bad = [toys.break_crystal(toys.draw_argon(2, k), k)[0] for k in (0, 2, 6)]
    assert not relaxed(bad).valid.any()


def simple_cubic(toys, seed: int) -> Crystal:
    """Eight argon atoms on a simple cubic lattice, no minimum of theirs, shaken and strained by a hundredth."""
    rng, edge = np.random.default_rng(seed), 2 * 3.4
    corners = np.stack(np.meshgrid(*[[0, 0.5]] * 3, indexing="ij"), -1).reshape(8, 3)
    cell = edge * (np.eye(3) + rng.uniform(-1e-2, 1e-2, (3, 3)))
    return Crystal(np.eye(NUM_SPECIES)[np.full(8, 17)], corners + rng.uniform(-1e-2, 1e-2, (8, 3)), cell)


def test_a_symmetry_that_is_kept_holds_an_unstable_crystal(toys, relaxed):
    """Simple cubic argon falls into a denser packing unless its 48 rotations are kept; then all six distances of the
    cell's edges and the twelve nearest ones of its atoms stay equal, and the others in the pack move as without."""
    crystals = [simple_cubic(toys, 0), toys.draw_argon(4, 1)]
    free, kept = relaxed(crystals, sites=12), relaxed(crystals, sites=12, keep_symmetry_angstrom=0.4)
    assert free.valid.all() and kept.valid.all() and kept.converged.all()
    assert kept.energy[0] > free.energy[0] + 0.1, "held above"
    metric = kept.crystals.lattice[0] @ kept.crystals.lattice[0].T
    np.testing.assert_allclose(metric, metric[0, 0] * np.eye(3), atol=1e-5 * metric[0, 0])
    apart = 2 * (kept.crystals.frac[:8] - kept.crystals.frac[:1])
    np.testing.assert_allclose(apart, apart.round(), atol=1e-5)
    edges = np.linspace(3.2, 4.2, 2001)
    lattice = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3), -1).reshape(-1, 3)
    r = np.linalg.norm(lattice, axis=-1)
    sums = [float(pair_energy(a * r[r > 0]).sum()) / 2 for a in edges]
    np.testing.assert_allclose(kept.energy[0] / 8, min(sums), atol=LEFT_EV)


def pair_energy(r: np.ndarray) -> np.ndarray:
    with jax.enable_x64(True):
        fade = np.asarray(pair_fade(r / 7.0))
    return np.where(r < 7.0, 4 * 0.0104 * ((3.4 / r) ** 12 - (3.4 / r) ** 6) * fade, 0)


def test_a_trajectory_holds_every_step_and_changes_nothing(toys, relaxed):
    crystals, frames = [toys.draw_argon(n, 2) for n in (1, 4)], {0: [], 1: []}

    def record(rows: np.ndarray, energy: np.ndarray, now: Dataset) -> None:
        for row, e, entry in zip(rows.tolist(), energy.tolist(), datasets.entries(now)):
            frames[row].append((e, entry))

    found, plain = relaxed(crystals, chunk=1, record=record), relaxed(crystals, chunk=1)
    np.testing.assert_array_equal(found.energy, plain.energy)
    for row in (0, 1):
        assert len(frames[row]) == found.steps[row]
        energies = [e for e, _ in frames[row]]
        assert energies[0] > energies[-1] and energies[-1] == found.energy[row]
        np.testing.assert_array_equal(frames[row][-1][1].lattice, found.crystals.lattice[row])


def test_atoms_that_do_not_see_one_another_are_a_reason_and_not_relaxed(toys, relaxed):
    """One given so, one that flew apart, beside one that holds: at rest is not the same as relaxed."""
    cutoff = toys.argon.cutoff_angstrom
    one = np.eye(NUM_SPECIES)[[17]]
    gas = Crystal(one, np.zeros((1, 3)), 3 * cutoff * np.eye(3))
    held = Crystal(np.eye(NUM_SPECIES)[[17] * 4], FACES, 5.4 * np.eye(3))
    found = relaxed([gas, held])
    why = f"no two atoms within {cutoff:g} Å, the cutoff of the potential: nothing to relax"
    assert found.reason.tolist() == [why, ""] and found.valid.tolist() == [False, True]
    assert found.converged.tolist() == [False, True]


def test_a_collapsed_cell_is_told_with_its_volume_and_the_limit(relaxed):
    one = np.eye(NUM_SPECIES)[[17]]
    crystals = [Crystal(one, np.zeros((1, 3)), cell) for cell in (np.ones((3, 3)), np.diag([9, 9, 0.01]))]
    found = relaxed(crystals)
    assert found.reason[0] == "the cell has no volume: 0 Å³ per atom; expected at least 1e-06 Å³ in all"
    assert found.reason[1].startswith(
        "the cell needs more than 8 images along an axis: 0.81 Å³ per atom, its lattice planes 0.01 Å apart; expected "
    )
