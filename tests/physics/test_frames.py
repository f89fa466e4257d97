"""The frame of an elastic tensor: one tensor for every description of a crystal, and the one that pymatgen turns to."""

import warnings

import numpy as np
import pytest
import spglib
from scipy.spatial.transform import Rotation

from crysjax.data.datasets import Entry
from crysjax.physics.elasticity import frames

CELLS = {
    "triclinic": (2, (4.1, 5.3, 6.2, 81, 102, 95)), "monoclinic": (14, (6.1, 5.2, 4.3, 90, 104, 90)),
    "monoclinic, centered": (12, (7.3, 4.2, 5.1, 90, 111, 90)), "orthorhombic": (62, (5.3, 7.9, 6.1, 90, 90, 90)),
    "orthorhombic, centered": (63, (4.1, 9.2, 6.3, 90, 90, 90)), "tetragonal, low": (87, (5.1, 5.1, 7.2, 90, 90, 90)),
    "tetragonal": (139, (4.1, 4.1, 9.2, 90, 90, 90)), "trigonal, low": (148, (5.1, 5.1, 13.2, 90, 90, 120)),
    "trigonal": (167, (4.8, 4.8, 13.1, 90, 90, 120)), "trigonal, 31m": (162, (5.2, 5.2, 4.9, 90, 90, 120)),
    "hexagonal": (194, (3.2, 3.2, 5.3, 90, 90, 120)), "hexagonal, low": (176, (6.2, 6.2, 3.9, 90, 90, 120)),
    "cubic, low": (205, (5.7, 5.7, 5.7, 90, 90, 90)), "cubic": (225, (5.6, 5.6, 5.6, 90, 90, 90)),
}  # fmt: skip
PLACE = [0.137, 0.221, 0.318]


def crystal(name: str):
    """One general orbit and one atom at the origin, in the conventional cell, with a stiffness of its symmetry."""
    from pymatgen.core import Lattice, Structure

    group, parameters = CELLS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Structure.from_spacegroup(group, Lattice.from_parameters(*parameters), ["Na", "Cl"], [PLACE, [0, 0, 0]])
    entry = Entry(name, np.array(made.atomic_numbers), made.frac_coords, made.lattice.matrix, {})
    cell = entry.lattice, entry.frac, entry.numbers
    assert spglib.get_symmetry_dataset(cell, symprec=0.01).number == group
    rng = np.random.default_rng(group)
    low = rng.normal(size=(6, 6))
    stiff = low @ low.T + np.diag([80.0, 80, 80, 30, 30, 30])
    stiff[:3, :3] += 40
    to_row = np.linalg.inv(entry.lattice.T)
    turns = [entry.lattice.T @ w @ to_row for w in spglib.get_symmetry(cell, symprec=0.01)["rotations"]]
    return made, entry, np.mean([frames.turn_stiffness(stiff, turn) for turn in turns], 0)


def described_otherwise(entry: Entry, tensor: np.ndarray, seed: int):
    """The same crystal turned, moved, in another basis, by other names of the axes, doubled, left-handed, mirrored."""
    rng = np.random.default_rng(seed)
    turn = Rotation.random(random_state=seed).as_matrix()
    cell, frac, numbers = entry.lattice @ turn.T, entry.frac + rng.random(3), entry.numbers
    tensor = frames.turn_stiffness(tensor, turn)
    order = rng.permutation(3)
    yield Entry("named", numbers, frac[:, order], cell[order], {}), tensor  # of either handedness
    basis = np.array([[1, 1, 0], [0, 1, 0], [-1, 0, 1]])[order]
    yield Entry("sheared", numbers, frac @ np.linalg.inv(basis), basis @ cell, {}), tensor
    yield Entry("flipped", numbers, -frac, -cell, {}), tensor
    mirror = np.diag([1.0, -1.0, 1.0])
    yield Entry("mirror image", numbers, frac, cell @ mirror, {}), frames.turn_stiffness(tensor, mirror)
    double = np.concatenate([frac, frac + np.array([1, 0, 0])]) / np.array([2, 1, 1])
    yield Entry("doubled", np.tile(numbers, 2), double, cell * [[2], [1], [1]], {}), tensor


