"""Names of calculators: what a worker makes of them, at which level of theory they answer, and what they need.

    known = named("chgnet")
    workplace = host(known.make, settings=known.settings)

The factories below run inside workers and take settings whose names carry units. `named` looks before a worker starts
whether the program or package is there. `NAME+d3` adds the dispersion energy D3(BJ) of Grimme et al. (2011).
"""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from crysjax.chemistry.levels import Level
from crysjax.data.readers import reading

if TYPE_CHECKING:
    from ase.calculators.calculator import BaseCalculator

RYDBERG_EV = 13.605693
DEBIAN_PSEUDOPOTENTIALS = "/usr/share/espresso/pseudo"
MP2020 = "MaterialsProject2020Compatibility"


class Known(NamedTuple):
    """What `host` needs of a calculator, and what its energies compare with."""

    make: str
    settings: dict[str, Any]
    level: Level


# Factories, called inside a worker


def emt() -> BaseCalculator:
    """Effective medium theory (Jacobsen et al. 1996): Al, Cu, Ag, Au, Ni, Pd, Pt; fast, for tests and lessons."""
    from ase.calculators.emt import EMT

    return EMT()


def lennard_jones(*, sigma_angstrom: float, epsilon_ev: float, cutoff_angstrom: float) -> BaseCalculator:
    """One pair potential for all elements, shifted to be continuous at the cutoff."""
    from ase.calculators.lj import LennardJones

    return LennardJones(sigma=sigma_angstrom, epsilon=epsilon_ev, rc=cutoff_angstrom)


def potential(*, path: str) -> BaseCalculator:
    """A potential of this package from its file, or a Nequix file."""
    from crysjax.potentials.ase import calculator
    from crysjax.potentials.mlip import load_potential

    return calculator(*load_potential(path))


def chgnet(*, model: str = "0.3.0", device: str = "cpu") -> BaseCalculator:
    """CHGNet (Deng et al. 2023) by its own package, with the weights that it ships: "0.3.0" or "r2scan"."""
    from chgnet.model import CHGNet
    from chgnet.model.dynamics import CHGNetCalculator

    return CHGNetCalculator(CHGNet.load(model_name=model, use_device=device, verbose=False), use_device=device)


def dispersed(*, base: str, settings: dict[str, Any], functional: str = "PBE") -> BaseCalculator:
    """Another calculator plus D3 with Becke-Johnson damping, in the parameters of a functional (simple-dftd3)."""
    from ase.calculators.mixing import SumCalculator
    from dftd3.ase import DFTD3

    return SumCalculator([FACTORIES[base](**settings), DFTD3(method=functional, damping="d3bj")])


def espresso(
    *, pseudopotentials: Mapping[str, str], cutoff_ev: float, density_cutoff_ev: float | None = None,
    kpoints: tuple[int, int, int] | None = None, kpoint_density: float = 4.0, smearing_ev: float = 0.05,
    pseudo_dir: str = DEBIAN_PSEUDOPOTENTIALS, command: str = "pw.x", input_data: Mapping[str, Any] | None = None,
) -> BaseCalculator:  # fmt: skip
    """Plane-wave DFT by pw.x of Quantum ESPRESSO (Giannozzi et al. 2017), without spin unless `input_data` says so.

    The pseudopotentials (element -> file) fix the functional. `density_cutoff_ev` is four times `cutoff_ev` unless
    given; ultrasoft ones need eight or more. `kpoints` is a Monkhorst-Pack grid, else `kpoint_density` points per Å⁻¹
    (ASE's convention). The energy is that of pw.x: with Gaussian smearing, free of -TS/2 only where there is a gap.
    """
    from ase.calculators.espresso import Espresso, EspressoProfile

    grid = {"kpts": tuple(kpoints)} if kpoints else {"kspacing": 1 / (2 * math.pi * kpoint_density)}
    data = {
        "calculation": "scf", "tprnfor": True, "tstress": True, "occupations": "smearing", "smearing": "gaussian",
        "degauss": smearing_ev / RYDBERG_EV, "ecutwfc": cutoff_ev / RYDBERG_EV,
        "ecutrho": (density_cutoff_ev or 4 * cutoff_ev) / RYDBERG_EV, "conv_thr": 1e-8,
    }  # fmt: skip
    return Espresso(
        profile=EspressoProfile(command, pseudo_dir), pseudopotentials=dict(pseudopotentials),
        input_data=data | dict(input_data or {}), **grid,
    )  # fmt: skip


