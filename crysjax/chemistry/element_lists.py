"""Lists of elements by name, as plans and commands take them beside symbols.

They are for screening: a list says nothing of what an element costs or does in a given compound.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from crysjax.chemistry.elements import NUMBERS, SYMBOLS

_ABUNDANT = """
O Si Al Fe Ca Na Mg K Ti H P Mn F Ba Sr S C Zr Cl V Cr Rb Ni Zn Ce Cu N
"""
_HAZARDOUS = ("Be", "Cr", "Ni", "As", "Cd", "Hg", "Tl", "Pb")
_UNSTABLE = ("Tc", "Pm", *SYMBOLS[NUMBERS["Po"] - 1 :])

LISTS: Mapping[str, tuple[str, ...]] = {
    "all": SYMBOLS,
    "earth-abundant": tuple(_ABUNDANT.split()),
    "non-toxic": tuple(s for s in SYMBOLS if s not in (*_HAZARDOUS, *_UNSTABLE)),
}
"""Name -> symbols.

* all: H to Fm.
* earth-abundant: at least 50 mg/kg of the Earth's crust (CRC Handbook of Chemistry and Physics, "Abundance of Elements
  in the Earth's Crust and in the Sea"), and nitrogen, of which the air is made.
* non-toxic: all but
  - As, Cd, Hg, Pb: World Health Organization, "10 chemicals of public health concern", 2020;
  - Be, Cr, Ni: with As and Cd the metals in group 1 of IARC Monographs volume 100C, 2012, Cr and Ni by compounds;
  - Tl: compounds fatal if swallowed by Regulation (EC) No 1272/2008, annex VI;
  - elements without a stable isotope, Bi counting as stable.
"""


def expanded(symbols: Iterable[str]) -> tuple[str, ...]:
    """Symbols and names of lists as symbols, each once, in the order of the periodic table."""
    found = {one for symbol in symbols for one in LISTS.get(symbol, (symbol,))}
    return tuple(sorted(found, key=NUMBERS.__getitem__))
