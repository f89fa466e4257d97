"""Relaxation against ASE and known minima; what breaks stops alone, and how the work is cut up changes no bit."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import ase.optimize
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.filters import UnitCellFilter
from scipy.optimize import minimize_scalar

from crysjax.base import GPA_PER_EV_A3, Crystal
from crysjax.data.batching import Capacity
from crysjax.data.readers.io import to_atoms
from crysjax.potentials.ase import calculator
from crysjax.potentials.classical import pair_fade
from crysjax.potentials.descent import METHODS
from crysjax.potentials.mlip import mlip
from crysjax.potentials.relax import Relax, Relaxation, _covered, relax, start

SIZES = [(2, 4, 1, 4)[i % 4] for i in range(64)]
SHAPE = Capacity(sum(SIZES), sum(n * (n - 1) // 2 for n in SIZES), 64)
BROKEN = np.arange(64) % 4 == 1
FMAX = 1e-3


class Setup(NamedTuple):
    pack: Callable  # crystals -> pack of 64 slots
    run: Callable  # (state, max_steps, limit, pressure, skin) -> state, compiled once
    start: Callable  # crystals -> state
    settings: Relax


@pytest.fixture(scope="module", params=METHODS)
def setup(request, toys) -> Setup:
    def pack(crystals: list[Crystal]):
        return jax.tree.map(jnp.asarray, toys.make_pack(crystals, SHAPE))

    settings = Relax(method=request.param, fmax_ev_angstrom=FMAX)

    @partial(jax.jit, compiler_options=toys.fast)
    def compiled(state: Relaxation, max_steps, limit, pressure, skin) -> Relaxation:
        return relax(
            toys.argon.energy_forces_stress, (), state, cutoff_angstrom=toys.argon.cutoff_angstrom, max_edges=16000,
            max_images=3, max_steps=max_steps, limit=limit, skin_angstrom=skin,
            settings=settings._replace(pressure_gpa=pressure),
        )  # fmt: skip

    def run(state: Relaxation, max_steps=400, limit=400, pressure=0.0, skin=0.5) -> Relaxation:
        return jax.tree.map(np.asarray, compiled(state, max_steps, limit, pressure, skin))

    return Setup(pack, run, lambda crystals: start(pack(crystals), settings), settings)


@pytest.fixture(scope="module")
def crystals(toys) -> list[Crystal]:
    return [toys.draw_argon(n, i) for i, n in enumerate(SIZES)]


@pytest.fixture(scope="module")
def relaxed(setup, crystals) -> Relaxation:
    return setup.run(setup.start(crystals))


def assert_same_bits(a: Relaxation, b: Relaxation, kept=slice(None)) -> None:
    """Equal in every bit of the crystals `kept`."""
    owner = np.asarray(a.pack.owner)
    site = np.isin(owner, np.arange(64)[kept])
    for x, y in zip(jax.tree.leaves(a._replace(pack=a.pack[:3])), jax.tree.leaves(b._replace(pack=b.pack[:3]))):
        rows = site if len(x) == len(owner) else kept
        np.testing.assert_array_equal(x[rows], y[rows])


def cubic_energy(edge: float) -> float:
    """Of argon at the face-centered cubic lattice, eV per atom: a plain sum over cells in float64."""
    k = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3), -1).reshape(-1, 3)
    r = np.linalg.norm(k @ (edge / 2 * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])), axis=-1)
    r = r[(r > 0) & (r < 7.0)]
    with jax.enable_x64(True):
        return float((2 * 0.0104 * ((3.4 / r) ** 12 - (3.4 / r) ** 6) * np.asarray(pair_fade(r / 7.0))).sum())


def cubic_minimum(pressure: float = 0) -> tuple[float, float]:
    """Edge of the cube and enthalpy per atom at a pressure in GPa."""
    enthalpy = lambda a: cubic_energy(a) + pressure / GPA_PER_EV_A3 * a**3 / 4  # noqa: E731
    found = minimize_scalar(enthalpy, bracket=(4.9, 5.3), tol=1e-10)
    return found.x, found.fun


# A force f on a spring k leaves f^2 / 2k of energy and f / k of length. By its Hessian, a cell of n atoms has springs
# of at least 0.45 eV/Å^2 on atoms, 0.85 / n on a strain times n, and 3.7 / n on a strain of the volume: forces of FMAX
# on 3 n + 9 coordinates leave less than 1e-5 eV per atom, and 3 FMAX / 3.7 of the volume.
LEFT_EV, LEFT_VOLUME = 1e-5, 1e-3


@pytest.mark.parametrize("pressure", [0.0, 1.0])
def test_every_cell_ends_at_the_known_minimum(setup, crystals, relaxed, pressure):
    """Cells of 1, 2 and 4 atoms; under pressure, the enthalpy."""
    found = relaxed if pressure == 0 else setup.run(setup.start(crystals), pressure=pressure)
    assert found.converged.all() and found.valid.all() and not found.overflow.any()
    edge, enthalpy = cubic_minimum(pressure)
    np.testing.assert_allclose(found.energy / SIZES, enthalpy, atol=LEFT_EV)
    volume = np.abs(np.linalg.det(found.pack.lattice)) / SIZES
    np.testing.assert_allclose(volume, edge**3 / 4, rtol=LEFT_VOLUME)
    assert pressure == 0 or edge < 0.98 * cubic_minimum()[0]  # 1 GPa is not small for argon


def test_each_crystal_stops_by_itself_where_its_forces_are_small(setup, toys, crystals, relaxed):
    """Forces and stress evaluated anew: below the bound where it stopped, and above it where it began."""
    evaluate = jax.jit(toys.argon.energy_forces_stress, compiler_options=toys.fast)

    def fmax(pack) -> np.ndarray:
        said = evaluate((), pack, toys.make_graph(jax.tree.map(np.asarray, pack), 7.0, 16000))
        energy, forces, stress = (np.asarray(x) for x in said)
        volume = np.abs(np.linalg.det(np.asarray(pack.lattice)))
        largest = np.abs(stress).max((1, 2)) * volume / SIZES
        np.maximum.at(largest, np.asarray(pack.owner), np.linalg.norm(forces, axis=-1))
        return energy, largest

    assert (fmax(setup.pack(crystals))[1] > FMAX).all()
    energy, after = fmax(relaxed.pack)
    assert (after < 1.001 * FMAX).all()
    np.testing.assert_allclose(after, relaxed.fmax, atol=1e-5)  # rounding of forces that cancel, in float32
    np.testing.assert_allclose(energy, relaxed.energy, atol=1e-6)
    assert len(np.unique(relaxed.steps)) > 5
    assert_same_bits(setup.run(jax.tree.map(jnp.asarray, relaxed)), relaxed)


def test_sixteen_broken_crystals_change_no_bit_of_the_others(setup, toys, crystals, relaxed):
    """On one machine, in the same slots: whether a slot holds a sound crystal, a broken one or nothing."""
    spoilt = [toys.break_crystal(c, i // 4 % 7)[0] if BROKEN[i] else c for i, c in enumerate(crystals)]
    empty = [c._replace(occupancy=0 * c.occupancy) if BROKEN[i] else c for i, c in enumerate(crystals)]
    found, none = (setup.run(setup.start(x)) for x in (spoilt, empty))
    assert_same_bits(found, relaxed, ~BROKEN)
    assert_same_bits(none, relaxed, ~BROKEN)
    assert not found.converged[BROKEN].any() and not (found.valid & ~found.overflow)[BROKEN].any()
    flat = np.arange(64) // 4 % 7 == 6  # needs more images than there are: not wrong, but not done either
    np.testing.assert_array_equal(found.overflow, BROKEN & flat)
    np.testing.assert_array_equal(found.valid, ~BROKEN | flat)
    assert not np.isnan(found.energy).any()


def test_relaxing_in_parts_changes_no_bit(setup, crystals, relaxed):
    state = setup.start(crystals)
    for _ in range(60):
        state = jax.tree.map(jnp.asarray, setup.run(state, max_steps=4))
    assert_same_bits(state, relaxed)


@pytest.mark.parametrize("skin", [0.02, 1.0])
def test_the_skin_changes_no_bit(setup, crystals, relaxed, skin):
    """Graphs made anew at other moments: had one ever lacked an edge, something would differ."""
    assert_same_bits(setup.run(setup.start(crystals), skin=skin), relaxed)


def test_a_limit_stops_where_the_energy_was_evaluated(setup, toys, crystals):
    found = setup.run(setup.start(crystals), limit=5)
    assert (found.steps == 5).all() and not found.converged.any() and found.valid.all()
    graph = toys.make_graph(found.pack, 7.0, 16000)
    energy = jax.jit(toys.argon.energy, compiler_options=toys.fast)((), found.pack, graph)
    np.testing.assert_allclose(found.energy, energy, atol=1e-6)
    assert_same_bits(setup.run(jax.tree.map(jnp.asarray, found), limit=5), found)


def test_covered_graphs_hold_every_neighbor(toys):
    """Random moves and strains: whenever the old graph counts as covering, no edge within the cutoff is missing."""
    rng, cutoff, reach, told = np.random.default_rng(0), 4.0, 4.5, []
    built = toys.make_pack([toys.draw_crystal(4, 0)], Capacity(4, 6, 1))
    graph = toys.make_graph(built, reach, None)
    held = set(zip(graph.receiver.tolist(), graph.sender.tolist(), map(tuple, graph.shift.tolist())))
    covered = jax.jit(lambda moved: _covered(moved, jax.tree.map(jnp.asarray, built), cutoff, reach))
    for _ in range(300):
        move, strain = rng.choice([0, 0.3], 2) * rng.random(2) * [1, 0.3]
        frac = built.frac + (move * rng.normal(size=(4, 3)) @ np.linalg.inv(built.lattice[0])).astype(np.float32)
        strain = (np.eye(3) + strain * rng.normal(size=(3, 3))).astype(np.float32)
        moved = built._replace(frac=frac, lattice=built.lattice @ strain)
        now = toys.make_graph(moved, cutoff, None)
        missing = set(zip(now.receiver.tolist(), now.sender.tolist(), map(tuple, now.shift.tolist()))) - held
        told.append((bool(covered(moved)[0]), bool(missing)))
    assert (True, True) not in told
    assert (True, False) in told and (False, True) in told


# Another program, another potential


class Many(NamedTuple):
    """Argon with a small network added: many-body forces on a surface that has the same kind of minimum."""

    energy_forces_stress: Callable
    potential: object
    params: object


@pytest.fixture(scope="module")
def many(toys) -> Many:
    network = mlip(
        network="nequip", numbers=(18,), hidden_irreps="6x0e + 4x1o + 4x2e", layers=2, lmax=2, cutoff_angstrom=6.0,
        radial_basis=5, radial_width=8, radial_layers=1, mean_neighbors=20.0, scale_ev=0.02,
    )  # fmt: skip
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    params = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), shapes)

    def both(params, pack, graph) -> tuple:
        parts = toys.argon.energy_forces_stress((), pack, graph), network.energy_forces_stress(params, pack, graph)
        return tuple(a + b for a, b in zip(*parts))

    return Many(both, toys.argon._replace(energy_forces_stress=both), params)


def minimum_by_ase(crystal: Crystal, calculator, method, pressure: float = 0) -> tuple[float, float]:
    """Enthalpy and volume per atom where ASE's optimizer ends, with the cell free."""
    atoms = to_atoms(crystal)
    atoms.calc = calculator
    moved = UnitCellFilter(atoms, scalar_pressure=pressure / GPA_PER_EV_A3)
    assert method(moved, logfile=None).run(fmax=FMAX, steps=400)
    volume = atoms.get_volume()
    return (atoms.get_potential_energy() + pressure / GPA_PER_EV_A3 * volume) / len(atoms), volume / len(atoms)


