"""One set of samples judged by `crysjax evaluate`, everything but stability and target, as a raw result.

    python experiments/evaluation/run.py --samples ../shared/data/samples/DiffCSP_mp_20_10k.npz \
        --train data/mp_20_16k.npz --reference data/mp_20_raw.npz:test --out experiments/evaluation/diffcsp.json

The command is the one that users type; `metrics.json`, which it writes, is kept whole but for the ids of the worst
crystals of each warning. The ceiling is one half of the reference (at most 1,000 crystals) judged against the other.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from crysjax.reports import record


def judged(options: argparse.Namespace) -> tuple[dict[str, Any], float]:
    """What the command writes, by set, and its wall time in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        asked = ["--train", options.train, "--reference", options.reference, "--seed", str(options.seed)]
        began = time.monotonic()
        command = [sys.executable, "-m", "crysjax", "evaluate", str(options.samples), *asked, "--out", folder]
        subprocess.run(command, check=True)
        return record.read(Path(folder) / "metrics.json"), time.monotonic() - began


def kept(found: dict[str, Any]) -> dict[str, Any]:
    """One set's totals with a row for each metric, distance and warning."""
    rows = {part: [{"name": k} | v for k, v in found.get(part, {}).items()] for part in ("metrics", "distances")}
    warnings = [{k: v for k, v in one.items() if k != "worst"} for one in found.get("findings", [])]
    return found | rows | {"findings": warnings}


def main() -> None:
    """Judge, write, print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=Path, required=True)
    parser.add_argument("--train", required=True, help="PATH[:SPLIT] of known crystals")
    parser.add_argument("--reference", required=True, help="PATH[:SPLIT] of held-out crystals")
    parser.add_argument("--seed", type=int, default=0, help="of the ceiling's halves")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found, seconds = judged(options)
    report = record.about(options) | {"seconds": round(seconds, 1)}
    for name, totals in found.items():
        report |= {f"{name}: {part}": value for part, value in kept(totals).items()}
    record.write(options.out, report)
    for row in kept(found[next(iter(found))])["metrics"]:
        print(f"{row['name']:40s}{row['value']:.4f} ({row['low']} to {row['high']})")


if __name__ == "__main__":
    main()