def gpaw(
    *, functional: str = "PBE", cutoff_ev: float = 400.0, kpoints: tuple[int, int, int] | None = None,
    kpoint_density: float = 4.0, smearing_ev: float = 0.05, python: str = "", derivatives: bool = True,
    parameters: Mapping[str, Any] | None = None,
) -> BaseCalculator:  # fmt: skip
    """Plane-wave PAW by GPAW (Mortensen et al. 2024) in any interpreter that has it: ours, or the system's.

    GPAW of a Linux distribution is built for the distribution's own Python and NumPy. So each crystal is handed to
    `python` (found by itself if "") as JSON, and energy, forces and stress come back; nothing is imported here. The
    energy is extrapolated to no smearing. `derivatives` off leaves out forces and stress, for equations of state.
    """
    from ase.calculators.calculator import CalculationFailed, Calculator, all_changes

    interpreter = python or gpaw_python()
    smearing = {"name": "fermi-dirac", "width": smearing_ev}
    settings = {
        "mode": {"name": "pw", "ecut": cutoff_ev}, "xc": functional, "occupations": smearing, "txt": "gpaw.txt",
        "kpts": kpoints or {"density": kpoint_density, "gamma": True},
    } | dict(parameters or {})  # fmt: skip

    class SeparateGpaw(Calculator):
        implemented_properties = ["energy", "forces", "stress"] if derivatives else ["energy"]

        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            cell, positions = self.atoms.cell.tolist(), self.atoms.positions.tolist()
            question = {"numbers": self.atoms.numbers.tolist(), "positions": positions, "cell": cell, "pbc": True}
            asked = json.dumps({"atoms": question, "settings": settings, "derivatives": derivatives})
            run = subprocess.run([interpreter, "-I", "-c", _ASK_GPAW], input=asked, capture_output=True, text=True)
            if run.returncode:
                raise CalculationFailed(f"GPAW: {(run.stderr.strip().splitlines() or ['no message'])[-1]}")
            found = json.loads(run.stdout.splitlines()[-1])
            if "error" in found:
                raise CalculationFailed(f"GPAW: {found['error']}")
            self.results = {name: np.array(value) for name, value in found.items()}

    return SeparateGpaw()


_ASK_GPAW = """
import json, sys
from ase import Atoms
from gpaw import GPAW
question = json.load(sys.stdin)
atoms = Atoms(**question["atoms"])
try:
    atoms.calc = GPAW(**question["settings"])
    found = {"energy": atoms.get_potential_energy()}
    if question["derivatives"]:
        found.update(forces=atoms.get_forces().tolist(), stress=atoms.get_stress().tolist())
except Exception as error:
    found = {"error": "%s: %s" % (type(error).__name__, error)}
print("\\n" + json.dumps(found))
"""

FACTORIES: dict[str, Callable[..., BaseCalculator]] = {
    "chgnet": chgnet, "emt": emt, "espresso": espresso, "gpaw": gpaw, "lennard_jones": lennard_jones,
    "potential": potential,
}  # fmt: skip
"""What `named` knows by name; a potential's file and `file.py:name` do as well."""


_NO_MATTER = ("command", "python", "pseudo_dir", "derivatives")  # settings that energies do not depend on


# Names


