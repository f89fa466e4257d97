"""The symmetry operations that a CIF block means: written out, or by Hall symbol, Hermann-Mauguin symbol or number.

Symbols are looked up in spglib's table of the 530 settings of Hall, Acta Cryst. A 37, 517 (1981). Which axes are meant
(hexagonal or rhombohedral, which one is unique) is read from the cell; which of two origins, often from nothing: then
every possible setting is returned, and the sites have to decide. What cannot be resolved is an error, never P1.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from crysjax.data.readers import hall_settings
from crysjax.data.readers.cif_syntax import MISSING, Block

_XYZ = ("_symmetry_equiv_pos_as_xyz", "_space_group_symop_operation_xyz")
_HALL = ("_space_group_name_hall", "_symmetry_space_group_name_hall")
_SYMBOL = ("_space_group_name_h_m_alt", "_symmetry_space_group_name_h_m", "_space_group_name_h_m_full",
           "_space_group_name_h_m", "_space_group_name_h_m_ref")  # fmt: skip
_NUMBER = ("_space_group_it_number", "_symmetry_int_tables_number")
_CODE = ("_space_group_it_coordinate_system_code",)
_TERM = re.compile(r"([+-]?)(?:(\d{1,9}(?:\.\d{0,9})?|\.\d{1,9})(?:/(\d{1,9}))?)?\*?([xyz]?)")
_STRAIN = 0.02  # a cell that the operations strain by more does not have them
_DENOMINATOR = 24  # translations of conventional settings are multiples of 1/24

_OLD = {
    39: "abm2 bma2 b2cm c2mb cm2a ac2m",
    41: "aba2 bba2 b2cb c2cb cc2a ac2a",
    64: "cmca ccmb abma acam bbcm bmab",
    67: "cmma cmmb abmm acmm bmcm bmam",
    68: "ccca ccca cccb cccb abaa abaa acaa acaa bbcb bbcb bbab bbab",
}
"""Symbols of the settings in the table's order, as they were before 1992 brought the letter e."""

_ALIASES = {"s": "1", "o1": "1", "z": "2", "o2": "2", "h": "h", "r": "r", "hr": "r", "1": "1", "2": "2"}
"""Suffixes of symbols (ICSD's S and Z among them) -> the choice in the table."""


class Operations(NamedTuple):
    """The `k` operations of one setting: a column of fractions x goes to W x + w."""

    rotation: np.ndarray  # (k, 3, 3) whole numbers
    translation: np.ndarray  # (k, 3) in [0, 1)
    name: str  # for messages


def possible(block: Block, lattice: np.ndarray) -> list[Operations]:
    """The settings that the block can mean: one, or two that differ in their origin and in nothing that was said.

    A block that says nothing of its symmetry has none here.
    """
    xyz = block.column(*_XYZ)
    if xyz:
        return _fitting([_written([value for value in xyz if value not in MISSING])], lattice)
    halls, said = _named(block)
    return _fitting([_of_hall(hall) for hall in halls], lattice, said) if halls else []


def count(block: Block) -> int:
    """A bound from above for the number of operations, without making them."""
    xyz = block.column(*_XYZ)
    halls = [] if xyz else _named(block)[0]
    return len(xyz) if xyz else max((len(_of_hall(hall).rotation) for hall in halls), default=1)


def _named(block: Block) -> tuple[list[int], str]:
    """Hall numbers that symbols and number leave, the preferred one first, and what the block says."""
    hall, symbol, number = block.value(*_HALL), block.value(*_SYMBOL), block.value(*_NUMBER)
    said = " ".join(f"{hall or symbol or number}".split())[:60]
    if hall:
        found = _by_hall(hall)
        if symbol and _known(symbol):
            found = [h for h in found if h in _by_symbol(symbol, None)] or _contradict(hall, symbol)
    elif symbol:
        found = _by_symbol(symbol, block.value(*_CODE))
    else:
        found = _by_number(number, block.value(*_CODE)) if number else []
    if number and (hall or symbol):
        found = [h for h in found if hall_settings.table()[h].number == _whole(number)] or _contradict(said, number)
    return list({hall_settings.table()[h].hall_symbol: h for h in reversed(found)}.values())[::-1], said


def _whole(number: str) -> int:
    return int(number) if number.isdecimal() and len(number) < 4 else 0


def _contradict(one: str, other: str) -> list[int]:
    raise ValueError(f"the space groups {one[:40]!r} and {other[:40]!r} contradict each other")


