"""Packs to tokens and back, in whole-number arithmetic inside jit, so that every training step can write anew.

The canonical order of a crystal's sites: by the template row (known elements by atomic number, then free sites), and
among sites with the same row by the string that is written, which is the element and then x, y, z. It depends on
neither the order of the sites in the pack nor on anything that is drawn at random.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, Pack, num_sites, one_hot, site_mask
from crysjax.generators.text.grammar import ELEMENT, END, Form, Grammar, Sites
from crysjax.geometry import lattice as lattices


class Text(NamedTuple):
    """The texts of a pack."""

    tokens: Array  # (b, length) int32
    fits: Array  # (b,) bool: the cell is the crystal's, rounded, and not moved into the range that can be written


def canonical(template: Pack, max_sites: int, within: tuple[Array, ...] = ()) -> tuple[Array, Sites]:
    """Canonical order of the sites of every crystal and what the template says of them.

    `within` holds whole-number keys (n,) that decide among sites with the same row, the last one first. Returns
    the sites' places in the pack, (b, max_sites) with n where there is none, and `Sites` with leading axis b. Sites
    beyond `max_sites` are left out, `count` is of all.
    """
    n, b = len(template.frac), len(template.lattice)
    rows = template.occupancy > 0
    bits = jnp.asarray(1 << np.arange(NUM_SPECIES // 4), jnp.int32)[None, None]
    words = jnp.where(rows.reshape(n, 4, -1), bits, 0).sum(-1)
    owner = jnp.where(site_mask(template.occupancy) > 0, template.owner, b)
    order = jnp.lexsort((*within, *words.T, owner))
    first = jnp.searchsorted(owner[order], jnp.arange(b, dtype=jnp.int32))
    count, slot = num_sites(template).astype(jnp.int32), jnp.arange(max_sites, dtype=jnp.int32)
    place = order[jnp.minimum(first[:, None] + slot[None], n - 1)]
    index = jnp.where(slot[None] < count[:, None], place, n)
    of_site = jnp.take(rows, index, axis=0, mode="fill", fill_value=False)
    alike = (of_site == jnp.roll(of_site, 1, 1)).all(-1) & (slot > 0)[None]
    return index, Sites(of_site, alike, count)


def encode(rules: Grammar, form: Form, max_sites: int, pack: Pack, template: Pack) -> tuple[Text, Sites]:
    """The canonical texts of a pack under a template of the same sites: numbers rounded to their last digit.

    Cell parameters outside the grammar's ranges move to the end of the range, and `fits` says so.
    """
    unit = 10**form.frac_decimals
    frac = jnp.round(pack.frac * unit).astype(jnp.int32) % unit
    element = jnp.argmax(pack.occupancy, -1).astype(jnp.int32)
    index, sites = canonical(template, max_sites, (frac[:, 2], frac[:, 1], frac[:, 0], element))
    lengths, angles = lattices.to_parameters(pack.lattice)
    numbers = jnp.concatenate([lengths * 10**form.length_decimals, angles * 10**form.angle_decimals], -1)
    cell = jnp.round(jnp.clip(numbers, 0, 2**30)).astype(jnp.int32)
    fitted = jax.vmap(rules.clamp)(cell)
    of_cell = [_digits(fitted[:, 3 * k : 3 * k + 3], rules.places[k]) for k in (0, 1)]
    strings = jnp.concatenate([ELEMENT + element[:, None], _digits(frac, rules.places[2])], -1)
    of_sites = jnp.take(strings, index, axis=0, mode="fill", fill_value=END).reshape(len(index), -1)
    tokens = jnp.where((sites.count > 0)[:, None], jnp.concatenate([*of_cell, of_sites], -1), END)
    return Text(tokens.astype(jnp.int32), (cell == fitted).all(-1)), sites


def decode(rules: Grammar, form: Form, tokens: Array, index: Array, count: Array, template: Pack) -> Pack:
    """The crystals that texts say, on the sites of the template; `index` and `count` come from `canonical`.

    The lattice has a along x and b in the xy plane. A crystal with more sites than the grammar writes is NaN.
    """
    dtype, (b, m) = template.frac.dtype, index.shape
    split = np.cumsum([3 * len(rules.places[0]), 3 * len(rules.places[1])])
    lengths, angles, sites = jnp.split(tokens, split, axis=1)
    sites = sites.reshape(b * m, -1)
    used = (count > 0)[:, None]
    lengths = jnp.where(used, _numbers(lengths, rules.places[0], dtype) / 10**form.length_decimals, 1.0)
    angles = jnp.where(used, _numbers(angles, rules.places[1], dtype) / 10**form.angle_decimals, 90.0)
    lattice = jnp.where(used[..., None], lattices.from_parameters(lengths, angles), jnp.eye(3, dtype=dtype)[None])
    values = _numbers(sites[:, 1:], rules.places[2], dtype) / 10**form.frac_decimals
    frac = jnp.zeros_like(template.frac).at[index.reshape(-1)].set(values, mode="drop")
    rows = one_hot(sites[:, 0] - ELEMENT + 1, template.occupancy.dtype)
    occupancy = jnp.zeros_like(template.occupancy).at[index.reshape(-1)].set(rows, mode="drop")
    too_many = count > m
    of_site = (too_many[template.owner] & (site_mask(template.occupancy) > 0))[:, None]
    return template._replace(
        occupancy=jnp.where(of_site, template.occupancy, occupancy),
        frac=jnp.where(of_site, jnp.nan, frac),
        lattice=jnp.where(too_many[:, None, None], jnp.nan, lattice),
    )


def _digits(numbers: Array, places: np.ndarray) -> Array:
    """(..., k) whole numbers -> (..., k digits)."""
    digits = numbers[..., None] // jnp.asarray(places, jnp.int32).reshape((1,) * numbers.ndim + (-1,)) % 10
    return digits.reshape(*numbers.shape[:-1], -1)


def _numbers(digits: Array, places: np.ndarray, dtype) -> Array:
    """The inverse of `_digits`, in units of the last digit: (k, 3 digits) -> (k, 3)."""
    weights = jnp.asarray(places, jnp.int32)
    return (digits.reshape(len(digits), 3, -1) * weights[None, None]).sum(-1).astype(dtype)