def named(text: str, settings: Mapping[str, Any] | None = None) -> Known:
    """A calculator by name, by a potential's file, by `module:name` or by `file.py:name`; `+d3` adds dispersion.

    Raises:
        ValueError: an unknown name or setting; a package or program that is not installed, with what to install.
    """
    name, plus, extra = text.partition("+")
    settings = dict(settings or {})
    if plus and extra != "d3":
        raise ValueError(f"calculator {text!r}: {extra!r} cannot be added; expected {name}+d3")
    if ":" in name and not plus:
        return Known(name, settings, Level(f"calculator {name}", "none"))
    if Path(name).suffix in (".npz", ".nqx"):
        name, settings = "potential", {"path": name} | settings
    if name not in FACTORIES:
        others = f"{', '.join(sorted(FACTORIES))}, a potential's file, or file.py:name"
        raise ValueError(f"calculator {text!r} is unknown; expected one of {others}")
    settings = _filled(name, settings)
    _needs(name, settings)
    here, level = f"{__name__}:{name}", _level(name, settings)
    if not plus:
        return Known(here, settings, level)
    _needs("dftd3", {})
    functional = settings.get("functional", "PBE")
    more = {"base": name, "settings": settings, "functional": functional}
    return Known(f"{__name__}:dispersed", more, level._replace(theory=f"{level.theory} + D3(BJ, {functional})"))


def _filled(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with their defaults; an unknown or missing one, or a file that is not there, is a ValueError."""
    known = inspect.signature(FACTORIES[name]).parameters
    for key in settings:
        if key not in known:
            raise ValueError(f"calculator {name}: no setting {key!r}; expected one of {', '.join(known) or 'none'}")
    filled = {key: parameter.default for key, parameter in known.items()} | settings
    for key, value in filled.items():
        if value is inspect.Parameter.empty:
            raise ValueError(f"calculator {name}: the setting {key} is missing")
    if name == "potential":
        if not Path(filled["path"]).is_file():
            if kind := reading.other_kind(filled["path"]):
                raise ValueError(f"calculator potential: {str(filled['path'])!r} {kind}; expected a model's file")
            raise ValueError(f"calculator potential: no such file {str(filled['path'])!r}")
        filled["path"] = str(Path(filled["path"]).absolute())
    return filled


def _needs(name: str, settings: Mapping[str, Any]) -> None:
    """One line about what is missing."""
    if name in ("chgnet", "dftd3") and importlib.util.find_spec(name) is None:
        how = "pip install 'crysjax[chgnet]'" if name == "chgnet" else "pip install dftd3"
        raise ValueError(f"calculator {name}: the package {name} is not installed; {how}")
    program = str(settings.get("command", "pw.x")).split()[0]
    if name == "espresso" and shutil.which(program) is None:
        raise ValueError(f"calculator espresso: no program {program!r}; Debian: apt-get install quantum-espresso")
    if name == "gpaw" and not settings.get("python"):
        gpaw_python()


@cache
def gpaw_python() -> str:
    """An interpreter that has GPAW: this one, or the system's."""
    for python in filter(shutil.which, (sys.executable, "/usr/bin/python3")):
        if subprocess.run([python, "-I", "-c", "import gpaw"], capture_output=True).returncode == 0:
            return python
    raise ValueError("calculator gpaw: no interpreter has the package gpaw; Debian: apt-get install gpaw gpaw-data")


def _level(name: str, settings: Mapping[str, Any]) -> Level:
    """What must be equal for two energies to compare: for DFT every setting that its energies depend on."""
    if name == "chgnet":
        r2scan = settings["model"] == "r2scan"
        theory = "r2SCAN (VASP, Materials Project)" if r2scan else "PBE and PBE+U (VASP, Materials Project)"
        return Level(f"CHGNet {settings['model']} of {theory}", "none" if r2scan else MP2020)
    if name == "potential":
        path = Path(settings["path"])
        return Level(f"potential {path.name} ({reading.digest(path)[:12]})", "none")
    said = {key: value for key, value in settings.items() if key not in _NO_MATTER}
    program = {"espresso": "DFT by Quantum ESPRESSO", "gpaw": "DFT by GPAW"}.get(name, name)
    return Level(f"{program} {json.dumps(said, sort_keys=True, default=str)}" if said else program, "none")
