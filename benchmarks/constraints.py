"""Constraints: how often samples break them, and what they cost in validity and diversity.

    python benchmarks/constraints.py [--count 10000] [--steps 10] [--only NAME ...] [--out TABLE.md]

The shipped generator with few steps and small crystals, so that 10,000 samples of each constraint take minutes. The
violations are counted on the host, after the samples went through a data set, by `constraints.constraints.violations`
and, for distances, by ASE's neighbor list. Validity is CDVAE's (`evaluation/validity`).
"""

from __future__ import annotations

import argparse
import time

import jax
import numpy as np

from crysjax.chemistry import elements, oxidation
from crysjax.constraints import space_group
from crysjax.constraints.constraint import Fixed
from crysjax.constraints.constraints import Constraints, compiled, constrain
from crysjax.constraints.violations import violations
from crysjax.data import datasets
from crysjax.data.datasets import Dataset, Entry
from crysjax.evaluation.validity import validity
from crysjax.models import registry
from crysjax.sampling import draws

LI, O, P, TI, FE = 3, 8, 15, 22, 26
POISONS = tuple(elements.NUMBERS[s] for s in ("As", "Cd", "Hg", "Tl", "Pb"))
SEED = Fixed(np.array([TI, O]), np.array([[0, 0, 0], [0.5, 0.5, 0.1]], np.float32))
CELL = np.array([[4.1, 0, 0], [0, 4.1, 0], [1, 0, 5.3]], np.float32)
STATES = oxidation.common_states()
CASES = {
    "none": Constraints(),
    "formula LiFePO4": Constraints(formula={LI: 1, FE: 1, P: 1, O: 4}),
    "only Li, Fe, P, O": Constraints(allowed=(LI, FE, P, O)),
    "no As, Cd, Hg, Tl, Pb": Constraints(forbidden=POISONS),
    "ternary": Constraints(num_elements=(3, 3)),
    "2 to 4 elements": Constraints(num_elements=(2, 4)),
    "neutral": Constraints(states=STATES),
    "ternary, neutral": Constraints(num_elements=(3, 3), states=STATES),
    "fixed atoms": Constraints(fixed=SEED),
    "fixed atoms and cell": Constraints(fixed=SEED._replace(lattice=CELL)),
    "distances of 1.5 Å": Constraints(min_distance_angstrom=1.5),
    "distances of 2.0 Å": Constraints(min_distance_angstrom=2.0),
    "space group 62": Constraints(space_groups=(62,)),
    "space group 225": Constraints(space_groups=(225,)),
    "all but the group": Constraints(
        forbidden=POISONS, num_elements=(3, 3), states=STATES, fixed=SEED, min_distance_angstrom=1.5
    ),
    "ternary, neutral, draft and repair": Constraints(num_elements=(3, 3), states=STATES),
}


def drawn(name: str, count: int, steps: int) -> tuple[Dataset, float]:
    """Samples of a case and seconds; the last case does without the hook in the sampler, as any family could."""
    wanted, native = CASES[name], "repair" not in name
    config = registry.load_model("mp_20_generator", "generator").config
    sizes = {n: c for n, c in ((int(n), c) for n, c in config["sizes"].items()) if 3 <= n <= 8}
    sizes = {7: 1} if wanted.formula else sizes
    if wanted.space_groups:
        return in_group(*wanted.space_groups, sizes, count, steps)
    num_atoms = draws.draw_sizes(0, sizes, count)
    constraint = compiled(wanted, num_atoms.tolist(), known=config["elements"])
    settings = {"generator.steps": steps} | ({"generator.constraint": constraint} if native else {})
    loaded = registry.load_model("mp_20_generator", "generator", settings)
    generator = constrain(loaded.build, constraint, min_distance_angstrom=wanted.min_distance_angstrom, native=native)
    start = time.perf_counter()
    asked = np.full((count, 2), np.nan, np.float32)
    found = draws.sample(generator, loaded.params, jax.random.key(1), draws.blank(num_atoms), asked)
    return found, time.perf_counter() - start


def in_group(group: int, sizes: dict[int, int], count: int, steps: int) -> tuple[Dataset, float]:
    """Samples of a space group, with orbits drawn for each, and seconds."""
    loaded = registry.load_model("mp_20_generator", "generator", {"generator.steps": steps})
    fit = {n: c for n, c in sizes.items() if space_group.possible(group, {0: n})}
    num_atoms = draws.draw_sizes(0, fit, count)
    orbits = space_group.draw_orbits(group, [{0: n} for n in num_atoms.tolist()])
    blank = draws.blank(num_atoms, np.concatenate([space_group.sites_of(one) for one in orbits]))
    start = time.perf_counter()
    found = draws.sample(
        space_group.in_group(loaded.build, native=True), loaded.params, jax.random.key(1), blank,
        np.full((count, 2), np.nan, np.float32), elements=tuple(loaded.config["elements"]),
        space_group=np.full(count, group), view=space_group.orbits_view(orbits),
    )  # fmt: skip
    return found, time.perf_counter() - start


def broken_by_ase(crystals: Dataset, distance: float) -> int:
    """Crystals with a pair closer than `distance`, by another program."""
    from ase import Atoms
    from ase.neighborlist import neighbor_list

    def close(e: Entry) -> bool:
        atoms = Atoms(e.numbers, scaled_positions=e.frac, cell=e.lattice, pbc=True)
        return len(neighbor_list("i", atoms, distance)) > 0

    return sum(close(e) for e in datasets.entries(crystals)) if distance > 0 else 0


def row(name: str, crystals: Dataset, seconds: float) -> str:
    """One line of the table."""
    broken = violations(CASES[name], crystals)
    count = np.any(list(broken.values()), 0).sum() + broken_by_ase(crystals, CASES[name].min_distance_angstrom)
    passed = validity(crystals)
    rows = datasets.entries(crystals)
    formulas = len({elements.formula(e.numbers) for e in rows})
    kinds = np.mean([len(set(e.numbers.tolist())) for e in rows])
    volume = np.median(np.abs(np.linalg.det(crystals.lattice)) / crystals.num_atoms)
    shares = " | ".join(f"{100 * passed[k].mean():.1f}" for k in ("structure", "composition", "valid"))
    return f"| {name} | {count} | {shares} | {formulas} | {kinds:.2f} | {volume:.1f} | {seconds:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=list(CASES), metavar="NAME")
    parser.add_argument("--out", help="a file for the table")
    arguments = parser.parse_args()
    lines = [
        "| constraint | violations | structure % | composition % | valid % | formulas | elements | Å^3 per atom | s |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    print("\n".join(lines), flush=True)
    for name in arguments.only:
        lines.append(row(name, *drawn(name, arguments.count, arguments.steps)))
        print(lines[-1], flush=True)
        if arguments.out:
            with open(arguments.out, "w") as file:
                file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
