"""CDVAE's coverage metrics of generated crystals: the figures, our time, and matminer's on the same crystals.

    python benchmarks/coverage.py SAMPLES REFERENCE [--set mp_20] [--count 1000] [--peer-python PATH/TO/python]

Both sets are files or folders that `crysjax data` reads. `--peer-python` names an interpreter with matminer and
pymatgen; it makes the structure fingerprints of the first `--peer-count` samples as CDVAE's script does, one process,
and the script prints both times per crystal (processor time) and the largest difference of a fingerprint.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PEER = """
import sys, time, warnings
import numpy as np
from matminer.featurizers.site.fingerprint import CrystalNNFingerprint
from pymatgen.core import Lattice, Structure

warnings.simplefilter("ignore")
file, site = np.load(sys.argv[1]), CrystalNNFingerprint.from_preset("ops")
start = np.concatenate([[0], np.cumsum(file["num_atoms"])])
clock, found = time.process_time(), []
for i, (a, b) in enumerate(zip(start, start[1:])):
    crystal = Structure(Lattice(file["lattice"][i].astype(float)), file["numbers"][a:b].tolist(), file["frac"][a:b])
    found.append(np.mean([site.featurize(crystal, j) for j in range(len(crystal))], axis=0))
np.savez(sys.argv[2], fingerprint=np.array(found), seconds=time.process_time() - clock)
"""


def peer(part, python: str) -> tuple[np.ndarray, float]:
    """matminer's fingerprints of a data set and the processor seconds they took."""
    with tempfile.TemporaryDirectory() as folder:
        crystals, answers = Path(folder) / "crystals.npz", Path(folder) / "answers.npz"
        arrays = {"num_atoms": part.num_atoms, "numbers": part.numbers, "frac": part.frac.astype(float)}
        np.savez(crystals, lattice=part.lattice, **arrays)
        subprocess.run([python, "-c", PEER, str(crystals), str(answers)], check=True)
        found = np.load(answers)
        return found["fingerprint"], float(found["seconds"])


def compare(samples, count: int, python: str) -> None:
    """Our fingerprints and matminer's of the first `count` samples, one process each, one after the other."""
    from crysjax.data.datasets import entries, take
    from crysjax.evaluation.metrics import coverage

    part = take(samples, np.arange(min(count, len(samples))))
    coverage.structure_fingerprints(entries(take(part, np.arange(1))))  # element tables, SciPy
    clock = time.process_time()
    ours = coverage.structure_fingerprints(entries(part))
    ours_s = time.process_time() - clock
    theirs, theirs_s = peer(part, python)
    print(
        f"{len(part)} crystals: ours {1e3 * ours_s / len(part):.1f} ms per crystal, matminer "
        f"{1e3 * theirs_s / len(part):.1f} ms, {theirs_s / ours_s:.1f} times; "
        f"largest difference {np.nanmax(np.abs(ours - theirs)):.1e}"
    )


def main() -> None:
    from crysjax.data.datasets import take
    from crysjax.data.readers.io import read
    from crysjax.evaluation.metrics import coverage

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("samples")
    parser.add_argument("reference")
    parser.add_argument("--set", default="mp_20", choices=sorted(coverage.CUTOFFS))
    parser.add_argument("--count", type=int, default=0, help="the first COUNT samples; 0 = all")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--peer-python")
    parser.add_argument("--peer-count", type=int, default=100)
    args = parser.parse_args()
    samples, reference = read(args.samples), read(args.reference)
    if args.count:
        samples = take(samples, np.arange(min(args.count, len(samples))))
    if args.peer_python:
        compare(samples, args.peer_count, args.peer_python)
    made = []
    for name, part in (("samples", samples), ("reference", reference)):
        clock = time.perf_counter()
        made.append(coverage.fingerprints(part, processes=args.processes))
        missing = int(np.isnan(made[-1].structure).any(1).sum())
        print(f"{len(part)} {name}: {time.perf_counter() - clock:.1f} s, {missing} without a fingerprint")
    clock = time.perf_counter()
    found = coverage.coverage(*made, coverage.CUTOFFS[args.set])
    print(f"metrics: {time.perf_counter() - clock:.1f} s")
    for name, total in found._asdict().items():
        print(f"{name:22s} {total.value:.4f} [{total.low:.4f}, {total.high:.4f}] of {total.count}")


if __name__ == "__main__":
    sys.exit(main())
