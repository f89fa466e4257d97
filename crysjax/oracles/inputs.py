"""Input files of DFT programs for a set of crystals, to be run elsewhere: one folder per crystal and a `manifest.json`.

Nothing is run and no licensed file is needed. VASP: the sets by which the Materials Project computes, from pymatgen
(Ong et al. 2013), with `POTCAR.spec` in place of the potentials and the titles of all of them in the manifest. Quantum
ESPRESSO: `pw.in` by ASE with the initial moments of the same sets; without their Hubbard U. The manifest maps ids to
folders (`data.names.of`), and states k-points, moments, source and the level of theory, without which energies read
back compare with nothing.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from crysjax.base import Crystal
from crysjax.chemistry.elements import NUMBERS, formula
from crysjax.chemistry.levels import Level
from crysjax.data import digests, files, names
from crysjax.data.datasets import Dataset, Entry, checked, entries
from crysjax.data.readers import convert, reading

FORMAT = 1
MANIFEST = "manifest.json"
OnSkip = Callable[[str, str], None]  # (id, reason)

VASP_SETS: dict[str, Level] = {
    "MPRelaxSet": Level("PBE and PBE+U (VASP, Materials Project)", "none"),
    "MPStaticSet": Level("PBE and PBE+U (VASP, Materials Project)", "none"),
    "MPScanRelaxSet": Level("r2SCAN (VASP, Materials Project)", "none"),
    "MPScanStaticSet": Level("r2SCAN (VASP, Materials Project)", "none"),
}
"""pymatgen's name of an input set -> the level of theory of what VASP will answer."""


def write_vasp(
    crystals: Dataset | Iterable[Crystal | Entry], folder: str | Path, *, input_set: str = "MPRelaxSet",
    incar: Mapping[str, Any] | None = None, on_skip: OnSkip | None = None,
) -> Path:  # fmt: skip
    """INCAR, KPOINTS, POSCAR and POTCAR.spec of each crystal; returns the manifest's path.

    `incar` changes settings of the set (and so, perhaps, the level of theory: it is noted in the manifest). A crystal
    without inputs is an error; with `on_skip`, which is told its id and the reason, it is left out and listed.
    """
    if input_set not in VASP_SETS:
        raise ValueError(f"inputs: set {input_set!r}; expected one of {', '.join(VASP_SETS)}")

    def write(entry: Entry, place: Path) -> dict[str, Any]:
        from pymatgen.io.vasp import sets

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice about POTCARs that are not here
            made = getattr(sets, input_set)(convert.to_structure(entry), user_incar_settings=dict(incar or {}))
            made.write_input(str(place), potcar_spec=True)
            moments, grid = [float(m) for m in made.incar.get("MAGMOM", [])], made.kpoints
        poscar = place / "POSCAR"
        _, rest = poscar.read_text().split("\n", 1)
        poscar.write_text(f"{names.printable(entry.id)[:200]} {formula(entry.numbers)}\n{rest}")
        sites = [site.specie.symbol for site in made.structure]
        by_element = {s: sorted({m for x, m in zip(sites, moments) if x == s}) for s in dict.fromkeys(sites)}
        points = list(map(int, grid.kpts[0])) if grid is not None else f"KSPACING {made.incar.get('KSPACING')} per Å"
        return {"kpoints": points, "moments_bohr_magneton": by_element, "potcar_titles": list(made.potcar_symbols)}

    config = _config(input_set)
    about = {
        "program": "VASP", "input_set": input_set, "settings": dict(incar or {}), "source": _source(input_set),
        "potcar_functional": config.get("POTCAR_FUNCTIONAL", "PBE"),
        "kpoint_density": config.get("KPOINTS") or f"KSPACING {config['INCAR'].get('KSPACING')} per Å",
    }  # fmt: skip
    return _write(crystals, Path(folder), write, about, VASP_SETS[input_set], on_skip)


