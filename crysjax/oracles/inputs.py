"""Input files of DFT programs for a set of crystals, to be run elsewhere: one folder per crystal and a `manifest.json`.

Nothing is run and no licensed file is needed. VASP: the sets by which the Materials Project computes, from pymatgen
(Ong et al. 2013), with `POTCAR.spec` in place of the potentials. Quantum ESPRESSO: `pw.in` by ASE. The manifest maps
ids to folders and names the level of theory, without which energies read back compare with nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from crysjax.base import Crystal
from crysjax.chemistry.elements import formula
from crysjax.chemistry.levels import Level
from crysjax.data import files, names
from crysjax.data.datasets import Dataset, Entry, checked, entries
from crysjax.data.readers import convert, reading

FORMAT = 1
MANIFEST = "manifest.json"

VASP_SETS: dict[str, Level] = {
    "MPRelaxSet": Level("PBE and PBE+U (VASP, Materials Project)", "none"),
    "MPStaticSet": Level("PBE and PBE+U (VASP, Materials Project)", "none"),
    "MPScanRelaxSet": Level("r2SCAN (VASP, Materials Project)", "none"),
    "MPScanStaticSet": Level("r2SCAN (VASP, Materials Project)", "none"),
}
"""pymatgen's name of an input set -> the level of theory of what VASP will answer."""


def write_vasp(
    crystals: Dataset | Iterable[Crystal | Entry], folder: str | Path, *, input_set: str = "MPRelaxSet",
    incar: Mapping[str, Any] | None = None,
) -> Path:  # fmt: skip
    """INCAR, KPOINTS, POSCAR and POTCAR.spec of each crystal; returns the manifest's path.

    `incar` changes settings of the set (and so, perhaps, the level of theory: it is noted in the manifest).
    """
    if input_set not in VASP_SETS:
        raise ValueError(f"inputs: set {input_set!r}; expected one of {', '.join(VASP_SETS)}")

    def write(entry: Entry, place: Path) -> None:
        from pymatgen.io.vasp import sets

        made = getattr(sets, input_set)(convert.to_structure(entry), user_incar_settings=dict(incar or {}))
        made.write_input(str(place), potcar_spec=True)

    about = {"program": "VASP", "input_set": input_set, "settings": dict(incar or {})}
    return _write(crystals, Path(folder), write, about, VASP_SETS[input_set])


def write_espresso(
    crystals: Dataset | Iterable[Crystal | Entry], folder: str | Path, *, pseudopotentials: Mapping[str, str],
    functional: str, cutoff_ev: float, density_cutoff_ev: float | None = None, kpoint_density: float = 5.0,
    smearing_ev: float = 0.1, calculation: str = "vc-relax",
) -> Path:  # fmt: skip
    """`pw.in` of each crystal; returns the manifest's path.

    `functional` is that of the pseudopotentials (element -> file), for the record. `density_cutoff_ev` is four times
    `cutoff_ev` unless given (ultrasoft: eight or more). `kpoint_density` counts points per Å⁻¹ (ASE's convention).
    """
    if calculation not in ("scf", "relax", "vc-relax"):
        raise ValueError(f"inputs: calculation {calculation!r}; expected scf, relax or vc-relax")
    settings = {
        "calculation": calculation, "cutoff_ev": cutoff_ev, "density_cutoff_ev": density_cutoff_ev or 4 * cutoff_ev,
        "kpoint_density": kpoint_density, "smearing_ev": smearing_ev, "pseudopotentials": dict(pseudopotentials),
    }  # fmt: skip

    def write(entry: Entry, place: Path) -> None:
        (place / "pw.in").write_text(_pw_input(entry, settings))

    about = {"program": "Quantum ESPRESSO", "settings": settings}
    level = Level(f"{functional} (Quantum ESPRESSO, {cutoff_ev:g} eV)", "none")
    return _write(crystals, Path(folder), write, about, level)


def _pw_input(entry: Entry, settings: Mapping[str, Any]) -> str:
    """The text of `pw.in`; an element without a pseudopotential is a ValueError."""
    import io

    from ase.io.espresso import write_espresso_in
    from ase.units import Ry

    atoms = convert.to_atoms(entry)
    unknown = sorted(set(atoms.get_chemical_symbols()) - set(settings["pseudopotentials"]))
    if unknown:
        raise ValueError(f"no pseudopotential for {', '.join(unknown)}")
    data = {
        "calculation": settings["calculation"], "pseudo_dir": "pseudo", "tprnfor": True, "tstress": True,
        "ecutwfc": settings["cutoff_ev"] / Ry, "ecutrho": settings["density_cutoff_ev"] / Ry,
        "occupations": "smearing", "smearing": "cold", "degauss": settings["smearing_ev"] / Ry,
    }  # fmt: skip
    used = {symbol: settings["pseudopotentials"][symbol] for symbol in set(atoms.get_chemical_symbols())}
    text, spacing = io.StringIO(), 1 / (2 * math.pi * settings["kpoint_density"])
    write_espresso_in(text, atoms, input_data=data, pseudopotentials=used, kspacing=spacing)
    return text.getvalue()


def _write(
    crystals: Dataset | Iterable[Crystal | Entry], folder: Path, write: Callable[[Entry, Path], None], about: dict,
    level: Level,
) -> Path:  # fmt: skip
    """A folder a crystal, each whole or not at all; the manifest comes last, so that it names only what is there."""
    given = entries(crystals) if isinstance(crystals, Dataset) else [convert.as_entry(c) for c in crystals]
    found = [entry._replace(id=entry.id or f"crystal-{i}") for i, entry in enumerate(given)]
    ids = [entry.id for entry in found]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"inputs: two crystals of the id {twice!r}; expected each once")
    with files.alone(folder):
        rows = [_one(entry, folder, i, len(found), write) for i, entry in enumerate(found)]
        manifest = {"format": FORMAT, **about, "level": level._asdict(), "crystals": rows}
        return files.write(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def _one(entry: Entry, folder: Path, index: int, count: int, write: Callable[[Entry, Path], None]) -> dict[str, Any]:
    place = folder / f"{index:0{len(str(count))}d}_{names.of(entry.id)}"
    try:
        checked(entry)
        with files.whole(place, folder=True) as partial:
            write(entry, partial)
    except ValueError as error:
        raise ValueError(f"inputs: crystal {entry.id!r}: {error}") from None
    return {"id": entry.id, "folder": place.name, "formula": formula(entry.numbers), "atoms": len(entry.numbers)}


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder, with its level as a `Level`; anything else is a ValueError."""
    path = Path(folder) / MANIFEST
    try:
        found = reading.read_json(path)
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}, this version reads format {FORMAT}")
        return found | {"level": Level(**found["level"])}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no manifest of inputs ({type(error).__name__}: {error})") from None
