"""Frames to learn a potential from: real and generated crystals, at rest, rattled, strained, squeezed and scrambled.

    python experiments/student/frames.py --real data/mp_20_16k.npz:train --sampled samples.npz --out data/frames.npz

Then `crysjax data label data/frames.npz --potential nequix-oam-1-pft --out data/student.npz` and
`crysjax train configs/student.yaml --out runs/student`. What came of it: README.md.
"""

from __future__ import annotations

import argparse
import itertools
import zlib

import numpy as np

from crysjax.data import datasets
from crysjax.data.datasets import Dataset
from crysjax.data.readers.part import read_part
from crysjax.geometry.neighbors import crystal_edges

KINDS = ("rest", "small", "large", "volume", "strong", "random", "sampled")


def held_out(dataset: Dataset, share: float) -> np.ndarray:
    """Whole chemical systems (sets of elements) set apart, the same ones in every run: (m,) bool."""
    first = datasets.offsets(dataset)
    systems = [np.unique(dataset.numbers[a:b]).tobytes() for a, b in itertools.pairwise(first)]
    return np.array([zlib.crc32(s) / 2**32 < share for s in systems])


def distort(rng: np.random.Generator, kind: str, frac: np.ndarray, lattice: np.ndarray) -> tuple:
    """One frame of a crystal: displacements (Å), symmetric strain and volume change of the given kind."""
    rattle, strain, volume = {
        "rest": (0.0, 0.0, 0.0),
        "small": (rng.uniform(0.01, 0.1), 0.02, 0.03),
        "large": (rng.uniform(0.1, 0.3), 0.05, 0.1),
        "volume": (rng.uniform(0.0, 0.1), 0.02, 0.3),
        "strong": (rng.uniform(0.3, 0.6), 0.12, 0.2),
        "random": (0.0, 0.1, 0.2),
        "sampled": (rng.choice([0.0, 0.1]), 0.02, 0.05),
    }[kind]
    noise = rng.normal(size=(3, 3)) * strain
    lattice = lattice @ (np.eye(3) + (noise + noise.T) / 2) * np.cbrt(1 + rng.uniform(-0.7, 1) * volume)
    if kind == "random":  # any positions in a cell of a sensible volume, as an untrained generator makes them
        frac = rng.random(frac.shape)
    return frac + rng.normal(size=frac.shape) * rattle @ np.linalg.inv(lattice), lattice


def is_sane(frac: np.ndarray, lattice: np.ndarray, closest: float, largest: int) -> bool:
    """No two atoms nearer than `closest` Å and no more than `largest` directed edges within 6 Å."""
    if np.linalg.det(lattice) < 3 * len(frac):
        return False
    pair, shift = crystal_edges(frac, lattice, 6.0)
    r = (frac[pair[:, 1]] + shift - frac[pair[:, 0]]) @ lattice
    return 2 * len(pair) <= largest and bool(((r**2).sum(-1) > closest**2).all())


def make(real: Dataset, sampled: Dataset, *, counts: dict[str, int], share: float, seed: int, largest: int) -> Dataset:
    """Frames in random order; ids are `kind/source id`, split is "train" or "held_out"."""
    rng, entries = np.random.default_rng(seed), []
    for kind, count in counts.items():
        source = sampled if kind == "sampled" else real
        first, made = datasets.offsets(source), 0
        while made < count:
            i = int(rng.integers(len(source)))
            sites = slice(first[i], first[i + 1])
            frac, lattice = distort(rng, kind, source.frac[sites].astype(float), source.lattice[i].astype(float))
            if source.num_atoms[i] > 20 or not is_sane(frac, lattice, 1.2 if kind == "random" else 0.8, largest):
                continue
            entries.append((f"{kind}/{source.ids[i]}", source.numbers[sites], frac % 1, lattice))
            made += 1
    order = rng.permutation(len(entries))
    ids, numbers, frac, lattice = zip(*(entries[k] for k in order))
    frames = Dataset(
        np.array(ids), np.array([len(z) for z in numbers], np.int32), np.concatenate(numbers),
        np.concatenate(frac).astype(np.float32), np.array(lattice, np.float32), {}, np.full(len(ids), "train", "<U8"),
        {"seed": seed, "counts": counts},
    )  # fmt: skip
    frames.split[held_out(frames, share)] = "held_out"
    return frames


SHARES = {"rest": 0.25, "small": 0.2, "large": 0.2, "volume": 0.1, "strong": 0.05, "random": 0.05, "sampled": 0.15}


def main() -> None:
    """Make the frames and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", required=True, help="PATH[:SPLIT]")
    parser.add_argument("--sampled", required=True, help="PATH[:SPLIT] of crystals that a generator made")
    parser.add_argument("--out", required=True)
    parser.add_argument("--count", type=int, default=12000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    counts = {kind: round(share * arguments.count) for kind, share in SHARES.items()}
    real, sampled = read_part(arguments.real), read_part(arguments.sampled)
    frames = make(real, sampled, counts=counts, share=0.05, seed=arguments.seed, largest=4000)
    held = int((frames.split == "held_out").sum())
    print(f"{datasets.save(frames, arguments.out)}: {len(frames)} frames, {held} of held-out chemical systems")


if __name__ == "__main__":
    main()
