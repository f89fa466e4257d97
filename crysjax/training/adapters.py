"""Fine-tuning as functions of parameter pytrees: start from another model's weights, and train few of them.

Nothing here knows a network. A trained part is a small pytree, and `merge` makes of it the parameters of the whole
model: the loss of the part is `loss(merge(part), ...)`, the optimizer holds moments of the part alone, and what is
exported is `merge(part)`, an ordinary model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatch
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Params, PyTree


class Columns(NamedTuple):
    """Inputs that a weight did not have before: where they lie along one of its axes."""

    axis: int
    places: tuple[int, ...]


class AdapterStart(NamedTuple):
    """Parameters that begin as another model's."""

    params: Params
    new: dict[str, Columns]  # name of a weight -> its new inputs, which start at zero
    fresh: tuple[str, ...]  # names without a counterpart of their shape, which stay as they were drawn


class Adapter(NamedTuple):
    """The part of a model that is trained while the rest stays as it is."""

    init: Callable[[Array], PyTree]  # key -> the trained part; merged at once it is the base, bit for bit
    merge: Callable[[PyTree], Params]  # the trained part -> parameters of the whole model


Widened = Mapping[tuple[int, int], Sequence[int]]
"""(entries of an axis in the base, entries now) -> places of the new ones along it."""


def warm_start(fresh: Params, base: Params, widened: Widened = {}) -> AdapterStart:  # noqa: B006  # never changed
    """`fresh` with the weights of `base` wherever names and shapes agree.

    A weight that differs in one axis, as `widened` says, takes the base's entries too and is zero at the new places:
    new inputs change nothing before the first step.
    """
    old, new, left = _leaves(base), {}, []

    def start(name: str, leaf: Array) -> Array:
        found = old.get(name)
        if found is None or found.shape != leaf.shape:
            columns = None if found is None else _longer(found.shape, leaf.shape, widened)
            if columns is None:
                left.append(name)
                return leaf
            new[name] = columns
            found = _widened(np.asarray(found), columns, leaf.shape)
        return jnp.array(found, leaf.dtype)

    params = _map(start, fresh)
    return AdapterStart(params, new, tuple(left))


def condition(params: Params, new: Mapping[str, Columns]) -> Adapter:
    """Only the inputs of new conditions are trained (as a prompt is, Lester et al. 2021).

    A crystal that none of them is given for has the base's answer, bit for bit, after training too. MatterGen's
    adapters (Zeni et al. 2025) have the same property; they add a network a layer, which knowing no network forbids.
    """
    if not new:
        raise ValueError("condition: no new property is given, so nothing would be trained; name one in properties")
    return _adapter(params, new, {}, 1.0)


def lora(
    params: Params,
    new: Mapping[str, Columns],
    *,
    rank: int = 8,
    scale: float = 1.0,
    kernels: list[str] = ["*kernel"],  # noqa: B006  # never changed
) -> Adapter:
    """Low-rank changes of chosen kernels, `W + scale A B` (Hu et al. 2021), beside the inputs of new conditions.

    Args:
        params: of the base.
        new: inputs of new conditions, from `warm_start`.
        rank: columns of A; kernels that this would not make smaller are left as they are.
        scale: the paper's alpha / rank.
        kernels: patterns of the names, such as `layers.*`; leading axes of a kernel (layers) each have an A and a B.
    """
    if rank < 1 or not 0 < scale < math.inf:
        raise ValueError(f"rank: {rank}, scale: {scale}; expected a rank of at least 1 and a scale above 0")
    low = {
        name: leaf.shape
        for name, leaf in _leaves(params).items()
        if leaf.ndim >= 2
        and rank * sum(leaf.shape[-2:]) < math.prod(leaf.shape[-2:])
        and any(fnmatch(name, pattern) for pattern in kernels)
    }
    if not low:
        raise ValueError(f"kernels: {list(kernels)}; no kernel of this name is larger than its change of rank {rank}")
    return _adapter(params, new, low, scale, rank)


ADAPTERS = {"condition": condition, "lora": lora}


def adapted(loss: Callable, adapter: Adapter) -> Callable:
    """The same loss as a function of the trained part."""
    return lambda part, *rest: loss(adapter.merge(part), *rest)


def count(tree: PyTree) -> int:
    """Numbers in a pytree."""
    return sum(int(np.size(leaf)) for leaf in jax.tree.leaves(tree))


def _adapter(
    params: Params, new: Mapping[str, Columns], low: Mapping[str, tuple[int, ...]], scale: float, rank: int = 0
) -> Adapter:
    """The trained part is a dictionary: name of a weight -> `columns`, `down` (A) and `up` (B), where it has them."""
    frozen = jax.device_get(params)
    leaves = _leaves(frozen)

    def init(key: Array) -> PyTree:
        part: dict[str, dict[str, Array]] = {name: {} for name in (*new, *low)}
        for name, (axis, places) in new.items():
            shape = leaves[name].shape
            part[name]["columns"] = jnp.zeros((*shape[:axis], len(places), *shape[axis + 1 :]), leaves[name].dtype)
        for draw, (name, (*stack, rows, columns)) in zip(jax.random.split(key, max(len(low), 1)), low.items()):
            dtype = leaves[name].dtype
            part[name]["down"] = jax.random.normal(draw, (*stack, rows, rank), dtype) / math.sqrt(rows)
            part[name]["up"] = jnp.zeros((*stack, rank, columns), dtype)
        return part

    def whole(name: str, leaf: Any, part: Mapping[str, Array]) -> Array:
        leaf = jnp.asarray(leaf)
        if "up" in part:
            leaf = leaf + scale * (part["down"] @ part["up"])
        if "columns" in part:
            leaf = leaf.at[_at(new[name])].add(part["columns"])
        return leaf

    def merge(part: PyTree) -> Params:
        return _map(lambda name, leaf: whole(name, leaf, part.get(name, {})), frozen)

    return Adapter(init, merge)


def _longer(old: tuple[int, ...], now: tuple[int, ...], widened: Widened) -> Columns | None:
    """The one axis that differs, if it is one of `widened`."""
    differ = [axis for axis, sizes in enumerate(zip(old, now)) if sizes[0] != sizes[1]]
    places = widened.get((old[differ[0]], now[differ[0]])) if len(differ) == 1 and len(old) == len(now) else None
    return None if places is None else Columns(differ[0], tuple(places))


def _widened(old: np.ndarray, columns: Columns, shape: tuple[int, ...]) -> np.ndarray:
    kept = np.setdiff1d(np.arange(shape[columns.axis]), columns.places)
    wide = np.zeros(shape, old.dtype)
    wide[_at(columns._replace(places=tuple(kept)))] = old
    return wide


def _at(columns: Columns) -> tuple:
    return (slice(None),) * columns.axis + (np.asarray(columns.places),)


def _leaves(tree: PyTree) -> dict[str, Any]:
    """Leaves by name: `layers.edge_send.kernel`."""
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]}


def _map(f: Callable[[str, Any], Any], tree: PyTree) -> PyTree:
    return jax.tree_util.tree_map_with_path(lambda path, leaf: f(_name(path), leaf), tree)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")
