"""Relations built from real crystals, one by one, and crystals that have none; the same in bulk."""

import numpy as np
import pytest

from crysjax.crystallography import known_relations
from crysjax.crystallography.known_relations import relation, relations, tally
from crysjax.crystallography.parents import PARENT, contained, merge, similar
from crysjax.data.datasets import Entry, from_entries

FCC = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
CUBIC = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
RUTILE = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.305, 0.305, 0], [0.695, 0.695, 0], [0.195, 0.805, 0.5],
                   [0.805, 0.195, 0.5]])  # fmt: skip


def entry(numbers: list[int], frac, lattice) -> Entry:
    lattice = np.diag(lattice) if np.ndim(lattice) == 1 else np.asarray(lattice)
    return Entry("", np.array(numbers), np.asarray(frac, float), lattice.astype(float), {})


def rock_salt(a: int, b: int, length: float) -> Entry:
    return entry([a] * 4 + [b] * 4, np.concatenate([FCC, FCC + np.array([0.5, 0, 0])]), [length] * 3)


def perovskite(a: int, b: int, x: int, length: float) -> Entry:
    return entry([a, b, x, x, x], CUBIC, [length] * 3)


def repeated(row: Entry, times: tuple[int, int, int]) -> Entry:
    shifts = np.stack(np.meshgrid(*map(np.arange, times), indexing="ij"), -1).reshape(-1, 3)
    frac = ((row.frac[:, None] + shifts) / times).reshape(-1, 3)
    return entry(np.repeat(row.numbers, len(shifts)), frac, row.lattice * np.array(times)[:, None])


def moved(row: Entry, size_angstrom: float, seed: int = 0) -> Entry:
    """Every site displaced by this length in a random direction."""
    step = np.random.default_rng(seed).normal(size=row.frac.shape)
    step *= size_angstrom / np.linalg.norm(step, axis=1, keepdims=True)
    return row._replace(frac=row.frac + step @ np.linalg.inv(row.lattice))


def pnma(a: int, b: int) -> Entry:
    """CaTiO3 as measured (Pnma, 20 sites): octahedra tilted by 9 to 12 degrees about all three axes."""
    from pymatgen.core import Lattice, Structure

    sites = [[0.0360, 0.25, 0.9935], [0, 0, 0.5], [0.4838, 0.25, 0.0713], [0.2888, 0.0373, 0.7111]]
    crystal = Structure.from_spacegroup(
        "Pnma", Lattice.orthorhombic(5.442, 7.640, 5.380), ["Ca", "Ti", "O", "O"], sites
    )
    numbers = [{20: a, 22: b, 8: 8}[z] for z in crystal.atomic_numbers]
    return entry(numbers, crystal.frac_coords, crystal.lattice.matrix)


NACL, KBR, MGO = rock_salt(11, 17, 5.64), rock_salt(19, 35, 6.60), rock_salt(12, 8, 4.21)
CATIO3 = perovskite(20, 22, 8, 3.84)
L10 = entry([29, 79], [[0, 0, 0], [0.5, 0.5, 0.5]], [2.80, 2.80, 3.67])  # CuAu I
L12 = entry([79, 29, 29, 29], FCC, [3.75] * 3)  # Cu3Au
TIO2 = entry([22, 22, 8, 8, 8, 8], RUTILE, [4.594, 4.594, 2.959])
KNOWN = [NACL, KBR, CATIO3, L12, TIO2]


@pytest.mark.parametrize(
    ("row", "known", "kind", "says"),
    [
        (rock_salt(11, 17, 5.5), NACL, "equal", "RMS 0.000"),
        (entry([17, 11], [[0, 0, 0], [0.5, 0.5, 0.5]], (np.ones((3, 3)) - np.eye(3)) * 2.8), NACL, "equal", "RMS"),
        (repeated(CATIO3, (2, 2, 1)), CATIO3, "supercell", "20 sites reduce to the 5"),
        (moved(repeated(CATIO3, (2, 2, 1)), 0.05), CATIO3, "supercell", "20 sites reduce to the 5"),
        (pnma(20, 22), CATIO3, "distortion", "in 4 cells with displaced sites, its symmetry a part"),
        (CATIO3, pnma(20, 22), "distortion", "the known crystal is it in 4 cells"),
        (moved(repeated(CATIO3, (2, 2, 1)), 0.4), CATIO3, "distortion", "in 4 cells with displaced sites"),
        (entry([29, 29, 79, 79], FCC, [3.96, 3.96, 3.67]), L10, "supercell", "4 sites reduce to the 2"),
        (L10, L12, "order-disorder variant", "shares Cu-Au on one lattice"),
        (L12, L10, "order-disorder variant", "shares Cu-Au on one lattice"),
        (NACL, KBR, "substitution", "the known crystal with K to Na, Br to Cl"),
        (pnma(38, 40), pnma(20, 22), "substitution", "Ca to Sr, Ti to Zr"),
        (entry([55, 17], CUBIC[:2], [4.12] * 3), NACL, "new", "no known crystal"),
    ],
)  # fmt: skip
def test_relations_of_real_crystals(row, known, kind, says):
    found = relation(row, [MGO if kind == "equal" else TIO2, known])
    assert (found.kind, found.index) == ((kind, 1) if kind != "new" else ("new", -1)), found
    assert says in found.reason
    assert np.isnan(found.value) == (kind == "new")