@lru_cache(maxsize=1)
def _symbols() -> dict[str, list[int]]:
    """Hermann-Mauguin symbols in lower case without blanks and underscores -> Hall numbers."""
    known: dict[str, list[int]] = {}
    first = {}
    for hall, kind in hall_settings.table().items():
        place = hall - first.setdefault(kind.number, hall)
        names = {_plain(kind.international_full), _plain(kind.international.split("=")[-1])}
        if 3 <= kind.number <= 15:  # P 1 21/n 1 is P 21/n as well; the short symbol is that of the first setting
            names |= {_plain(re.sub(r"(?<= )1(?= |$)", "", kind.international_full))}
            names |= {_plain(kind.international_short)} if place == 0 else set()
        else:
            names |= {_plain(kind.international_short)}
        names |= {_OLD[kind.number].split()[place]} if kind.number in _OLD else set()
        if kind.number >= 200:  # F d 3 m of before 1983
            names |= {name.replace("-3", "3") for name in names}
        for name in names:
            known.setdefault(name, []).append(hall)
    return known


def _plain(symbol: str) -> str:
    return re.sub(r"[\s_'\"]", "", symbol).lower()


def _by_hall(symbol: str) -> list[int]:
    """By the symbol with its blanks, which mean something (P 32 and P 3 2), or without where only one is spelled so."""
    for blank in (" ", ""):
        plain = lambda text, blank=blank: blank.join(text.replace("_", " ").lower().split())  # noqa: E731
        found = [hall for hall, kind in hall_settings.table().items() if plain(kind.hall_symbol) == plain(symbol)]
        if found and len({hall_settings.table()[hall].number for hall in found}) == 1:
            return found
    return _unknown("Hall symbol", symbol)


def _split(symbol: str) -> tuple[str, str]:
    """Symbol and setting, which may stand behind it without a colon: R-3mH."""
    whole, _, choice = _plain(symbol).partition(":")
    if whole not in _symbols() and not choice:
        for suffix in sorted(_ALIASES, key=len, reverse=True):
            if whole.endswith(suffix) and whole.removesuffix(suffix) in _symbols():
                return whole.removesuffix(suffix), suffix
    return whole, choice


def _known(symbol: str) -> bool:
    return _split(symbol)[0] in _symbols()


def _by_symbol(symbol: str, code: str | None) -> list[int]:
    if not _known(symbol):
        return _unknown("space group", symbol)
    whole, choice = _split(symbol)
    return _chosen(_symbols()[whole], choice or (code or "").strip().lower(), symbol)


def _by_number(number: str, code: str | None) -> list[int]:
    found = [hall for hall, kind in hall_settings.table().items() if kind.number == _whole(number)]
    if not found:
        return _unknown("space group number", number)
    first = hall_settings.table()[found[0]].choice
    if not code and first[:1] not in ("1", "2", "H"):  # the standard setting; two origins, or axes of R, stay open
        return found[:1]
    if not code:
        found = [hall for hall in found if hall_settings.table()[hall].choice in ("1", "2", "H", "R")]
    return _chosen(found, (code or "").strip().lower(), number)


def _unknown(what: str, symbol: str) -> list[int]:
    raise ValueError(f"the {what} {symbol[:40]!r} is in no table of the 530 settings; write its operations out")


def _chosen(halls: list[int], choice: str, symbol: str) -> list[int]:
    """The settings with this choice; of hexagonal groups that are always in hexagonal axes, `h` says nothing new."""
    choice = _ALIASES.get(choice, choice)
    if not choice or choice in MISSING:
        return (
            [h for h in halls if _axes(h) == _axes(halls[0])] if hall_settings.table()[halls[0]].number > 15 else halls
        )
    found = [h for h in halls if hall_settings.table()[h].choice.lower() == choice]
    found = found or [h for h in halls if choice in "12" and hall_settings.table()[h].choice.startswith(choice)]
    plain_axes = choice == "h" and all(
        143 <= hall_settings.table()[h].number <= 194 and not hall_settings.table()[h].choice for h in halls
    )
    if not found and not plain_axes:
        raise ValueError(f"the space group {symbol[:40]!r} has no setting {choice[:20]!r}")
    return found or halls


def _axes(hall: int) -> str:
    """How the axes of an orthorhombic setting are named, such as `ba-c`; the standard comes first in the table."""
    return "" if (choice := hall_settings.table()[hall].choice) in ("H", "R") else choice.lstrip("12")


