"""AMD, PDD and earth mover's distance against the `average-minimum-distance` package, and continuous novelty at scale.

    python benchmarks/distances.py --reference-python PATH/TO/python --data PATH/TO/data

The other Python has the package installed; without it the script prints our numbers alone. Both sides see the same
crystals (MP-20's validation part, k = 100) and the same pairs, after a call that warms up (its numba, our XLA), in
turns, so that a machine shared with other work disturbs both. Times are the least of the turns; where wall time had
less than two cores, compare by processor time. The last part compares DiffCSP's 10,000 samples with 27,000
references, which are the crystals of MP-20's validation and test parts and slightly moved copies of them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

K = 100
PAIRS = 20_000

THEIRS = """
import sys, time, json, numpy as np, amd
file = np.load(sys.argv[1]); start = np.concatenate([[0], np.cumsum(file["num_atoms"])])
cells = file["lattice"].astype(float)
sets = [amd.PeriodicSet(file["frac"][a:b].astype(float) @ c, c) for a, b, c in zip(start, start[1:], cells)]
pairs, k = file["pairs"], int(sys.argv[2])
pdds = [amd.PDD(s, k) for s in sets]; amd.AMD(sets[0], k); amd.EMD(pdds[0], pdds[1])
jobs = {"amd": lambda: [amd.AMD(s, k) for s in sets], "pdd": lambda: [amd.PDD(s, k) for s in sets],
        "emd": lambda: [amd.EMD(pdds[i], pdds[j]) for i, j in pairs]}
for line in sys.stdin:
    wall, cpu = time.perf_counter(), time.process_time()
    jobs[line.strip()]()
    print(json.dumps([time.perf_counter() - wall, time.process_time() - cpu]), flush=True)
"""


def part(folder: Path):
    """One part of MP-20 as a data set."""
    from crysjax.data.datasets import Dataset, wrap

    names = ("structure_id", "num_atoms", "atomic_numbers", "pos", "cell")
    ids, num_atoms, numbers, frac, cell = (np.load(folder / f"{name}.npy") for name in names)
    arrays = ids.astype(str), num_atoms.astype(np.int32), numbers.astype(np.uint8), wrap(frac), cell.astype(np.float32)
    return Dataset(*arrays, {}, np.full(len(ids), ""), {})


def timed(function) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_mb() -> float:
    """The most resident memory this process ever held, in MB (10^6 bytes)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1.024e-3


def side_by_side(dataset, reference_python: str | None, repeats: int) -> None:
    """Crystals and pairs per second, ours and theirs in turns."""
    from crysjax.crystallography.distances import amd, emd, pdd

    rows = pdd(dataset, k=K)
    pairs = np.random.default_rng(0).integers(0, len(dataset), (PAIRS, 2))
    ours = {"amd": lambda: amd(dataset, k=K), "pdd": lambda: pdd(dataset, k=K), "emd": lambda: emd(rows, rows, pairs)}
    start = time.perf_counter()
    ours["emd"]()
    print(f"first call of emd, with compilation: {time.perf_counter() - start:.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crystals.npz"
        np.savez(path, num_atoms=dataset.num_atoms, frac=dataset.frac, lattice=dataset.lattice, pairs=pairs)
        peer = reference_python and subprocess.Popen(
            [reference_python, "-c", THEIRS, path, str(K)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        print("| | what | per second | per processor second |\n| --- | --- | --- | --- |")
        for name, function in ours.items():
            count, results = PAIRS if name == "emd" else len(dataset), {"crysjax": []}
            for _ in range(repeats):
                results["crysjax"].append(timed(function))
                if peer:
                    peer.stdin.write(f"{name}\n")
                    peer.stdin.flush()
                    results.setdefault("package", []).append(json.loads(peer.stdout.readline()))
            for who, times in results.items():
                wall, cpu = np.min(times, axis=0)
                print(f"| {who} | {name} | {count / wall:,.0f} | {count / cpu:,.0f} |")
        if peer:
            peer.stdin.close()
            peer.wait()


def at_scale(data: Path) -> None:
    """Uniqueness and novelty of 10,000 samples against 27,000 references: seconds and peak memory."""
    from crysjax.data.datasets import concatenate, take, wrap
    from crysjax.data.readers.io import read
    from crysjax.evaluation.metrics import continuous

    val = part(data / "mp_20" / "val")
    moved = wrap(val.frac + np.random.default_rng(0).normal(0, 0.01, val.frac.shape))
    known = concatenate([val, part(data / "mp_20" / "test"), replace(val, frac=moved)])
    known, samples = take(known, np.arange(27_000)), read(data / "samples" / "DiffCSP_mp_20_10k.npz")
    print("| what | distance | s | peak MB |\n| --- | --- | --- | --- |")
    for distance in ("amd", "elmd", "magpie", continuous.ELMD_AND_AMD):
        name = distance if isinstance(distance, str) else " + ".join(distance)
        jobs = {
            "uniqueness": partial(continuous.uniqueness, samples, distance=distance),
            "novelty": partial(continuous.novelty, samples, known, distance=distance),
        }
        for what, job in jobs.items():
            print(f"| {what} | {name} | {timed(job)[0]:.1f} | {peak_mb():.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference-python", help="a Python with average-minimum-distance installed")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[1] / "../shared/data")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, NumPy {np.__version__}")
    side_by_side(part(options.data / "mp_20" / "val"), options.reference_python, options.repeats)
    at_scale(options.data)


if __name__ == "__main__":
    main()
