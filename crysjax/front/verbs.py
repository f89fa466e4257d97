"""Verbs of models: load, sample, predict, train, design, and objectives of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import Condition, Pack, PyTree
from crysjax.campaign import goals as targets
from crysjax.campaign import outputs, propose, round
from crysjax.campaign.assemble import assemble
from crysjax.campaign.density_target import DENSITY, with_density
from crysjax.campaign.plan import MOST, Plan, plan_of, read_plan
from crysjax.campaign.polymorphs import Polymorphs, PolymorphSearch, find
from crysjax.config import as_python, fits, read_yaml
from crysjax.data import batching, files
from crysjax.data.datasets import Dataset
from crysjax.data.readers import limits
from crysjax.data.readers.source import read, write
from crysjax.data.readers.writing import refuse_other_suffixes
from crysjax.models import answers, registry
from crysjax.models.answers import Answers
from crysjax.models.registry import Model
from crysjax.sampling import draws
from crysjax.sampling import sample as sampling
from crysjax.sampling.options import Options, Symbols, as_keys, formula_counts
from crysjax.training import train as training

MOST_CRYSTALS = 10_000
"""Of an objective: all are in one pack."""

Windows = Mapping[str, Any]
"""Property -> `[low, high]` (None leaves a side open), "minimize" or "maximize", as in a plan's `target`."""


def load(name: str, **settings: Any) -> Model:
    """A model by its name or path, of whatever kind: `kind`, pure functions `build`, `params`, and its `config`.

    Args:
        name: a shipped or pulled model (`crysjax models list`), or the path of a `.npz` or `.nqx` file.
        settings: of the model that training does not fix, with `_` for the dot: `generator_steps=20`.
    """
    return registry.load(name, {key.replace("_", ".", 1): value for key, value in settings.items()})


def sample(
    model: str, key: int | Array = 0, n: int = 100, *, like: Any = None, templates: Any = None,
    formula: str = "", elements: Symbols = (), forbid: Symbols = (), require: Symbols = (),
    num_elements: int | str | tuple[int, int] = 0, neutral: bool = False, fix: str = "", fix_cell: bool = False,
    min_distance: float = 0.0, space_group: int = 0, crystal_system: str = "",
    density_g_cm3: str | tuple[float | None, ...] = (), min_atoms: int = 1, max_atoms: int | None = None,
    properties: Mapping[str, float | tuple[float, float]] | None = None,
    guidance: float | Mapping[str, float] | None = None, steps: int | None = None, temperature: float | None = None,
    best_of: int = 1, by: str = "mp_20_heads", out: str | PathLike | None = None,
) -> Dataset:  # fmt: skip
    """Crystals from a trained generator; the constraints hold in every one that is returned.

    Args:
        model: a generator, such as "mp_20_wyckoff", or its path.
        key: a seed, or a JAX key; the same one gives the same bits.
        n: free samples, without `like`.
        like: crystals (as `read` takes them) whose compositions are asked for, one sample for each.
        templates: crystals that a retrieval-based model looks up from, or exchanges elements in where `like` is not
            given; `"aflow-prototypes"` needs no file.
        formula: composition of every sample, in whole formula units, such as "SrTiO3". This and the constraints below
            mean what they mean in a plan of `design`.
        elements: elements that may occur, by symbols or by names of lists such as "earth-abundant".
        forbid: elements that may not occur, by symbols or by names of lists.
        require: elements that every sample contains.
        num_elements: number of different elements, or its range.
        neutral: whether common oxidation states have to add up to zero.
        fix: file of one crystal whose atoms every sample has.
        fix_cell: whether the cell of `fix` is kept too.
        min_distance: smallest distance between atoms, periodic images included, Å.
        space_group: number of the space group of every sample; 0 = any.
        crystal_system: crystal system of every sample, such as "cubic".
        density_g_cm3: window (low, high) of the density, g/cm³, None where a side is open.
        min_atoms: fewest atoms in the cell.
        max_atoms: most atoms in the cell.
        properties: conditions of the model, name -> value or (low, high).
        guidance: weight of the conditions, or one for each name.
        steps, temperature: of the sampler.
        best_of: samples of each composition of `like`, of which the one with the lowest predicted formation energy is
            kept.
        by: the property heads that predict it.
        out: a file or folder for the crystals, as `write` takes it.

    Samples that break a constraint are left out, and how many were is said; so fewer than `n` may come.
    """
    if out is not None:
        refuse_other_suffixes(out)  # before anything is drawn
    n, min_atoms = _whole("n", n), _whole("min_atoms", min_atoms)
    max_atoms = None if max_atoms is None else _whole("max_atoms", max_atoms)
    steps = None if steps is None else _whole("steps", steps)
    wanted = Options(formula, elements, forbid, num_elements, neutral, fix, fix_cell, min_distance, space_group,
                     require, crystal_system, density_g_cm3)  # fmt: skip
    request = sampling.Request(
        n, None if like is None else read(like), None if templates is None else read(templates), max_atoms, wanted,
        properties or {}, guidance, steps, temperature, min_atoms, _whole("best_of", best_of), by,
    )  # fmt: skip
    of_jax = isinstance(key, jax.Array | np.ndarray)
    seed = int(jax.random.bits(key, dtype=jnp.uint32)) if of_jax else _whole("key", key, 0, 2**32 - 1)
    with as_keys():
        drawn = sampling.sample(model, request, seed=seed)
    if out is not None:
        write(drawn, out)
    return drawn


