"""The cells that generators see: primitive, Niggli-reduced and right-handed, whatever file the crystals came from.

A generator is a distribution over cells with their coordinates, and the fully connected network reads the axes one by
one: both are functions of a crystal only where every crystal comes in one cell. Potentials learn energies, forces and
stresses of cells as they are given, and property heads have networks that no choice of the cell changes: neither is
asked here. Positions are not turned in space, so labels of sites stay with their atoms.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from crysjax.terminal import printable, say

if TYPE_CHECKING:
    from crysjax.data.datasets import Dataset

KIND = "primitive, Niggli-reduced, right-handed"
SHOWN = 3  # ids in a line


def standard(what: str, *parts: Dataset) -> tuple[list[Dataset], str]:
    """The parts in standard cells (`crystallography.standard_cells`), and a line about what changed; "" if nothing did.

    The line goes to standard error after `what`.
    """
    from crysjax.crystallography import standard_cells

    found = [standard_cells.counted(part) for part in parts]
    line = told([counts for _, counts in found], sum(map(len, parts)))
    if line:
        say(f"crysjax: {what}: {line}", err=True)
    return [part for part, _ in found], line


def told(counts: list[Mapping[str, Any]], total: int) -> str:
    """What `standard_cells.counted` did to all parts, in one line; "" if nothing is to be said."""
    smaller, changed = (sum(c[key] for c in counts) for key in ("made_primitive", "changed"))
    stayed = [name for c in counts for name in c["not_reduced"]]
    said = []
    if smaller + changed:
        said.append(f"{smaller + changed} of {total} crystals were given another cell, {KIND}; {smaller} of these have "
                    "fewer atoms there")  # fmt: skip
    if stayed:
        names = ", ".join(map(printable, stayed[:SHOWN])) + (", ..." if len(stayed) > SHOWN else "")
        said.append(f"{len(stayed)} of {total} have no such cell and stay as they are: {names}")
    for name in sorted({name for c in counts for name in c["site_properties_dropped"]}):
        rows = sum(c["site_properties_dropped"].get(name, 0) for c in counts)
        said.append(f"{printable(name)} is missing now in {rows} of them, whose merged atoms differ in it")
    return "; ".join(said)


def of_training(settings: Mapping[str, Any], part: Dataset, held_out: Dataset) -> tuple[list[Dataset], str]:
    """Both parts as a generator of these settings trains on them, and the line of `standard`.

    Pairs of a start and a truth share the start's cell, so they are reduced before they are paired or not at all.

    Raises:
        ValueError: pairs whose crystals were not reduced, or for a family that does not learn from pairs.
    """
    paired = "start_frac" in part.site_properties
    retrieval = settings.get("family") == "retrieval"
    if paired and not retrieval:
        raise ValueError("data: pairs of a start and a truth, which the retrieval-based flow alone learns from")
    if paired and "cells" not in part.provenance:
        raise ValueError(
            f"data: pairs made from cells as they were given; expected {KIND} ones: make them again with "
            "`crysjax data pairs`"
        )
    return ([part, held_out], "") if retrieval else standard("cells", part, held_out)
