"""Two crystals with known groups, one of them chiral: for tests that ask whether a crystal is still the same."""

import numpy as np

from crysjax.data.datasets import Entry


def _quartz() -> Entry:
    """Alpha quartz of group 152, P3_1 21; lengths in Å."""
    a, c, u, (x, y, z) = 4.913, 5.405, 0.4697, (0.4133, 0.2672, 0.2145)
    third = 1 / 3
    silicon = [[u, 0, third], [0, u, 2 * third], [-u, -u, 0]]
    oxygen = [[x, y, z], [-y, x - y, z + third], [y - x, -x, z + 2 * third],
              [y, x, -z], [x - y, -y, -z + 2 * third], [-x, y - x, -z + third]]  # fmt: skip
    lattice = np.array([[a, 0, 0], [-a / 2, a * np.sqrt(3) / 2, 0], [0, 0, c]])
    return Entry("quartz", np.array([14] * 3 + [8] * 6), np.array(silicon + oxygen) % 1, lattice, {})


QUARTZ = _quartz()
ROCK_SALT = Entry("rock-salt", np.array([11, 17]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]),
                  2.82 * np.array([[0.0, 1, 1], [1, 0, 1], [1, 1, 0]]), {})  # fmt: skip


def space_group(entry: Entry, symprec: float = 1e-3) -> str:
    """spglib's symbol of the international tables: P3_121 and P3_221 are mirror images."""
    import spglib

    cell = np.asarray(entry.lattice, float), np.asarray(entry.frac, float), np.asarray(entry.numbers)
    return spglib.get_spacegroup(cell, symprec=symprec).split()[0]


def turned_round(entry: Entry) -> Entry:
    """The same crystal in a left-handed cell: its third axis is named the other way round."""
    flip = np.diag([1, 1, -1])
    return entry._replace(frac=(np.asarray(entry.frac) @ flip) % 1, lattice=flip @ np.asarray(entry.lattice))
