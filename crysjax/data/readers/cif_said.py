"""What a CIF block says of its sites and a crystal does not keep: oxidation states, moments, displacements, others.

Core dictionary (https://www.iucr.org/resources/cif) and what programs add to it: pymatgen writes site properties, and
others partial charges, as further columns of `_atom_site_`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from crysjax.data.lost import MOST_NAMES
from crysjax.data.readers.cif_syntax import MISSING, Block, number

Columns = dict[str, list[str]]  # data name -> values

_SITE, _ANISO, _MOMENT = "_atom_site_", "_atom_site_aniso_", "_atom_site_moment_"
_DISPLACEMENT = re.compile(r"(u|b)_(iso|equiv|iso_or_equiv)(_geom_mean)?|aniso_(u|b|ratio)\w*")
_READ_OR_REPEATED = re.compile(
    r"label|type_symbol|fract_[xyz]|cartn_[xyz]|occupancy|attached_hydrogens|calc_flag|calc_attached_atom"
    r"|(site_)?symmetry_(multiplicity|order)|wyckoff_(symbol|letter)|site_symmetry|chemical_conn_number|description"
    r"|constraints|restraints|refinement_flags\w*|adp_type|thermal_displace_type|disorder_(assembly|group)|id"
    r"|label_component_\d|aniso_(label|type_symbol)|moment_label|\w*_(su|esd)"
    r"|(auth|label|pdbx)_\w+|group_pdb"
)
"""Columns that the reader uses, that repeat what it knows, or that tell how a refinement went."""


def of_sites(block: Block, labels: list[str], types: list[str | None]) -> list[frozenset[str]]:
    """What is said of every site, by name. A damaged loop of such columns is passed over: it damages no crystal."""
    columns = {name: values for name, values in block.columns.items() if name not in block.ragged}
    said = [set(names) for names in _oxidation(columns, labels, types)]
    for what, marked in _marked(columns, labels):
        for i in marked:
            said[i].add(what)
    return [frozenset(names) for names in said]


def _oxidation(columns: Columns, labels: list[str], types: list[str | None]) -> Iterator[set[str]]:
    """Sites whose type has a charge in its symbol (`Fe3+`) or an oxidation number in the table of types."""
    table = list(zip(columns.get("_atom_type_symbol", ()), columns.get("_atom_type_oxidation_number", ())))
    known = {_element(name): _says(state) for name, state in table}  # sites of type Fe under a table of Fe3+
    known |= {name.lower(): _says(state) for name, state in table}
    for label, kind in zip(labels, types):
        symbol = label if kind is None or kind in MISSING else kind
        stated = known.get(symbol.lower(), known.get(_element(symbol)))
        yield {"oxidation states"} if stated or charged(symbol) else set()


def _element(symbol: str) -> str:
    return re.match(r"\d*[A-Za-z]*", symbol)[0].lower()


def charged(symbol: str) -> bool:
    """Whether a type symbol has a charge that is not zero: `Fe3+`, `O-2`, `Na+`; not `Fe0+`, `C1`."""
    match = re.fullmatch(r"\d{0,3}[A-Za-z]{1,2}(?:(\d*\.?\d*)[+-]|[+-](\d*\.?\d*))", symbol.strip()[:20])
    return bool(match) and (match[1] or match[2] or "1").strip("0.") != ""


def _marked(columns: Columns, labels: list[str]) -> Iterator[tuple[str, list[int]]]:
    """Names, and the sites of which the columns under them say something."""
    places: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        places.setdefault(label, []).append(i)
    rest = [name for name in columns if name.startswith(_SITE)]
    rest = [name for name in rest if not _READ_OR_REPEATED.fullmatch(name.removeprefix(_SITE))]
    for name in rest[: 10 * MOST_NAMES]:
        says = [i for i, value in enumerate(columns[name]) if _says(value)]
        if loop := next((part for part in (_ANISO, _MOMENT) if name.startswith(part)), None):
            of = columns.get(f"{loop}label", [])
            says = [place for i in says for place in places.get(of[i] if i < len(of) else "", ())]
        yield _what(name), [i for i in says if i < len(labels)]


def _what(name: str) -> str:
    plain = name.removeprefix(_SITE)
    if name.startswith(_MOMENT):
        return "magnetic moments"
    return "displacement parameters" if _DISPLACEMENT.fullmatch(plain) else plain[:60]


def _says(value: str) -> bool:
    """Whether a value is more than nothing: not missing, and no zero."""
    try:
        return value not in MISSING and number(value) != 0
    except ValueError:
        return True
