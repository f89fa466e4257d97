"""Codes of reasons: a short, stable name beside every sentence that says why a crystal was not kept.

Sentences are for people: they carry numbers and may be reworded. Codes are for programs: a ledger, a table or a JSON
file has both, and only the codes are meant to be compared. A sentence that is not in the table has the code `OTHER`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache, lru_cache

import numpy as np

from crysjax.geometry.soundness import NO_VOLUME, NOT_FINITE

OTHER = "other"

SENTENCES: dict[str, tuple[str, ...]] = {
    # geometry and composition
    "too_close": ("sites too close", "atoms closer than {}"),
    "not_finite": ("not finite", NOT_FINITE),
    "no_volume": ("no volume", NO_VOLUME),
    "volume_out_of_range": ("volume per atom out of range",),
    "flat_cell": ("flat cell",),
    "long_cell": ("needle of a cell",),
    "too_many_sites": ("more than {} sites",),
    "density_out_of_range": ("density out of range",),
    "not_synthesizable": ("too unlike crystals that have been made",),
    "breaks_constraint": ("breaks the constraint {}",),
    "composition": ("composition fails SMACT's charge and electronegativity test",),
    "invalid_geometry": ("geometry is not valid",),
    # the same as another crystal
    "known": ("equals a crystal of {}",),
    "repeated": ("equals {}",),
    "known_composition": ("composition is known already",),
    "not_rediscovered": ("no sample equals it",),
    # a relative of a known crystal
    "equal": ("StructureMatcher matches it",),
    "supercell": ("{} sites reduce to the {} of the known crystal",),
    "distortion": (
        "symmetrized to within {} Å both are the same crystal of group {}", "{} is {} in {} cells with displaced sites",
    ),
    "order_disorder": ("orders {} on one lattice", "shares {} on one lattice"),
    "substitution": ("the known crystal with {}",),
    # energies
    "above_hull": ("{} eV/atom above the hull",),
    "not_believed": ("{} eV/atom below the hull: not believed",),
    "error_exceeds_margin": ("cannot tell: {} eV/atom from the hull, within the margin with probability {}",),
    "no_hull_entry": ("cannot tell: no entry of {} in the hull", "no entry of {} in the hull"),
    "no_hull_compound": ("cannot tell: the hull has no compound of these elements",),
    "no_energy": (
        "the energy is not finite", "the potential gives no finite energy", "the potential gives no finite answer",
    ),
    "no_reference": ("an element that the potential has no reference for",),
    # relaxation and what is computed at its end
    "unknown_element": ("the potential does not know {}", "no scattering factors for one of its elements"),
    "too_many_images": ("the cell needs more than {} images along an axis",),
    "nothing_to_relax": ("no two atoms within {} Å, the cutoff of the potential",),
    "volume_ran_away": ("the volume ran away",),
    "not_converged": (
        "not at rest after {} steps", "not relaxed after {} steps", "not relaxed in {} steps",
        "forces of {} eV/Å remain",
    ),
    "soft_modes": ("ions in a position that is no minimum (soft internal modes)",),
    "no_derivatives": ("the second derivatives are not finite",),
    "no_minimum": ("no minimum of the energy within these volumes",),
    # programs outside
    "out_of_limits": ("needs more than {} GB of memory", "needs more than {} GB of disk", "no answer within {} s"),
    "bad_answer": ("no answer but a {}", "an answer that is not whole", "{} of shape {}, expected {} real numbers"),
    # a campaign
    "no_prediction": ("no prediction",),
    "outside_budget": ("outside the budget",),
    "no_value": ("no value",),
    # an evaluation
    "off_target": ("{} outside {} to {}",),
}  # fmt: skip
"""Code -> the sentences that it stands for, `{}` for what varies. The first that fits is taken; more may follow it."""


@cache
def _patterns() -> re.Pattern:
    def one(sentence: str) -> str:
        return ".+?".join(re.escape(part) for part in sentence.split("{}"))

    each = (f"(?P<{code}>{'|'.join(map(one, said))})" for code, said in SENTENCES.items())
    return re.compile(f"(?:{'|'.join(each)})(?=$|[:;,?]| \\()", re.DOTALL)


@lru_cache(maxsize=100_000)
def code(reason: str) -> str:
    """The code of a sentence; "" for none."""
    if not reason:
        return ""
    found = _patterns().match(reason)
    return found.lastgroup if found else OTHER


def codes(reasons: Iterable[str]) -> np.ndarray:
    """The codes of many: (m,) str."""
    return np.array([code(str(reason)) for reason in reasons], "<U24")
