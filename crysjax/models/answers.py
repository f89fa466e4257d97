"""What a trained predictor says of a data set, and how far each crystal lies from what it was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from crysjax.models import registry
from crysjax.terminal import say

if TYPE_CHECKING:
    import numpy as np

    from crysjax.base import Estimate
    from crysjax.data.datasets import Dataset


class Answers(NamedTuple):
    """What a model says of a data set; NaN where it has no answer."""

    said: Estimate  # (m, k), or of all sites where the model speaks of those
    novelty: np.ndarray  # (m,) logarithm of the distance from the training data (`predictors.novelty`), below 0 nearby
    limit: float  # of the novelty, beyond which a crystal is outside of them; infinite where the model does not know
    names: tuple[str, ...]  # the k properties
    meaning: str = ""  # of a score that is no property
    elements: tuple[int, ...] = ()  # atomic numbers that the model was trained on, where it knows
    sites: tuple[int, ...] = ()  # how many each crystal has, where `said` has a row for every site

    @property
    def outside(self) -> np.ndarray:
        """1 for a crystal outside the training data, 0 for one inside, NaN where there is no answer: (m,)."""
        import numpy as np

        return np.where(np.isnan(self.novelty), np.nan, self.novelty > self.limit)


def ask(loaded: registry.Model, dataset: Dataset) -> Answers:
    """Predictions, and how far each crystal lies from what the model was trained on."""
    import jax
    import numpy as np

    from crysjax.data import batching, datasets

    shape, of_sites = batching.capacity(dataset.num_atoms), loaded.build.of_sites
    if of_sites:
        predict, far = jax.jit(loaded.build.predict), jax.jit(loaded.build.novelty)
        said = batching.each_site(lambda pack: predict(loaded.params, pack), dataset, shape)
        novelty = batching.each_crystal(lambda pack: far(loaded.params, pack), dataset, shape)
    else:
        whole = jax.jit(lambda params, pack: loaded.build.together(params, pack)[:2])
        said, novelty = batching.each_crystal(lambda pack: whole(loaded.params, pack), dataset, shape)
    there = said.valid.all(-1)
    whole = np.logical_and.reduceat(there, datasets.offsets(dataset)[:-1]) if of_sites else there
    value, std = (np.where(there[:, None], leaf, np.nan) for leaf in (said.value, said.std))
    limit = float(loaded.config["settings"].get("novelty.limit", np.inf))
    return Answers(
        said._replace(value=value, std=std),
        np.where(whole, novelty, np.nan),
        limit,
        tuple(loaded.config["properties"]),
        loaded.config.get("meaning") or "",
        tuple(loaded.config.get("elements") or ()),
        tuple(dataset.num_atoms.tolist()) if of_sites else (),
    )


def table(ids: np.ndarray, answers: Answers, *, with_meaning: bool = False) -> str:
    """CSV of values, deviations, novelty and whether a crystal is outside; an empty cell is no answer.

    Rows of sites are called ID:1, ID:2, and so on, and leave out the novelty, which is one of crystals.
    `with_meaning`: what a score means beside every one of them, for a file that is read elsewhere.
    """
    import numpy as np

    from crysjax.data import files

    head = ["id", *(f"{name}{end}" for name in answers.names for end in ("", "_std"))]
    columns = np.stack([answers.said.value, answers.said.std], -1).reshape(len(answers.said.value), -1)
    if answers.sites:
        ids = [f"{name}:{k + 1}" for name, count in zip(ids, answers.sites) for k in range(count)]
    elif np.isfinite(answers.limit):
        head += ["novelty", "outside"]
        columns = np.column_stack([columns, answers.novelty, answers.outside])
    note = [answers.meaning] if answers.meaning and with_meaning else []
    cells = [["" if np.isnan(v) else f"{v:.5g}" for v in row] for row in columns]
    return files.csv_text(head + ["meaning"] * len(note), [[i, *row, *note] for i, row in zip(ids, cells)])


def with_novelty(drawn: Dataset, heads: str) -> Dataset:
    """Samples with their novelty as a property, and `outside`, 1 beyond the heads' limit; both in a line, too.

    A crystal that the heads do not take has neither.
    """
    import jax
    import numpy as np

    from crysjax.data import batching

    loaded = registry.load_model(heads, "heads")
    limit = float(loaded.config["settings"].get("novelty.limit", np.inf))
    if not np.isfinite(limit):
        raise ValueError(f"--novelty {heads}: these heads do not know how far their training data are")
    both = jax.jit(lambda params, pack: loaded.build.together(params, pack)[1:])
    novelty, features = batching.each_crystal(lambda pack: both(loaded.params, pack), drawn)
    novelty = np.where(np.isfinite(features).all(-1), novelty, np.nan)
    outside = np.where(np.isnan(novelty), np.nan, novelty > limit)
    say(f"crysjax: {_far(novelty, limit, heads)}", err=True)
    return replace(drawn, properties=drawn.properties | {"novelty": novelty, "outside": outside})


def _far(novelty: np.ndarray, limit: float, heads: str) -> str:
    import numpy as np

    known = novelty[~np.isnan(novelty)]
    if not len(known):
        return f"{heads} takes none of the {len(novelty)} samples: more neighbors, or thinner cells, than it knows"
    refused = f"; {len(novelty) - len(known)} are none that it takes" if len(known) < len(novelty) else ""
    return (
        f"{(known > limit).sum()} of {len(known)} samples ({(known > limit).mean():.1%}) are outside the training data "
        f"of {heads}: novelty above {limit:.2f}, which 1 % of held-out crystals reach; the median is "
        f"{np.median(known):.2f}{refused}"
    )


def warn_of_strangers(what: str, given: Dataset, known: Sequence[int], answers: str, counted: bool = False) -> None:
    """A line on standard error if crystals have elements that a model was not trained on; `counted`: how many do."""
    import numpy as np

    from crysjax.chemistry import elements as periodic
    from crysjax.data import datasets

    strange = ~np.isin(given.numbers, known)
    if strange.any():
        symbols = ", ".join(periodic.SYMBOLS[z - 1] for z in np.unique(given.numbers[strange]))
        count = int(np.logical_or.reduceat(strange, datasets.offsets(given)[:-1]).sum())
        share = f" ({count} of {len(given)} crystals)" if counted else ""
        say(f"crysjax: {what}: the model was not trained on {symbols}{share}; such {answers} mean little", err=True)