def double_perovskite(order: str) -> Entry:
    """Sr8 Ti4 Zr4 O24 in 2 x 2 x 2 cells: Ti and Zr as in rock salt, or in layers."""
    row = repeated(perovskite(38, 22, 8, 4.0), (2, 2, 2))
    center = np.round(row.frac * 2 - 0.5).astype(int)
    second = center.sum(1) % 2 == 1 if order == "rock salt" else center[:, 2] % 2 == 1
    return row._replace(numbers=np.where((row.numbers == 22) & second, 40, row.numbers))


def test_orderings_of_one_composition_and_of_another():
    rock, layers = double_perovskite("rock salt"), double_perovskite("layers")
    found = relation(rock, [layers])
    assert (found.kind, found.index) == ("order-disorder variant", 0) and found.reason.startswith("orders Ti-Zr")
    found = relation(rock, [TIO2, perovskite(38, 22, 8, 3.9)])  # of another composition: Zr is on the sites of Ti
    assert (found.kind, found.index) == ("order-disorder variant", 1) and found.reason.startswith("shares Ti-Zr")
    found = relation(perovskite(38, 40, 8, 4.1), [TIO2, rock])
    assert (found.kind, found.index) == ("order-disorder variant", 1) and found.reason.startswith("shares Ti-Zr")
    swapped = relation(perovskite(22, 38, 8, 4.0), [perovskite(38, 22, 8, 3.9)])
    assert swapped.kind == "order-disorder variant" and swapped.reason.startswith("orders Ti-Sr")


def test_polar_distortion_in_one_cell_is_a_distortion_where_equality_is_tight():
    polar = entry([56, 22, 8, 8, 8], CUBIC + np.array([0, 0.0203, -0.0258, -0.0123, -0.0123])[:, None] * [0, 0, 1],
                  [3.99, 3.99, 4.03])  # fmt: skip  # BaTiO3, P4mm
    cubic = perovskite(56, 22, 8, 4.0)
    assert relation(polar, [cubic]).kind == "equal"  # to StructureMatcher
    found = relation(polar, [cubic], tolerance=known_relations.Tolerance(stol=0.005))
    assert found.kind == "distortion" and "of group 221" in found.reason


def test_true_negatives():
    anatase = entry([22] * 4 + [8] * 8, [[0, 0, 0], [0.5, 0.5, 0.5], [0, 0.5, 0.25], [0.5, 0, 0.75],
        [0, 0, 0.208], [0.5, 0.5, 0.708], [0, 0.5, 0.458], [0.5, 0, 0.958],
        [0, 0, 0.792], [0.5, 0.5, 0.292], [0, 0.5, 0.042], [0.5, 0, 0.542]], [3.785, 3.785, 9.514])  # fmt: skip
    diamond = entry([6] * 8, np.concatenate([FCC, FCC + 0.25]), [3.567] * 3)
    hexagonal = [[2.46, 0, 0], [-1.23, 2.1304, 0], [0, 0, 6.7]]
    graphite = entry([6] * 4, [[0, 0, 0.25], [0, 0, 0.75], [1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]], hexagonal)
    for row, known in ((anatase, TIO2), (diamond, graphite), (graphite, diamond)):
        assert relation(row, [known]).kind == "new", (row, known)
    assert relation(entry([26], np.zeros((1, 3)), (1 - 2 * np.eye(3)) * 1.43), [entry([26] * 4, FCC, [3.6] * 3)]).kind \
        == "new"  # bcc and fcc iron  # fmt: skip
    rng = np.random.default_rng(0)
    for _ in range(5):  # the same atoms at random places
        assert relation(CATIO3._replace(frac=rng.random((5, 3))), KNOWN, tolerance=PARENT).kind == "new"


def test_a_symmetry_that_is_no_part_of_the_others_is_refused():
    from crysjax.data.readers.io import to_structure

    tetragonal = to_structure(perovskite(20, 22, 8, 3.84)._replace(lattice=np.diag([3.8, 3.8, 4.0])))
    cubic, square = to_structure(CATIO3), to_structure(CATIO3._replace(lattice=np.diag([4.0, 3.8, 3.8])))
    assert contained(tetragonal, cubic) and contained(cubic, cubic)
    assert not contained(cubic, tetragonal) and not contained(square, tetragonal)


def test_species_that_count_as_one():
    assert merge(np.array([29, 79, 8]), (29, 79)).tolist() == [100, 100, 8]
    assert similar((29, 79)) and similar((22, 40)) and not similar((11, 17)) and not similar((2, 11))


def test_the_closest_relation_wins_and_its_index_is_right():
    known = [KBR, L12, NACL, TIO2]
    assert relation(rock_salt(11, 17, 5.7), known)[:2] == ("equal", 2)
    assert relation(MGO, known).kind == "substitution" and relation(MGO, known).index in (0, 2)
    with pytest.raises(ValueError, match="at least one known crystal, got none"):
        relation(NACL, [])


def test_bulk_over_processes_equals_one_by_one(monkeypatch):
    rows = [NACL, MGO, L10, pnma(20, 22), repeated(CATIO3, (1, 1, 2)), entry([55, 17], CUBIC[:2], [4.12] * 3)]
    reference = from_entries(KNOWN)
    alone = [relation(row, KNOWN) for row in rows]
    monkeypatch.setattr(known_relations, "_INLINE", 1)
    together = relations(from_entries(rows), reference, processes=2)
    assert [r[:2] for r in together] == [r[:2] for r in alone]
    np.testing.assert_allclose([r.value for r in together], [r.value for r in alone], atol=1e-5)  # float32 on the way
    assert tally(together) == {"equal": 1, "supercell": 1, "distortion": 1, "order-disorder variant": 1,
                               "substitution": 1, "new": 1}  # fmt: skip