def _config(input_set: str) -> Mapping[str, Any]:
    """pymatgen's settings of a set."""
    from pymatgen.io.vasp import sets

    return getattr(sets, input_set).CONFIG


def _source(input_set: str) -> str:
    from importlib.metadata import version

    return f"pymatgen {version('pymatgen')}, pymatgen.io.vasp.sets.{input_set}: as the Materials Project computes"


def write_espresso(
    crystals: Dataset | Iterable[Crystal | Entry], folder: str | Path, *, pseudopotentials: Mapping[str, str],
    functional: str, cutoff_ev: float, density_cutoff_ev: float | None = None, kpoint_density: float = 5.0,
    smearing_ev: float = 0.1, calculation: str = "vc-relax", pseudo_dir: str = "pseudo", on_skip: OnSkip | None = None,
) -> Path:  # fmt: skip
    """`pw.in` of each crystal; returns the manifest's path.

    `functional` is that of the pseudopotentials (element -> file), for the record. `density_cutoff_ev` is four times
    `cutoff_ev` unless given (ultrasoft: eight or more). `kpoint_density` counts points per Å⁻¹ (ASE's convention).
    Crystals with an element to which the Materials Project gives a moment of its own start with spin from that.
    `on_skip` as in `write_vasp`.
    """
    if calculation not in ("scf", "relax", "vc-relax"):
        raise ValueError(f"inputs: calculation {calculation!r}; expected scf, relax or vc-relax")
    settings = {
        "calculation": calculation, "cutoff_ev": cutoff_ev, "density_cutoff_ev": density_cutoff_ev or 4 * cutoff_ev,
        "kpoint_density": kpoint_density, "smearing_ev": smearing_ev, "pseudopotentials": dict(pseudopotentials),
        "pseudo_dir": pseudo_dir,
    }  # fmt: skip
    moments = {k: v for k, v in _config("MPRelaxSet")["INCAR"]["MAGMOM"].items() if k in NUMBERS}

    def write(entry: Entry, place: Path) -> dict[str, Any]:
        text, points, used = _pw_input(entry, settings, moments)
        (place / "pw.in").write_text(text)
        return {"kpoints": points, "moments_bohr_magneton": used}

    about = {
        "program": "Quantum ESPRESSO", "settings": settings, "kpoint_density": f"{kpoint_density:g} points per Å⁻¹",
        "source": f"ASE's writer; initial moments of {_source('MPRelaxSet')}; no Hubbard U, unlike there",
    }  # fmt: skip
    level = Level(f"{functional} (Quantum ESPRESSO, {cutoff_ev:g} eV)", "none")
    return _write(crystals, Path(folder), write, about, level, on_skip)


def pseudopotentials_in(place: str | Path) -> dict[str, str]:
    """Element -> file: of a folder of `.UPF` files whose names begin with the element, or of a JSON mapping.

    Two files of one element are an error that names both.
    """
    place = Path(place)
    if not place.is_dir():
        found = reading.read_json(place)
        if not isinstance(found, dict) or not all(k in NUMBERS and isinstance(v, str) for k, v in found.items()):
            raise ValueError(f'{place}: expected a JSON object of element and file, such as {{"Si": "Si.UPF"}}')
        return found
    found: dict[str, str] = {}
    for file in sorted(place.iterdir()):
        symbol = re.match(r"[A-Za-z]+", file.stem)
        symbol = symbol[0].capitalize() if symbol else ""
        if file.suffix.lower() != ".upf" or symbol not in NUMBERS:
            continue
        if symbol in found:
            raise ValueError(
                f"{place}: {found[symbol]} and {file.name} are both of {symbol}; expected one, or a JSON file"
            )
        found[symbol] = file.name
    if not found:
        raise ValueError(f"{place}: no .UPF file whose name begins with an element")
    return found