@pytest.mark.parametrize("name", CELLS)
def test_a_tensor_is_a_function_of_the_crystal(name):
    """Five descriptions, turned three ways: one tensor, to rounding; its symmetry's zeros are zeros."""
    _, entry, tensor = crystal(name)
    found = frames.frame(entry)
    assert found.system == name.partition(",")[0]
    axes = frames.chosen(tensor, found)
    np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-9)
    assert np.linalg.det(axes) > 0
    first = frames.turn_stiffness(tensor, axes)
    for seed in range(3):
        for other, its_own in described_otherwise(entry, tensor, seed):
            again = frames.turn_stiffness(its_own, frames.chosen(its_own, frames.frame(other)))
            np.testing.assert_allclose(again, first, atol=1e-6 * np.abs(first).max(), err_msg=f"{other.id}, {seed}")
    zeros = {"orthorhombic": first[:3, 3:], "cubic": first[:3, 3:], "hexagonal": first[:3, 3:],
             "monoclinic": first[[0, 1, 2, 4], 3], "tetragonal": first[:3, 3:5], "trigonal": first[2, 3:]}  # fmt: skip
    np.testing.assert_allclose(zeros.get(found.system, 0), 0, atol=1e-6 * np.abs(first).max())


@pytest.mark.parametrize("name", [n for n in CELLS if n != "triclinic"])  # which pymatgen sorts the other way round
def test_pymatgen_turns_to_the_same_axes(name):
    """Senses of axes aside, which the standard ties to piezoelectric constants: they change signs alone."""
    from pymatgen.analysis.elasticity import ElasticTensor

    made, entry, tensor = crystal(name)
    ours = frames.turn_stiffness(tensor, frames.chosen(tensor, frames.frame(entry)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = np.array(ElasticTensor.from_voigt(tensor).convert_to_ieee(made, initial_fit=False).voigt)
    largest = np.abs(ours).max()
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-4 * largest)
    if name in ("cubic", "cubic, low", "hexagonal", "orthorhombic", "orthorhombic, centered", "tetragonal"):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * largest)


@pytest.mark.parametrize("angles", [(75, 80, 70), (105, 98, 111), (81, 102, 95)])
def test_angles_with_c_are_obtuse_in_a_triclinic_crystal(angles):
    """Its three shortest vectors that span space, found by trying all: c on x3, a in the plane of x1 and x3, and of a,
    b, c as right-handed axes the first two lean away from the third, whichever the angles of the given cell were."""
    from pymatgen.core import Lattice

    cell = Lattice.from_parameters(5.1, 6.3, 4.2, *angles).matrix
    entry = Entry("t", np.array([11, 17, 17]), np.array([[0, 0, 0], PLACE, [-p for p in PLACE]]), cell, {})
    (axes,) = frames.frame(entry).axes  # nothing is left to choose
    every = np.stack(np.meshgrid(*[np.arange(-3, 4)] * 3), -1).reshape(-1, 3) @ cell
    every = every[np.argsort(np.linalg.norm(every, axis=-1), kind="stable")][1:]
    c = every[0]
    a = next(v for v in every if np.linalg.norm(np.cross(c, v)) > 0.1)
    b = next(v for v in every if abs(np.linalg.det([a, v, c])) > 0.1)
    a, b, c = (v @ axes.T for v in (a, b, c))
    a, b, c = a * np.sign(a[0]), b * np.sign(b[1]), c * np.sign(c[2])
    np.testing.assert_allclose([c[0], c[1], a[1]], 0, atol=1e-4)
    assert a[2] < 0 and b[2] < 0 and np.linalg.det([a, b, c]) > 0