@pytest.mark.parametrize("method", [ase.optimize.FIRE, ase.optimize.BFGS])
def test_lennard_jones_ends_where_ase_ends(toys, crystals, relaxed, method):
    argon = calculator(toys.argon, ())
    for i in (0, 1, 2):
        energy, volume = minimum_by_ase(crystals[i], argon, method)
        assert abs(relaxed.energy[i] / SIZES[i] - energy) < LEFT_EV
        assert abs(np.linalg.det(relaxed.pack.lattice[i]) / SIZES[i] / volume - 1) < 2 * LEFT_VOLUME


def test_a_network_ends_where_ase_ends_under_pressure(toys, many):
    crystals, settings = [toys.draw_argon(n, 100 + n) for n in (2, 4)], Relax(fmax_ev_angstrom=FMAX, pressure_gpa=0.5)
    pack = jax.tree.map(jnp.asarray, toys.make_pack(crystals, Capacity(6, 7, 2)))
    run = partial(relax, many.energy_forces_stress, cutoff_angstrom=7.0, max_edges=900, max_images=3, settings=settings)
    found = jax.jit(run, compiler_options=toys.fast)(many.params, start(pack, settings))
    assert found.converged.all()
    same = calculator(many.potential, many.params)
    for i, crystal in enumerate(crystals):
        enthalpy, volume = minimum_by_ase(crystal, same, ase.optimize.BFGS, 0.5)
        assert abs(found.energy[i] / len(crystal.frac) - enthalpy) < LEFT_EV
        assert abs(np.linalg.det(found.pack.lattice[i]) / len(crystal.frac) / volume - 1) < 2 * LEFT_VOLUME


