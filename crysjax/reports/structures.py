"""A crystal as people look at it: which atoms, bonds and polyhedra are drawn, and the facts beside the drawing.

All of the geometry is made here; the scripts of the page only turn and paint it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from crysjax.chemistry.element_properties import G_CM3_PER_AMU_ANGSTROM3, cell_masses_amu
from crysjax.chemistry.elements import SYMBOLS
from crysjax.crystallography import bonds as bonding
from crysjax.crystallography import structure_types, symmetry_finder
from crysjax.crystallography.bonds import Bonds
from crysjax.crystallography.contacts import radii_angstrom
from crysjax.crystallography.standard_cells import Conventional, conventional
from crysjax.data.datasets import Entry
from crysjax.data.readers.cif import parameters
from crysjax.geometry.torus import AROUND

EDGE_ANGSTROM = 0.1  # an atom this close to a face of the cell is drawn on all images of that face
BALL = 0.42  # of the covalent radius
FEWEST_CORNERS = 4
NO_BONDS = "bonds are not drawn: too many atoms lie within reach of one another"


class Structure(NamedTuple):
    """A crystal in its conventional cell, with its bonds."""

    cell: Conventional
    frac: np.ndarray  # (n, 3) of its sites as they are drawn, from the origin of `drawn_from`
    bonds: Bonds  # between these


def structure(numbers: np.ndarray, frac: np.ndarray, lattice: np.ndarray) -> Structure:
    """The conventional cell, by the symmetry that the CIF has too, and its bonds."""
    cell = conventional(Entry("", numbers, frac, lattice, {}))
    frac = drawn_from(cell)
    return Structure(cell, frac, bonding.bonds(cell.numbers, frac, cell.lattice))


def drawable(numbers: np.ndarray, frac: np.ndarray, lattice: np.ndarray) -> bool:
    """Whether there is a crystal to draw: finite positions in a cell with a volume."""
    try:
        symmetry_finder.checked_cell((lattice, frac, numbers))
    except ValueError:
        return False
    return True


Image = tuple[int, int, int, int]  # site and cell


def closed_cell(frac: np.ndarray, lattice: np.ndarray) -> list[Image]:
    """All images of sites in the cell, faces, edges and corners included."""
    margin = EDGE_ANGSTROM * np.linalg.norm(np.linalg.inv(lattice), axis=0)
    place = np.asarray(frac, float)[:, None] + AROUND[None]
    site, image = np.nonzero(((place >= -margin) & (place <= 1 + margin)).all(-1))
    return [(int(s), *map(int, AROUND[k])) for s, k in zip(site, image)]


def drawn_from(cell: Conventional) -> np.ndarray:
    """Fractions (n, 3) of the cell as it is drawn: from an atom where the second choice of origin has none on a face.

    Diamond has its atoms at an eighth of the diagonal then, and nobody would know it again.
    """
    margin = EDGE_ANGSTROM * np.linalg.norm(np.linalg.inv(cell.lattice), axis=0)
    if not cell.setting.endswith(":2") or (np.abs(cell.frac - np.round(cell.frac)) <= margin).any():
        return cell.frac
    return (cell.frac - cell.frac[0] + 1e-9) % 1.0 - 1e-9


def scene(found: Structure) -> dict[str, Any]:
    """What the page paints, lengths in whole hundredths of an Å about the middle of the cell.

    `elements`: symbol, color (Jmol's) and radius; `cell`: a, b, c; `atoms`: element, x, y, z, flat, first the `inside`
    ones of the closed cell, then those outside that these are bound to; `bonds`: pairs of atoms, flat, the first one
    inside; `polyhedra`: the atom in the middle, then the rings of its faces; `kinds`: of each element that has
    polyhedra, what they are; `group`: of the crystal; `note`: what is not drawn.
    """
    cell, near = found.cell, bonding.neighbors(found.bonds)
    inside = closed_cell(found.frac, cell.lattice)
    index, pairs = {image: k for k, image in enumerate(inside)}, []
    for k, image in enumerate(inside):
        for other, shift, _ in near[image[0]]:
            target = index.setdefault(_moved(other, image, shift), len(index))
            if k < target:  # from both ends otherwise
                pairs += [k, target]
    images = np.array([*index], int).reshape(-1, 4)
    place = (found.frac[images[:, 0]] + images[:, 1:] - 0.5) @ cell.lattice
    present, element = np.unique(cell.numbers, return_inverse=True)
    rows = np.column_stack([element.reshape(-1)[images[:, 0]], np.round(100 * place)]).astype(int)
    solids, kinds = _polyhedra(found, near, inside, index)
    return {
        "elements": [[SYMBOLS[z - 1], color(z), round(100 * BALL * float(radii_angstrom()[z - 1]))] for z in present],
        "cell": np.round(100 * cell.lattice).astype(int).tolist(), "inside": len(inside),
        "atoms": rows.reshape(-1).tolist(), "bonds": pairs, "polyhedra": solids, "kinds": kinds,
        "group": f"{cell.symbol} ({cell.number})", "note": "" if found.bonds.complete else NO_BONDS,
    }  # fmt: skip


def _moved(site: int, image: Image, shift: Sequence[int]) -> Image:
    return site, image[1] + shift[0], image[2] + shift[1], image[3] + shift[2]


def _polyhedra(found: Structure, near: list, inside: list[Image], index: dict[Image, int]) -> tuple[list, dict]:
    """Of each cation in the closed cell its polyhedron of anions: the atom and the rings of faces; and their names."""
    cell, anion, solids, names = found.cell, found.bonds.anion, [], {}
    for site in np.flatnonzero(~anion).tolist() if anion.any() else []:
        if len(near[site]) < FEWEST_CORNERS:
            continue
        corners = np.array([(found.frac[j] + shift - found.frac[site]) @ cell.lattice for j, shift, _ in near[site]])
        rings = bonding.faces(corners)
        names.setdefault(SYMBOLS[cell.numbers[site] - 1], {})[_around(cell.numbers, near, site)] = None
        for k, image in enumerate(inside):
            if image[0] == site:
                at = [index[_moved(j, image, shift)] for j, shift, _ in near[site]]
                solids.append([k, *([at[c] for c in ring] for ring in rings)])
    return solids, {symbol: ", ".join(of) for symbol, of in names.items()}


def _around(numbers: np.ndarray, near: list, site: int) -> str:
    """The atom and its neighbors as a formula: TiO6."""
    held = Counter(SYMBOLS[numbers[j] - 1] for j, _, _ in near[site])
    return SYMBOLS[numbers[site] - 1] + "".join(s + (str(n) if n > 1 else "") for s, n in sorted(held.items()))


def color(number: int) -> str:
    """Jmol's color of an element."""
    from ase.data.colors import jmol_colors

    return "#" + "".join(f"{round(255 * c):02x}" for c in jmol_colors[number])


def as_json(scenes: Iterable[dict[str, Any]]) -> str:
    """Scenes as text that can stand inside a page."""
    return json.dumps(list(scenes), separators=(",", ":")).replace("</", "<\\/")


class Site(NamedTuple):
    """An orbit of equivalent sites."""

    symbol: str
    wyckoff: str  # multiplicity and letter: 3c
    frac: np.ndarray  # (3,) of its first site
    around: str  # neighbors with the range of their distances


def sites(found: Structure) -> list[Site]:
    """The orbits of a crystal, in the order of the cell."""
    cell, near, out = found.cell, bonding.neighbors(found.bonds), []
    _, first, count = np.unique(cell.orbit, return_index=True, return_counts=True)
    for k in np.argsort(first):
        site = int(first[k])
        symbol = SYMBOLS[cell.numbers[site] - 1]
        out.append(Site(symbol, f"{count[k]}{cell.wyckoff[site]}", cell.frac[site], _neighbors(cell, near[site])))
    return out


def _neighbors(cell: Conventional, near: list) -> str:
    """ "6 O at 1.95 Å"."""
    parts = []
    for z in sorted({int(cell.numbers[j]) for j, _, _ in near}):
        d = sorted(d for j, _, d in near if cell.numbers[j] == z)
        reach = f"{d[0]:.2f}" if f"{d[0]:.2f}" == f"{d[-1]:.2f}" else f"{d[0]:.2f} to {d[-1]:.2f}"
        parts.append(f"{len(d)} {SYMBOLS[z - 1]} at {reach} Å")
    return "; ".join(parts) or "none near enough"


def cell_facts(found: Structure) -> dict[str, str]:
    """Structure type where symmetry decides it, Pearson symbol, cell, density and contents, in words."""
    cell = found.cell
    lengths, angles = parameters(cell.lattice)
    volume = abs(float(np.linalg.det(cell.lattice)))
    name = structure_types.type_name(cell)
    return {
        **({"structure type": name} if name else {}),
        "Pearson symbol": structure_types.pearson(cell),
        "a, b, c": ", ".join(f"{x:.3f}" for x in lengths) + " Å",
        "α, β, γ": ", ".join(f"{x:.2f}" for x in angles) + "°",
        "setting": f"{cell.setting}, atoms moved by at most {cell.moved_angstrom:.3f} Å to fit the symmetry",
        "volume": f"{volume:.2f} Å³, {len(cell.numbers)} atoms",
        "density": f"{density_g_cm3(found):.2f} g/cm³",
    }


def density_g_cm3(found: Structure) -> float:
    """Mass over volume."""
    (mass,) = cell_masses_amu(found.cell.numbers, np.array([len(found.cell.numbers)]))
    return float(mass / abs(np.linalg.det(found.cell.lattice)) * G_CM3_PER_AMU_ANGSTROM3)
