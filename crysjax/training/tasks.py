"""What is trained: the loss and the stream of batches of a generator and of property heads, for `loop.fit`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import jax
import numpy as np

from crysjax.base import Condition, Generator, Pack, Views
from crysjax.data import batching, scales
from crysjax.data.batching import Capacity, Labels, View
from crysjax.data.datasets import Dataset
from crysjax.geometry import lattice as lattices
from crysjax.potentials import learn
from crysjax.potentials.learn import HalfEdges
from crysjax.predictors.heads import Heads
from crysjax.training.loop import Loss


def stream(
    dataset: Dataset, shape: Capacity, tiles: int, seed: int, names: tuple[str, ...], view: View | None = None,
    group: bool = False,
) -> Callable:  # fmt: skip
    """`stream(k)` yields `(pack, labels)` from step k on, over endless shuffled epochs, see `labeled`.

    A crystal's place depends on (seed, epoch) alone, so a resumed run sees what an uninterrupted one would have seen.
    """

    def build(groups: list[list[int]]) -> tuple[Pack, Labels]:
        return labeled(dataset, groups, shape, names, view, group)

    return _endless(lambda epoch: batching.shuffled_groups(dataset.num_atoms, shape, seed, epoch), build, tiles)


def labeled(
    dataset: Dataset, groups: list[list[int]], shape: Capacity, names: tuple[str, ...], view: View | None = None,
    group: bool = False,
) -> tuple[Pack, Labels]:  # fmt: skip
    """The groups of rows as packs and labels, leaves (t, ...): properties, and with `group` the space group.

    Names that are columns of the sites alone are `Labels.sites`.
    """
    batch = batching.stack(dataset, groups, shape)
    of_sites = tuple(n for n in names if n in dataset.site_properties and n not in dataset.properties)
    labels = batching.labels(dataset, tuple(n for n in names if n not in of_sites), batch.index, group)
    if of_sites:
        labels = labels._replace(sites=np.stack([batching.site_targets(dataset, of_sites, g, shape) for g in groups]))
    return batch.pack, labels._replace(views=batching.stack_view(view, groups, shape) if view else Views())


def force_stream(dataset: Dataset, edges: HalfEdges, shape: Capacity, room: int, tiles: int, seed: int) -> Callable:
    """The same for potentials: `(pack, learn.PotentialLabels)`, packs with their radius graphs."""

    def build(groups: list[list[int]]) -> tuple[Pack, learn.PotentialLabels]:
        return jax.tree.map(lambda *leaves: np.stack(leaves), *force_packs(dataset, edges, groups, shape, room))

    def groups(epoch: int) -> list[list[int]]:
        return batching.shuffled_groups(dataset.num_atoms, shape, seed, epoch, edges=edges.count, max_edges=room)

    return _endless(groups, build, tiles)


def force_packs(
    dataset: Dataset, edges: HalfEdges, groups: list[list[int]], shape: Capacity, room: int
) -> list[tuple[Pack, learn.PotentialLabels]]:
    """One labeled pack per group of rows."""
    return [learn.labeled_pack(dataset, edges, np.array(g), shape, room) for g in groups]


def _endless(groups_of: Callable[[int], list], build: Callable[[list], tuple], tiles: int) -> Callable:
    """Batches of `tiles` packs, epoch after epoch, made in a thread; the packs left over in an epoch are dropped."""

    def from_step(step: int) -> Iterator[tuple]:
        epoch = 0
        while True:
            groups = groups_of(epoch)
            total = len(groups) // tiles
            if not total:
                raise ValueError(
                    f"tiles: {tiles} packs per step, but the data set fills only {len(groups)}; lower tiles"
                )
            for k in range(step, total):
                yield build(groups[k * tiles : (k + 1) * tiles])
            step, epoch = max(step - total, 0), epoch + 1

    return lambda step: batching.prefetch(from_step(step))


def condition(labels: Labels) -> Condition:
    """Labels as what a generator is asked for."""
    return Condition(labels.properties, labels.space_group, *labels.views)


def generator_loss(generator: Generator) -> Loss:
    """The generator's loss with labels as its condition."""
    return lambda params, key, pack, labels: generator.loss(params, key, pack, condition(labels))


def heads_loss(heads: Heads) -> Loss:
    """The loss of property heads with labels as their targets."""
    return lambda params, key, pack, labels: heads.loss(params, key, pack, labels.properties)


def lattice_statistics(dataset: Dataset) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the six lattice coordinates: one for the five shapes, one for the volume.

    A set of one shape (cubic perovskites) has no spread in five of them; the floor of 0.05 keeps the noise on them
    visible to a network.
    """
    encoded = jax.jit(lattices.encode)(dataset.lattice, dataset.num_atoms.astype(np.float32))
    coordinates = np.asarray(encoded, np.float64)
    if not np.isfinite(coordinates).all():
        first = int((~np.isfinite(coordinates)).any(1).argmax())
        raise ValueError(f"data: the cell of {dataset.ids[first]!r} has no finite logarithm: {dataset.lattice[first]}")
    center = np.append(np.zeros(5), coordinates[:, 5].mean())
    scale = np.append(np.full(5, coordinates[:, :5].std()), coordinates[:, 5].std())
    return center.round(4).tolist(), np.maximum(scale, 0.05).round(4).tolist()


def property_statistics(
    dataset: Dataset, names: tuple[str, ...], of_sites: bool = False
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each property over the crystals (or sites) that have it, in float64.

    Labels that no float32 can tell apart once they are scaled are an error: a single absurd one sets the scale then.
    """
    center, scale = [], []
    columns = dataset.site_properties if of_sites else dataset.properties
    ids = np.repeat(dataset.ids, dataset.num_atoms) if of_sites else dataset.ids
    for name in names:
        values = columns.get(name, np.zeros(0))
        known = np.isfinite(values)
        if not known.any():
            what = "site" if of_sites else "crystal"
            raise ValueError(f"property {name!r}: no {what} has a value; the data set has {sorted(columns)}")
        if values.ndim > 1:
            raise ValueError(f"property {name!r}: {values.shape[1:]} numbers per site; expected one")
        mean, spread = scales.moments(values[known], f"property {name!r}", ids[known])
        center.append(mean)
        scale.append(max(spread, 1e-6))
    return center, scale


def check_scales(dataset: Dataset, names: tuple[str, ...]) -> None:
    """An error for a label whose scale is that of a single absurd value, also where no scale is used."""
    for name in names:
        values = _label(dataset, name)
        known = np.isfinite(values)
        if known.any():
            scales.moments(values[known], name, dataset.ids[known] if len(dataset) == values.size else None)


def check_labels(part: Dataset, held_out: Dataset, names: tuple[str, ...], validation_split: str) -> None:
    """An error for a label that the training part has and no crystal of the validation part: nothing would judge it."""
    for name in names:
        there, here = (np.isfinite(_label(d, name)) for d in (part, held_out))
        if there.any() and not here.any():
            raise ValueError(
                f"{name}: no crystal of the validation split {validation_split!r} has a value, {there.sum()} of "
                f"{there.size} in the training split are known; the model could not be judged"
            )


def _label(dataset: Dataset, name: str) -> np.ndarray:
    return dataset.properties.get(name, dataset.site_properties.get(name, np.zeros(0)))