def test_c_is_short_and_beta_obtuse_in_a_monoclinic_crystal():
    """From a cell whose a and c are not the shortest vectors normal to b, and whose beta is acute."""
    _, entry, _ = crystal("monoclinic")
    skewed = np.array([[1, 0, 1], [0, 1, 0], [0, 0, -1]])
    other = entry._replace(lattice=skewed @ entry.lattice, frac=entry.frac @ np.linalg.inv(skewed))
    for given in (entry, other):
        for axes in frames.frame(given).axes:
            a, b, c = entry.lattice @ axes.T
            np.testing.assert_allclose(np.abs([b[0], b[2], c[0], c[1], a[1]]), 0, atol=1e-4)
            assert a[0] * a[2] * c[2] * b[1] * np.linalg.det([a, b, c]) != 0 and (a @ c) < 0
            assert np.sign(a[0]) == np.sign(c[2]) == -np.sign(a[2])


def test_axes_of_equal_length_are_told_apart_by_the_tensor():
    """An orthorhombic crystal in a cube, and a stiffness that is not cubic: the larger of C11, C22, C33 come first."""
    cube = Entry("o", np.array([11, 17, 35]), np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5]]), 5 * np.eye(3), {})
    stiff = np.diag([90.0, 110, 100, 30, 40, 50])
    assert frames.frame(cube).system == "orthorhombic"
    for order in ([0, 1, 2], [2, 0, 1], [1, 0, 2]):
        turn = np.eye(3)[order]
        other = Entry("p", cube.numbers, cube.frac[:, order], cube.lattice, {})
        its_own = frames.turn_stiffness(stiff, turn)
        again = frames.turn_stiffness(its_own, frames.chosen(its_own, frames.frame(other)))
        np.testing.assert_allclose(np.diag(again)[:3], [110, 100, 90], atol=1e-9)


def test_what_a_relaxation_leaves_does_not_undo_the_frame():
    """Rock salt with its cell and ions off by some thousandths of an Å: cubic axes still, in every description, and the
    same ones although its three axes differ a little."""
    _, entry, tensor = crystal("cubic")
    rng = np.random.default_rng(0)
    cell = entry.lattice + rng.normal(0, 0.002, (3, 3))
    off = entry._replace(lattice=cell, frac=entry.frac + rng.normal(0, 0.0003, entry.frac.shape))
    low = rng.normal(size=(6, 6))
    tensor = tensor + 0.02 * (low + low.T) / 2 * tensor[0, 0]
    axes = frames.chosen(tensor, frames.frame(off))
    along = off.lattice @ axes.T / np.linalg.norm(off.lattice, axis=-1, keepdims=True)
    np.testing.assert_allclose(np.sort(np.abs(along)), [[0, 0, 1]] * 3, atol=0.01)
    first = frames.turn_stiffness(tensor, axes)
    for other, its_own in described_otherwise(off, tensor, 5):
        again = frames.turn_stiffness(its_own, frames.chosen(its_own, frames.frame(other)))
        np.testing.assert_allclose(again, first, atol=0.02 * np.abs(first).max(), err_msg=other.id)


def test_a_stress_is_turned_as_its_matrix():
    axes = Rotation.from_rotvec([0.3, -1.1, 0.7]).as_matrix()
    squeezed = np.array([[3.0, 0.5, 0.2], [0.5, -1.0, 0.7], [0.2, 0.7, 2.0]])
    known = axes @ squeezed @ axes.T
    found = frames.turn_stress([3.0, -1.0, 2.0, 0.7, 0.2, 0.5], axes)
    np.testing.assert_allclose(found, [known[i, j] for i, j in [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]])


def test_broken_cells_are_refused_before_spglib_sees_them():
    with pytest.raises(ValueError, match="not finite"):
        frames.frame(Entry("x", np.array([11]), np.full((1, 3), np.nan), np.eye(3), {}))
