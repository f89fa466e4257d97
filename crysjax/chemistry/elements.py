"""Element symbols and chemical formulas of host arrays, without any chemistry package."""

from __future__ import annotations

from math import gcd

import numpy as np

_PERIODIC_TABLE = """
H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr
Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir
Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm
"""
SYMBOLS: tuple[str, ...] = tuple(_PERIODIC_TABLE.split())
"""`SYMBOLS[z - 1]` is the symbol of atomic number `z`, from H (1) to Fm (100)."""

NUMBERS: dict[str, int] = {symbol: z for z, symbol in enumerate(SYMBOLS, start=1)}


def atomic_number(symbol: str) -> int:
    """The atomic number of a symbol; anything that is not an element up to Fm is an error."""
    if symbol not in NUMBERS:
        raise ValueError(f"element: {symbol!r} is not a chemical element from H to Fm")
    return NUMBERS[symbol]


def isotope_number(symbol: str) -> int:
    """The atomic number of an element's symbol, or of D and T: hydrogen is written so where its isotope matters."""
    return 1 if symbol in ("D", "T") else atomic_number(symbol)


def counts(numbers: np.ndarray, *, reduce: bool = True) -> dict[int, int]:
    """Atoms of each atomic number, divided by their common divisor unless `reduce` is off."""
    found, number_of = np.unique(np.asarray(numbers), return_counts=True)
    divisor = gcd(*number_of.tolist()) if reduce else 1
    return {int(z): int(c) // divisor for z, c in zip(found, number_of)}


def formula(numbers: np.ndarray, *, reduce: bool = True) -> str:
    """The formula with symbols in alphabetical order, such as `Cl1Na1` -> `"ClNa"`; reduced unless told otherwise."""
    pairs = sorted((SYMBOLS[z - 1], c) for z, c in counts(numbers, reduce=reduce).items())
    return "".join(symbol if c == 1 else f"{symbol}{c}" for symbol, c in pairs)


def anonymous_formula(numbers: np.ndarray, *, reduce: bool = True) -> str:
    """The stoichiometry without the elements, smallest count first: CaTiO3 -> `"ABC3"`."""
    ordered = sorted(counts(numbers, reduce=reduce).values())
    letters = (chr(ord("A") + i) if i < 26 else f"X{i}" for i in range(len(ordered)))
    return "".join(letter if c == 1 else f"{letter}{c}" for letter, c in zip(letters, ordered))
