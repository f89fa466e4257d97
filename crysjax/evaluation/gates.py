"""Gates for use inside `jit`: which of a pack's crystals are worth a prediction, and why not.

A gate answers a number of its own for each crystal and compares it with a bound, so that a ledger can say by how much
a candidate failed. The composition gate is `validity.smact_valid`, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Pack, num_sites, sum_by_crystal
from crysjax.crystallography import contacts
from crysjax.crystallography.contacts import Contact
from crysjax.data import batching
from crysjax.data.datasets import Dataset
from crysjax.evaluation.validity import oxidation_table
from crysjax.geometry import lattice as lattices


class Bound(NamedTuple):
    """A further gate: a number of each crystal that has to lie between two others."""

    measure: Callable[[Pack], Array]  # pack -> (b,)
    low: float = -np.inf
    high: float = np.inf


class Held(NamedTuple):
    """What a `Bound` found."""

    value: Array  # (b,)
    within: Array  # (b,) bool


class Gated(NamedTuple):
    """What the gates found, one row per crystal."""

    contact: Contact  # the closest two atoms, (b,) each
    volume_per_atom: Array  # (b,) Å^3
    apart: Array  # (b,) bool: no two atoms closer than the radii of the pair allow
    dense: Array  # (b,) bool: neither a gas nor a collapse
    neutral: Array  # (b,) bool: SMACT's test
    passed: Array  # (b,) bool: all that are asked
    more: dict[str, Held] = {}  # noqa: RUF012 (never changed)  # further gates, each a number and its bounds

    @property
    def distance_angstrom(self) -> Array:
        """The shortest distance, periodic images of a site itself included: (b,)."""
        return self.contact.shortest_angstrom

    @property
    def closeness(self) -> Array:
        """The shortest distance over the sum of the two covalent radii: (b,)."""
        return self.contact.closeness


REASONS = ("apart", "dense", "neutral")
SYNTHESIZABLE, DENSITY = "synthesizability_score", "density_g_cm3"
SAID = {
    "apart": contacts.TOO_CLOSE,
    "dense": "volume per atom out of range",
    "neutral": "composition fails SMACT's charge and electronegativity test",
    SYNTHESIZABLE: "too unlike crystals that have been made",
    DENSITY: "density out of range",
}
"""Gate -> its sentence for the ledger; of a `Bound` without one see `said`."""


def said(name: str) -> str:
    """What the ledger says of a crystal that this gate does not let pass."""
    return SAID.get(name, f"{name} out of range")


def gates(
    *,
    max_atoms: int,
    min_volume_per_atom: float = 4.0,
    max_volume_per_atom: float = 80.0,
    names: Sequence[str] = REASONS,
    bounds: Mapping[str, Bound] | None = None,
) -> Callable[[Pack], Gated]:
    """All gates as one function of a pack, for crystals as they are drawn and again for what relaxation made of them.

    Args:
        max_atoms: of the largest crystal.
        min_volume_per_atom, max_volume_per_atom: in Å^3.
        names: which of `REASONS` are asked; the others let every crystal pass.
        bounds: further gates by name.
    """
    neutral_one = smact_gate(max_atoms=max_atoms)

    def gate(pack: Pack) -> Gated:
        contact = contacts.closest(pack)
        volume = lattices.volume(pack.lattice) / jnp.maximum(num_sites(pack), 1)
        used = (num_sites(pack) > 0) & _finite(pack)
        apart = contacts.apart(contact) & used
        dense = (volume >= min_volume_per_atom) & (volume <= max_volume_per_atom) & used
        neutral = jax.vmap(neutral_one)(sum_by_crystal(pack.occupancy, pack)) & used
        asked = {name: ok if name in names else used for name, ok in zip(REASONS, (apart, dense, neutral))}
        more = {name: _held(bound, pack, used) for name, bound in (bounds or {}).items()}
        passed = asked["apart"] & asked["dense"] & asked["neutral"]
        for held in more.values():
            passed &= held.within
        return Gated(contact, volume, **asked, passed=passed, more=more)

    return gate


def _held(bound: Bound, pack: Pack, used: Array) -> Held:
    value = bound.measure(pack)
    return Held(value, (value >= bound.low) & (value <= bound.high) & used)


def verdicts(gated: Gated) -> dict[str, Array]:
    """Which crystals pass each gate, by its name: (b,) bool each, in the order in which failures are named."""
    return {name: getattr(gated, name) for name in REASONS} | {name: held.within for name, held in gated.more.items()}


def why(gated: Gated, rows: Iterable[int]) -> list[str]:
    """The first gate that each of these crystals fails, with its numbers; "" for those that pass."""
    reasons = []
    for row in rows:
        failed = next((name for name, passed in verdicts(gated).items() if not passed[row]), None)
        more = f": {contacts.said(gated.contact, row)}" if failed == "apart" else ""
        more = f": {gated.more[failed].value[row]:.3g}" if failed in gated.more else more
        reasons.append(f"{said(failed)}{more}" if failed else "")
    return reasons


def of_dataset(gate: Callable[[Pack], Gated], dataset: Dataset) -> Gated:
    """The gates of every crystal of a data set, such as relaxed ones: rows (m,) of NumPy arrays in its order."""
    return batching.each_crystal(jax.jit(gate), dataset)


def _finite(pack: Pack) -> Array:
    """Whether all of a crystal's numbers are finite: (b,). Minima do not tell, XLA's may ignore NaN on a CPU."""
    broken = (~jnp.isfinite(pack.frac).all(-1)).astype(jnp.float32)
    sites = jax.ops.segment_sum(broken, pack.owner, pack.lattice.shape[0])
    return (sites == 0) & jnp.isfinite(pack.lattice).all((1, 2))


def smact_gate(*, max_atoms: int, max_elements: int = 8) -> Callable[[Array], Array]:
    """The same test for use inside `jit`: atom counts (NUM_SPECIES,) float -> bool.

    A composition of more than `max_elements` elements or `max_atoms` atoms, or of no atom, fails.
    """
    table = oxidation_table()
    states, known, metal = jnp.asarray(table.states), jnp.asarray(table.known), jnp.asarray(table.metal)
    scale = jnp.asarray(np.nan_to_num(table.electronegativity, nan=-1.0))
    span = int(np.abs(table.states).max()) * max_atoms
    charge = jnp.arange(-span, span + 1)

    def gate(counts: Array) -> Array:
        count, row = jax.lax.top_k(jnp.round(counts).astype(jnp.int32), max_elements)
        used = count > 0
        shift = count[:, None] * states[row]

        def add(reach: Array, item: tuple[Array, Array, Array]) -> tuple[Array, None]:
            shifts, allowed, present = item
            source = charge[None, :] - shifts[:, None] + span
            inside = (source >= 0) & (source <= 2 * span) & allowed[:, None]
            moved = (reach[jnp.clip(source, 0, 2 * span)] & inside).any(0)
            return jnp.where(present, moved, reach), None

        def neutral(cut: Array) -> Array:
            up = (scale[row] <= cut)[:, None]
            sign = jnp.where(up, states[row] >= 0, states[row] <= 0)
            reach, _ = jax.lax.scan(add, charge == 0, (shift, known[row] & sign, used))
            return reach[span]

        balanced = jax.vmap(neutral)(scale[row]) & used
        compound = balanced.any() & (~used | (scale[row] >= 0)).all()
        fits = (count.sum() <= max_atoms) & (jnp.round(counts).sum() == count.sum().astype(counts.dtype)) & used.any()
        return fits & ((used.sum() == 1) | (~used | metal[row]).all() | compound)

    return gate
