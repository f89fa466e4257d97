"""`crysjax inputs`: input files of VASP or Quantum ESPRESSO for a batch of crystals, to be run elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from crysjax.terminal import printable, say

PROGRAMS = ("vasp", "qe")


def inputs(
    crystals: str = typer.Argument(help="PATH[:SPLIT] of crystals, such as candidates.extxyz of a campaign."),
    program: str = typer.Option(..., "--for", help="vasp, or qe for Quantum ESPRESSO."),
    out: Path = typer.Option(..., help="Folder: one folder per crystal, named by its id, and manifest.json."),
    top: int | None = typer.Option(None, min=1, help="Only this many crystals from the top of the file."),
    input_set: str = typer.Option("MPRelaxSet", "--set", help="VASP: pymatgen's set, such as MPScanRelaxSet."),
    incar: list[str] = typer.Option([], help="VASP: KEY=VALUE in JSON that changes the set; may be repeated."),
    pseudopotentials: Path = typer.Option(None, help="QE: a folder of .UPF files, or a JSON of element and file."),
    functional: str = typer.Option("PBE", help="QE: functional of the pseudopotentials, for the manifest."),
    cutoff_ev: float = typer.Option(
        816.0, min=1, help="QE: cutoff of the wave functions, eV; check your pseudopotentials."
    ),
    density_cutoff_ev: float = typer.Option(
        6528.0, min=1, help="QE: cutoff of the density, eV; norm-conserving: 4 times --cutoff-ev."
    ),
    kpoint_density: float = typer.Option(5.0, min=0.1, help="QE: k-points per Å⁻¹ along each axis."),
    calculation: str = typer.Option("vc-relax", help="QE: scf, relax or vc-relax."),
) -> None:
    """Write inputs for VASP or Quantum ESPRESSO as the Materials Project computes; POTCARs are named, not written.

    A folder is named after the id of its crystal. An id with capitals gets a `~` and a number that says which letters
    are capitals (MgO~5), since many file systems take MgO and MGO for one name; manifest.json has each id and folder.
    """
    import numpy as np

    from crysjax.data import datasets
    from crysjax.data.readers.part import read_part
    from crysjax.oracles import inputs as input_files

    if program not in PROGRAMS:
        raise ValueError(f"--for {program}: expected one of {', '.join(PROGRAMS)}")
    if program == "qe" and pseudopotentials is None:
        raise ValueError("--for qe: needs --pseudopotentials, a folder of .UPF files or a JSON of element and file")
    dataset = read_part(crystals)
    dataset = datasets.take(dataset, np.arange(min(top or len(dataset), len(dataset))))

    def skipped(name: str, reason: str) -> None:
        say(f"{printable(name)}: {reason}", err=True)

    if program == "vasp":
        input_files.write_vasp(dataset, out, input_set=input_set, incar=dict(map(_setting, incar)), on_skip=skipped)
    else:
        folder = str(pseudopotentials.absolute()) if pseudopotentials.is_dir() else "pseudo"
        input_files.write_espresso(
            dataset, out, pseudopotentials=input_files.pseudopotentials_in(pseudopotentials), functional=functional,
            cutoff_ev=cutoff_ev, density_cutoff_ev=density_cutoff_ev, kpoint_density=kpoint_density,
            calculation=calculation, pseudo_dir=folder, on_skip=skipped,
        )  # fmt: skip
    _said(out, input_files.read_manifest(out))


def _setting(text: str) -> tuple[str, Any]:
    from crysjax.data.readers import reading

    key, equals, value = text.partition("=")
    try:
        return key, reading.parse_json(value) if equals else None
    except ValueError:
        return key, value


def _said(out: Path, manifest: dict[str, Any]) -> None:
    """What was written, at which settings, and what is still needed to run it."""
    lost = f", {len(manifest['left_out'])} left out" if manifest["left_out"] else ""
    rows = manifest["crystals"]
    count = f"{len(rows)} crystal{'s' * (len(rows) != 1)}"
    say(f"{out}: inputs of {manifest['program']} for {count}{lost}; {manifest['source']}")
    spins = sum(any(m not in (0.0, 0.6) for v in row["moments_bohr_magneton"].values() for m in _listed(v))
                for row in rows)  # fmt: skip
    say(f"k-points: {manifest['kpoint_density']}; magnetic at the start: {spins}; level: {manifest['level'].theory}")
    if titles := manifest.get("potcar_titles"):
        say(f"POTCARs needed ({manifest['potcar_functional']}), in the order of each POTCAR.spec: {', '.join(titles)}")
    say(f"{out / 'manifest.json'}: ids, folders, k-points and moments")


def _listed(moments: Any) -> list[float]:
    return moments if isinstance(moments, list) else [moments]
