"""Known structures that need no file: the AFLOW library of crystallographic prototypes, as pymatgen ships it.

288 structure types with the elements of an example (Mehl et al. 2017; Hicks et al. 2019), from rock salt and perovskite
to zircon and ilmenite. Cite them where they are used.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crysjax.chemistry.elements import SYMBOLS

if TYPE_CHECKING:
    from crysjax.data.datasets import Dataset

NAME = "aflow-prototypes"
"""What is written in place of a path."""

PACKAGE, FILE = "pymatgen.analysis.prototypes", "aflow_prototypes.json.gz"


def prototypes() -> Dataset:
    """The prototypes; ids are AFLOW's labels, such as AB3C_cP5_221_a_c_b, numbered where they repeat.

    The file is read as it is: importing the package that holds it takes ten seconds.
    """
    from crysjax.data import datasets
    from crysjax.data.readers import reading

    made, seen = [], dict[str, int]()
    for one in reading.read_json(_file()):
        label, sites = str(one["tags"]["aflow"]), one["snl"]["sites"]
        seen[label] = seen.get(label, 0) + 1
        numbers = np.array([SYMBOLS.index(site["species"][0]["element"]) + 1 for site in sites])
        frac, cell = np.array([site["abc"] for site in sites]), np.array(one["snl"]["lattice"]["matrix"])
        made.append(datasets.Entry(f"{label}-{seen[label]}" if seen[label] > 1 else label, numbers, frac, cell, {}))
    about = "AFLOW library of crystallographic prototypes (Mehl et al. 2017; Hicks et al. 2019), from pymatgen"
    return datasets.from_entries(made, provenance={"prototypes": about})


def _file() -> Path:
    """Where pymatgen keeps them; an error if this version has them elsewhere."""
    found = find_spec(PACKAGE)
    places = [Path(place) / FILE for place in (found.submodule_search_locations or [])] if found else []
    if not places or not places[0].is_file():
        raise ValueError(f"{NAME}: this version of pymatgen has no {FILE} in {PACKAGE}; expected a path of structures")
    return places[0]