@lru_cache(maxsize=64)
def _of_hall(hall: int) -> Operations:
    found, kind = hall_settings.operations(hall), hall_settings.table()[hall]
    name = f"{kind.international_short}:{kind.choice}" if kind.choice else kind.international_short
    return Operations(found["rotations"].astype(float), np.asarray(found["translations"], float) % 1, name)


def _fitting(settings: list[Operations], lattice: np.ndarray, said: str = "") -> list[Operations]:
    """Those whose rotations leave the lattice as it is: the first, and the same with its other origin."""
    metric = lattice @ lattice.T
    fits = [s for s in settings if np.abs(s.rotation.swapaxes(1, 2) @ metric @ s.rotation - metric).max()
            < _STRAIN * np.abs(metric).max()]  # fmt: skip
    if not fits:
        raise ValueError(f"the cell does not have the symmetry of {said or 'the operations'}")
    first = fits[0].rotation
    return [s for s in fits if s.rotation.shape == first.shape and _same_rotations(s.rotation, first)]


def _same_rotations(one: np.ndarray, other: np.ndarray) -> bool:
    return sorted(map(bytes, one.astype(np.int8))) == sorted(map(bytes, other.astype(np.int8)))


def _written(texts: list[str]) -> Operations:
    """Operations as they are written out; those that are no group are an error: one is missing, or misprinted."""
    rotation, translation = map(np.array, zip(*(_operation(text) for text in dict.fromkeys(texts))))
    near = np.round(translation * _DENOMINATOR) / _DENOMINATOR
    translation = np.where(np.abs(translation - near) < 5e-3, near, translation) % 1
    keys = np.concatenate([rotation.reshape(-1, 9), np.round(translation * 1000) % 1000], 1)
    _, first = np.unique(keys, axis=0, return_index=True)
    found = Operations(rotation[np.sort(first)], translation[np.sort(first)], "the operations")
    if len(found.rotation) > 1 and not _is_group(found):
        raise ValueError(f"the {len(found.rotation)} symmetry operations are no group: one is missing or misprinted")
    return found


def _operation(text: str) -> tuple[np.ndarray, np.ndarray]:
    """`-y, x-y, z+1/3` -> W (3, 3) and w (3,)."""
    parts = re.sub(r"\s", "", text[:200]).lower().split(",")
    if len(parts) != 3 or not all(parts):
        raise ValueError(f"the symmetry operation {text[:40]!r} is not understood")
    rotation, translation = np.zeros((3, 3)), np.zeros(3)
    for i, part in enumerate(parts):
        at = 0
        while at < len(part):
            term = _TERM.match(part, at)
            sign, value, below, axis = term.groups()
            if term.end() == at or not (value or axis) or (at and not sign) or (below and not int(below)):
                raise ValueError(f"the symmetry operation {text[:40]!r} is not understood")
            amount = (-1.0 if sign == "-" else 1.0) * float(value or 1) / float(below or 1)
            if axis:
                rotation[i, "xyz".index(axis)] += amount
            else:
                translation[i] += amount
            at = term.end()
    if (rotation != np.round(rotation)).any() or round(abs(np.linalg.det(rotation))) != 1:
        raise ValueError(f"the symmetry operation {text[:40]!r} is no symmetry of a lattice")
    return rotation, translation


def _is_group(found: Operations, tolerance: float = 0.01) -> bool:
    """Whether products of two operations are operations again."""
    rotations, kind = np.unique(found.rotation.reshape(-1, 9), axis=0, return_inverse=True)
    kind = kind.reshape(-1)
    sizes = np.bincount(kind)
    if (sizes != sizes[0]).any() or len(rotations) > 48:
        return False
    cosets = found.translation[np.argsort(kind, kind="stable")].reshape(len(rotations), sizes[0], 3)
    place = {row.tobytes(): i for i, row in enumerate(rotations + 0.0)}
    for w_matrix, w in zip(found.rotation, found.translation):
        product = (w_matrix @ found.rotation).reshape(-1, 9) + 0.0
        target = [place.get(row.tobytes(), -1) for row in product]
        if min(target) < 0:
            return False
        off = (found.translation @ w_matrix.T + w)[:, None] - cosets[target]
        if (np.abs(off - np.round(off)).max(-1).min(-1) > tolerance).any():
            return False
    return True