def predict(crystals: Any, model: str = "mp_20_heads", *, out: str | PathLike | None = None) -> Answers:
    """Properties with a standard deviation, and how far each crystal lies from the training data.

    Args:
        crystals: as `read` takes them.
        model: property heads or a model of synthesizability, by name or path.
        out: a CSV, one row per crystal.

    Returns:
        `names` of the k properties; `said.value`, `said.std` (m, k), NaN where the model has no answer; `novelty` (m,),
        and `limit`, beyond which a crystal is outside the training data.
    """
    given = read(crystals)
    said = answers.ask(registry.load_scorer(model), given)
    if out is not None:
        files.write(out, answers.table(given.ids, said, with_meaning=True))
    return said


def train(settings: str | PathLike | Mapping[str, Any], out: str | PathLike) -> Path:
    """Train a generator, property heads or a potential; the path of the model's file.

    Args:
        settings: a config such as `configs/mp_20_generator.yaml`, or the same as a mapping.
        out: folder of the run; one that was interrupted goes on bit for bit.
    """
    given = as_python(dict(settings)) if isinstance(settings, Mapping) else read_yaml(Path(settings))
    return training.train(*training.parse(given), Path(out))


def design(config: Plan | str | PathLike | Mapping[str, Any], out: str | PathLike, *, resume: bool = True) -> dict:
    """A design campaign: rounds of sample, guide, screen, score, select, relax, validate, feed back.

    Args:
        config: a plan's YAML file, its settings as a mapping, or a `Plan`.
        out: folder for ledger, candidates, report and summary; a campaign that was interrupted resumes.
        resume: whether to go on with what is there; otherwise it begins again.

    Returns:
        What `summary.json` holds: counts per stage, hits beside what chance gives, calls, the best candidates.
    """
    if isinstance(config, Plan):
        checked = config
    else:
        checked = plan_of(config) if isinstance(config, Mapping) else read_plan(Path(config))
    tools, about = assemble(checked)
    outcomes = round.run(checked, tools, Path(out), resume=resume, progress=lambda *_: None)
    return outputs.write(Path(out), checked, tools.goals, outcomes, **about)