def test_a_cell_that_is_kept_ends_where_ase_ends_without_a_filter(toys, crystals):
    crystal, settings = crystals[1], Relax(fmax_ev_angstrom=FMAX, move_cell=False)
    pack = jax.tree.map(jnp.asarray, toys.make_pack([crystal], Capacity(4, 6, 1)))
    forces = toys.argon.energy_forces_stress
    run = partial(relax, forces, (), cutoff_angstrom=7.0, max_edges=900, max_images=3, settings=settings)
    found = jax.jit(run, compiler_options=toys.fast)(start(pack, settings))
    atoms = to_atoms(crystal)
    atoms.calc = calculator(toys.argon, ())
    assert ase.optimize.BFGS(atoms, logfile=None).run(fmax=FMAX, steps=400) and found.converged.all()
    np.testing.assert_allclose(found.energy[0] / 4, atoms.get_potential_energy() / 4, atol=LEFT_EV)
    np.testing.assert_array_equal(found.pack.lattice, pack.lattice)
    assert found.energy[0] / 4 > cubic_minimum()[1] + 10 * LEFT_EV  # a strained cell stays above the minimum


def test_an_overflow_stops_one_crystal_and_more_room_takes_it_on(setup, toys, crystals, relaxed):
    """Room for half of the edges: who is not told to have overflowed ends as with all room, and who is told stopped on
    the way there and goes on in the room of those that are done."""
    run = partial(
        relax, toys.argon.energy_forces_stress, (), cutoff_angstrom=7.0, max_images=3, max_edges=4600,
        settings=setup.settings, max_steps=400, limit=400,
    )  # fmt: skip
    run = jax.jit(run, compiler_options=toys.fast)
    found = jax.tree.map(np.asarray, run(setup.start(crystals)))
    assert found.overflow.any() and found.converged.any() and found.valid.all()
    np.testing.assert_array_equal(found.overflow, ~found.converged)
    assert_same_bits(found, relaxed, found.converged)
    assert (found.steps[found.overflow] < relaxed.steps[found.overflow]).all()
    assert_same_bits(setup.run(jax.tree.map(jnp.asarray, found)), relaxed)
    while found.overflow.any():
        before, found = found, run(jax.tree.map(jnp.asarray, found))
        assert found.converged.sum() > before.converged.sum()
    assert_same_bits(jax.tree.map(np.asarray, found), relaxed)
