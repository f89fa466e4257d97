"""One crystal of a data set on the host, and what must hold before it is believed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from crysjax.chemistry.elements import SYMBOLS
from crysjax.data.lost import Lost
from crysjax.data.readers import limits
from crysjax.geometry import soundness

ENERGY, FORCES = "energy_ev_per_atom", "forces_ev_per_a"
FORMATION_ENERGY = "formation_energy_ev_per_atom"
STRESS = tuple(f"stress_{ij}_ev_per_a3" for ij in ("xx", "yy", "zz", "yz", "xz", "xy"))
"""Names of what interatomic potentials learn from; stress is dE/dstrain per volume, ASE's sign and order."""

_FLOAT32 = float(np.finfo(np.float32).max)


class SourceRow(NamedTuple):
    """What stands beside a crystal in its file and is no property yet; `labels.settle` makes it one or says why not."""

    cells: dict[str, object]  # column -> number (NaN = missing), truth value or text
    taken: dict[str, str] = {}  # noqa: RUF012 (never changed)  # what a reader understood -> the column it came from
    passed: dict[str, str] = {}  # noqa: RUF012 (never changed)  # column -> why it is not read
    notes: dict[str, str] = {}  # noqa: RUF012 (never changed)  # column -> how its cells were read, where that is to be told


class Entry(NamedTuple):
    """One crystal of a data set on the host."""

    id: str
    numbers: np.ndarray  # (n,) atomic numbers
    frac: np.ndarray  # (n, 3)
    lattice: np.ndarray  # (3, 3) rows a, b, c in Å
    properties: dict[str, float]  # missing = NaN or left out
    site_properties: dict[str, np.ndarray] = {}  # noqa: RUF012 (never changed)  # name -> (n, ...)
    row: SourceRow | None = None  # what a reader found beside the crystal and has not settled
    lost: Lost = {}  # noqa: RUF012 (never changed)  # what the file says of atoms and a crystal does not keep


def checked(entry: Entry) -> Entry:
    """The entry with fractions wrapped to [0, 1); anything that is not a crystal is an error that says why."""
    numbers, frac, lattice = np.asarray(entry.numbers), np.asarray(entry.frac, float), np.asarray(entry.lattice, float)
    if not len(numbers) or frac.shape != (len(numbers), 3) or lattice.shape != (3, 3):
        raise ValueError(f"{len(numbers)} sites with positions {frac.shape} and cell {lattice.shape}")
    if numbers.min() < 1 or numbers.max() > len(SYMBOLS):
        raise ValueError(f"atomic numbers {numbers.min()}..{numbers.max()}, expected 1..{len(SYMBOLS)}")
    if wrong := soundness.why_not(frac, lattice):
        raise ValueError(wrong)
    return entry._replace(frac=wrap(frac))


def wrap(frac: np.ndarray) -> np.ndarray:
    """Fractions in [0, 1) as float32; the rounding to float32 can itself reach 1, which is 0."""
    wrapped = np.mod(np.asarray(frac, np.float64), 1.0).astype(np.float32)
    return np.where(wrapped >= 1, np.float32(0), wrapped)


def sound(entry: Entry) -> Entry:
    """A checked entry that a data set can hold: whole numbers of real elements, finite, of bounded size."""
    numbers = np.asarray(entry.numbers)
    limits.refuse_sites(len(numbers))
    if numbers.dtype.kind not in "iuf" or (numbers.dtype.kind == "f" and not (numbers == np.floor(numbers)).all()):
        raise ValueError("atomic numbers are not whole numbers")
    if len(entry.id) > limits.ID_CHARACTERS:
        raise ValueError(f"an id of {len(entry.id)} characters; at most {limits.ID_CHARACTERS} are kept")
    entry = checked(entry._replace(numbers=numbers, lattice=_real(entry.lattice), frac=_far(_real(entry.frac))))
    if (longest := np.abs(entry.lattice).max()) > limits.CELL_ANGSTROM:
        per_atom = abs(np.linalg.det(entry.lattice)) / len(numbers)
        said = f"a cell vector of {longest:.3g} Å, {per_atom:.3g} Å³ per atom"
        raise ValueError(f"{said}; at most {limits.CELL_ANGSTROM:g} Å are read")
    return entry._replace(
        properties={k: float(v) for k, v in entry.properties.items()},
        site_properties={k: _of_sites(k, v, len(numbers)) for k, v in entry.site_properties.items()},
    )


def _real(values) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iufb":
        raise ValueError(f"positions or cell are not numbers ({array.dtype})")
    return array.astype(float)


def _far(frac: np.ndarray) -> np.ndarray:
    if frac.size and np.abs(frac[np.isfinite(frac)]).max(initial=0) > limits.FRACTION:
        raise ValueError(f"a fractional coordinate beyond {limits.FRACTION:g}")
    return frac


def held(entry: Entry) -> Entry:
    """The entry; an error for a property that float32 does not hold. NaN, which is missing, passes."""
    for name, value in entry.properties.items():
        if abs(value) > _FLOAT32:
            raise ValueError(f"{name} is {value:g}; a data set holds numbers up to {_FLOAT32:.3g} (float32)")
    return entry


def _of_sites(name: str, values: np.ndarray, count: int) -> np.ndarray:
    array = _real(values)
    if array.shape[:1] != (count,) or (name == FORCES and array.shape != (count, 3)) or np.isinf(array).any():
        raise ValueError(f"{name}: shape {array.shape} for {count} sites, or not finite")
    if (np.abs(array[np.isfinite(array)]) > _FLOAT32).any():
        raise ValueError(f"{name}: {np.nanmax(np.abs(array)):g} is beyond the range of float32")
    return array
