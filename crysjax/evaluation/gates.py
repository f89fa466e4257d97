"""Gates for use inside `jit`: which of a pack's crystals are worth a prediction, and why not.

A gate answers a number of its own for each crystal and compares it with a bound, so that a ledger can say by how much
a candidate failed. The composition gate is `validity.smact_valid`, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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


class Gated(NamedTuple):
    """What the gates found, one row per crystal."""

    contact: Contact  # the closest two atoms, (b,) each
    volume_per_atom: Array  # (b,) Å^3
    apart: Array  # (b,) bool: no two atoms closer than the radii of the pair allow
    dense: Array  # (b,) bool: neither a gas nor a collapse
    neutral: Array  # (b,) bool: SMACT's test
    passed: Array  # (b,) bool: all of them

    @property
    def distance_angstrom(self) -> Array:
        """The shortest distance, periodic images of a site itself included: (b,)."""
        return self.contact.shortest_angstrom

    @property
    def closeness(self) -> Array:
        """The shortest distance over the sum of the two covalent radii: (b,)."""
        return self.contact.closeness


REASONS = ("apart", "dense", "neutral")
SAID = {
    "apart": contacts.TOO_CLOSE,
    "dense": "volume per atom out of range",
    "neutral": "composition fails SMACT's charge and electronegativity test",
}


def gates(
    *,
    max_atoms: int,
    min_volume_per_atom: float = 4.0,
    max_volume_per_atom: float = 80.0,
) -> Callable[[Pack], Gated]:
    """All gates as one function of a pack, for crystals as they are drawn and again for what relaxation made of them.

    Args:
        max_atoms: of the largest crystal.
        min_volume_per_atom, max_volume_per_atom: in Å^3.
    """
    neutral_one = smact_gate(max_atoms=max_atoms)

    def gate(pack: Pack) -> Gated:
        contact = contacts.closest(pack)
        volume = lattices.volume(pack.lattice) / jnp.maximum(num_sites(pack), 1)
        used = (num_sites(pack) > 0) & _finite(pack)
        apart = contacts.apart(contact) & used
        dense = (volume >= min_volume_per_atom) & (volume <= max_volume_per_atom) & used
        neutral = jax.vmap(neutral_one)(sum_by_crystal(pack.occupancy, pack)) & used
        return Gated(contact, volume, apart, dense, neutral, apart & dense & neutral)

    return gate


def why(gated: Gated, rows: Iterable[int]) -> list[str]:
    """The first gate that each of these crystals fails, with its numbers; "" for those that pass."""
    said = []
    for row in rows:
        failed = next((name for name in REASONS if not getattr(gated, name)[row]), None)
        more = f": {contacts.said(gated.contact, row)}" if failed == "apart" else ""
        said.append(f"{SAID[failed]}{more}" if failed else "")
    return said


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