def _pw_input(
    entry: Entry, settings: Mapping[str, Any], known: Mapping[str, float]
) -> tuple[str, list[int], dict[str, float]]:
    """The text of `pw.in`, its k-points and moments; an element without a pseudopotential is a ValueError."""
    import io

    from ase.calculators.calculator import kpts2sizeandoffsets
    from ase.io.espresso import write_espresso_in
    from ase.units import Ry

    atoms = convert.to_atoms(entry)
    symbols = atoms.get_chemical_symbols()
    if unknown := sorted(set(symbols) - set(settings["pseudopotentials"])):
        raise ValueError(f"no pseudopotential for {', '.join(unknown)}")
    moments = {symbol: float(known[symbol]) for symbol in sorted(set(symbols) & set(known))}
    if moments:
        atoms.set_initial_magnetic_moments([moments.get(symbol, 0.0) for symbol in symbols])
    data = {
        "calculation": settings["calculation"], "pseudo_dir": settings["pseudo_dir"], "tprnfor": True, "tstress": True,
        "ecutwfc": settings["cutoff_ev"] / Ry, "ecutrho": settings["density_cutoff_ev"] / Ry,
        "occupations": "smearing", "smearing": "cold", "degauss": settings["smearing_ev"] / Ry,
    }  # fmt: skip
    used = {symbol: settings["pseudopotentials"][symbol] for symbol in set(symbols)}
    points, _ = kpts2sizeandoffsets(density=settings["kpoint_density"], atoms=atoms)
    points, text = [int(n) for n in points], io.StringIO()
    write_espresso_in(text, atoms, input_data=data, pseudopotentials=used, kpts=points)
    return text.getvalue(), points, moments


def _write(
    crystals: Dataset | Iterable[Crystal | Entry], folder: Path, write: Callable[[Entry, Path], dict[str, Any]],
    about: dict, level: Level, on_skip: OnSkip | None,
) -> Path:  # fmt: skip
    """A folder a crystal, each whole or not at all; the manifest comes last, so that it names only what is there."""
    given = entries(crystals) if isinstance(crystals, Dataset) else [convert.as_entry(c) for c in crystals]
    found = [entry._replace(id=entry.id or f"crystal-{i}") for i, entry in enumerate(given)]
    ids = [entry.id for entry in found]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ValueError(f"inputs: two crystals of the id {twice!r}; expected each once")
    rows, left_out = [], []
    with files.alone(folder):
        for entry in found:
            try:
                rows.append(_one(entry, folder, write))
            except ValueError as error:
                if on_skip is None:
                    raise ValueError(f"inputs: crystal {entry.id!r}: {error}") from None
                on_skip(entry.id, str(error))
                left_out.append({"id": entry.id, "reason": str(error)})
        if not rows:
            raise ValueError(f"inputs: none of {len(found)} crystals could be written")
        titles = sorted({title for row in rows for title in row.get("potcar_titles", ())})
        more = {"potcar_titles": titles} if titles else {}
        manifest = {"format": FORMAT, **about, **more, "level": level._asdict(), "left_out": left_out, "crystals": rows}
        return files.write(folder / MANIFEST, digests.sealed_json(json.dumps(manifest, indent=1, ensure_ascii=False)))


def _one(entry: Entry, folder: Path, write: Callable[[Entry, Path], dict[str, Any]]) -> dict[str, Any]:
    place = folder / names.of(entry.id)
    checked(entry)
    with files.whole(place, folder=True) as partial:
        said = write(entry, partial)
    return {"id": entry.id, "folder": place.name, "formula": formula(entry.numbers), "atoms": len(entry.numbers)} | said


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a folder, with its level as a `Level`; anything else is a ValueError."""
    path = Path(folder) / MANIFEST
    try:
        found = digests.read_json(path)
        if found["format"] != FORMAT:
            raise ValueError(f"format {found['format']}, this version reads format {FORMAT}")
        return found | {"level": Level(**found["level"])}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: no manifest of inputs ({type(error).__name__}: {error})") from None