def polymorphs(
    formula: str, out: str | PathLike, *, n: int = 64, units: int = 4, space_groups: Sequence[int] = (),
    generator: str = "mp_20_wyckoff", templates: str = "", potential: str = "student", hull: Sequence[str] = (),
    steps: int = 200, batch: int = 32, seed: int = 0, progress: Callable[[int, int], None] = lambda done, total: None,
) -> Polymorphs:  # fmt: skip
    """Structures of one composition: sampled, relaxed, without duplicates, lowest energy first.

    Args:
        formula: such as "SrTiO3".
        out: folder for tables, CIFs, report and batches; the same search goes on where it was stopped.
        n: samples; each costs at most `steps` evaluations of the potential.
        units: formula units in a cell, at most.
        space_groups: only these; () leaves them to the generator.
        generator, templates: what draws, and what a retrieval-based one looks up from.
        potential: relaxes and ranks; the student is made for screening.
        hull: files of entries with formation energies, for distances to the hull.

    Returns:
        `crystals` with energies and volumes as properties, `counts` of what became of the samples, and the `level` of
        theory.
    """
    asked = PolymorphSearch(formula, generator, potential, n, units, tuple(space_groups), templates, tuple(hull), steps,
                            batch, seed)  # fmt: skip
    return find(PolymorphSearch(*map(as_python, asked)), Path(out), progress=progress)


def _whole(name: str, given: Any, least: int = 1, most: int = MOST) -> int:
    """The argument as a whole number; what is none, or out of bounds, is an error that names it."""
    value = as_python(given)
    if not fits(value, int) or not least <= value <= most:
        raise ValueError(f"{name}: {limits.shown(value)}; expected a whole number from {least} to {most}")
    return value


class Objective(NamedTuple):
    """A target as a function of a generator's noise."""

    noise: PyTree  # a start, drawn from the noise's own law
    crystals: Callable[[PyTree], Pack]  # noise -> the crystals that it decodes to
    value: Callable[[PyTree], Array]  # noise -> (n,) dimensionless, lower is better; `jit`, `vmap` and `grad` it


def objective(
    model: str, target: Windows, *, formula: str, n: int = 1, heads: str = "mp_20_heads", key: int = 0, steps: int = 20
) -> Objective:
    """How far the crystals of a composition are from a target, differentiable back to the noise that they come from.

    Args:
        model: a generator that is given compositions.
        target: property -> window or direction.
        formula: composition of the cell, such as "SrTiO3".
        n: crystals.
        heads: what predicts the properties; `density_g_cm3` needs none.
        key: seed of the noise and of what is drawn inside the sampler.
        steps: of the sampler.
    """
    n, key, steps = _whole("n", n, 1, MOST_CRYSTALS), _whole("key", key, 0, 2**32 - 1), _whole("steps", steps)
    loaded = registry.load_model(model, "generator", {"generator.steps": steps})
    predictor, _ = registry.load_predictor(heads)
    predictor = with_density(predictor) if DENSITY in target else predictor
    goals = targets.goals(Plan(target=dict(target), elements=("O",)).target, predictor.names, predictor.scale)
    with as_keys():
        counts = formula_counts(as_python(formula), loaded.config["elements"])
    most = max(map(int, loaded.config["sizes"]))
    if not 1 <= sum(counts.values()) <= most:
        raise ValueError(f"formula: {limits.shown(formula)}; expected one of 1 to {most} atoms, which {model} knows")
    numbers = np.tile(np.repeat(list(counts), list(counts.values())), n)
    atoms = len(numbers) // n
    blank = draws.blank(np.full(n, atoms), numbers)
    shape = batching.Capacity(n * atoms, max(n * atoms * (atoms - 1) // 2, 1), n)
    pack = jax.tree.map(lambda leaf: jnp.asarray(leaf[0]), batching.pack_dataset(blank, shape).pack)
    nothing = jnp.full((n, len(loaded.config["properties"])), jnp.nan)
    condition = Condition(nothing, jnp.zeros(n, jnp.int32))
    first, rest = jax.random.split(jax.random.key(key))
    energy = propose.energy(predictor, predictor.params, goals)

    def crystals(noise: PyTree) -> Pack:
        return loaded.build.decode(loaded.params, rest, noise, pack, condition)

    return Objective(loaded.build.noise(first, pack), crystals, lambda noise: energy(crystals(noise)))
