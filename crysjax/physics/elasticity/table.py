"""Elastic constants and equations of state as rows of a table, with their units in the names of the columns."""

from __future__ import annotations

import csv
import io
import json

import numpy as np

from crysjax.chemistry.elements import formula
from crysjax.data import datasets
from crysjax.data.datasets import Dataset
from crysjax.data.reasons import code
from crysjax.geometry.soundness import why_not
from crysjax.physics.elasticity.driver import Curves, Elastic
from crysjax.physics.elasticity.frames import RULES

TENSORS = ("tensor_gpa", "clamped_ion_tensor_gpa", "residual_stress_gpa", "frame_axes")


def rows(found: Elastic, curves: Curves | None = None, gain: np.ndarray | None = None) -> list[dict]:
    """One dictionary per crystal; what is not known is None."""
    named = {f"{name}_gpa" if name not in ("poisson", "anisotropy") else name: x
             for name, x in found.moduli._asdict().items() if name != "stable"}  # fmt: skip
    made = []
    for k, entry in enumerate(datasets.entries(found.crystals)):
        good = bool(found.valid[k])
        row = {"id": entry.id, "formula": formula(entry.numbers), "reason": str(found.reason[k])}
        row["code"] = code(row["reason"])
        row["born_stable"] = bool(found.moduli.stable[k]) if good else None
        row |= {key: _number(x[k], good) for key, x in named.items()}
        row["debye_temperature_k"] = _number(found.debye_temperature_k[k], good)
        row["density_g_cm3"] = _number(found.density[k], good)
        if curves is not None:
            row |= {"eos_reason": str(curves.reason[k])} | _curve(curves, k, len(entry.numbers))
        for key, tensor in (("tensor_gpa", found.tensor_gpa), ("clamped_ion_tensor_gpa", found.clamped_gpa)):
            row[key] = tensor[k].round(3).tolist() if good else None
        row["residual_stress_gpa"] = found.stress_gpa[k].round(4).tolist() if good else None
        row["crystal_system"] = (found.system[k] or "unknown") if good else None
        row["frame"] = f"{'IEEE 176-1987: ' * bool(found.system[k])}{RULES[found.system[k]]}" if good else None
        row["frame_axes"] = found.axes[k].round(6).tolist() if good else None
        if gain is not None:
            row["remedy_gain_ev_per_atom"] = float(gain[k])
        made.append(row)
    return made


def _curve(curves: Curves, k: int, atoms: int) -> dict:
    """Volume and energy per atom, bulk modulus and its slope."""
    fit, good = curves.fit, bool(curves.valid[k])
    return {
        "eos_volume_a3_per_atom": _number(fit.volume[k] / atoms, good),
        "eos_energy_ev_per_atom": _number(fit.energy[k] / atoms, good),
        "eos_bulk_gpa": _number(fit.bulk_gpa[k], good),
        "eos_bulk_slope": _number(fit.slope[k], good),
    }


def _number(value: float, good: bool) -> float | None:
    return float(f"{float(value):.6g}") if good else None


def text(made: list[dict], suffix: str) -> str:
    """The rows as a file with this suffix has them: .json, or a table."""
    return json.dumps(made, indent=1) + "\n" if suffix == ".json" else csv_text(made)


def csv_text(rows: list[dict]) -> str:
    """The same as a table: the tensor's 21 components by name, the other tensors left out."""
    flat = []
    for row in rows:
        tensor = row["tensor_gpa"] or [[None] * 6] * 6
        named = {f"c{i + 1}{j + 1}_gpa": tensor[i][j] for i in range(6) for j in range(i, 6)}
        flat.append({key: value for key, value in row.items() if key not in TENSORS} | named)
    text = io.StringIO()
    table = csv.DictWriter(text, list(flat[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(flat)
    return text.getvalue()


def writable(found: Elastic) -> Dataset:
    """The cells that the tensors belong to, those that a file can hold: one without a volume is in none."""
    good = [not why_not(entry.frac, entry.lattice) for entry in datasets.entries(found.crystals)]
    return datasets.take(found.crystals, np.array(good, bool))
