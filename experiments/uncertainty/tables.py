"""results.md out of results.json: the tables of `run.py` in Markdown.

    python experiments/uncertainty/tables.py experiments/uncertainty/results.json

Written beside the JSON.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from crysjax.data import files
from crysjax.reports import record

LABELS = {"formation_energy_ev_per_atom": "formation energy, eV/atom", "band_gap_ev": "band gap, eV"}
HEADER = ["rows", "MAE", "bias", "RMS error/std (1)", "in 1 std (.683)", "in 2 std (.954)", "ENCE", "of perfect", "NLL",
          "sharpness", "rank corr."]  # fmt: skip
TENTH, FORESEEN = "predicted std of a tenth of the rows", ["validation as it is", "reweighted", "true"]
INTRODUCTION = """# The tables of run.py

Made from [results.json](results.json) by `tables.py`. Errors are prediction - truth: a positive bias is a prediction
that is too high. In brackets: bands of 95 %; in the tables "validation as it is": the share in two std, and the bias.
"""


def calibrated(label: str, rows: list[dict]) -> str:
    """Calibration of all, by group, by distance and of the selected."""
    lines = [
        [row["rows"], f"{row['count']:,}", f"{row['mae']:.3f}", f"{row['bias']:+.3f}", f"{row['scale']:.2f}",
         f"{row['coverage_1']:.3f}", f"{row['coverage_2']:.3f}", f"{row['ence']:.2f}", f"{row['ence_of_perfect']:.2f}",
         f"{row['nll']:.2f}", f"{row['sharpness']:.3f}", f"{row['rank_correlation']:.2f}"] for row in rows
    ]  # fmt: skip
    return record.table([label, *HEADER], lines)


def reliable(label: str, rows: list[dict]) -> str:
    """Predicted std beside the error."""
    lines = [[f"{row['std']:.3f}", f"{row['rmse']:.3f}", f"{row['std_over_rmse']:.2f}"] for row in rows]
    return record.table([f"{label}: {TENTH}", "RMS error", "std / RMS error"], lines)


def foreseen(label: str, rows: list[dict]) -> str:
    """RMS error/std foreseen and found."""
    lines = []
    for row in rows:
        three = [row[k] for k in ("validation", "reweighted", "true")]
        told = [f"{one['scale']:.2f} ({one['coverage_2']:.3f}; {one['bias']:+.3f})" for one in three]
        still = f"{row['reweighted']['effective_count']:.0f} of {row['reweighted']['count']}"
        lines.append([row["rows"], *told, still, f"{row['imbalance_std']:.2f}"])
    return record.table([label, *FORESEEN, "effective count", "imbalance, std"], lines)


def hits(label: str, rows: list[dict]) -> str:
    """Hits by budget."""
    lines, budgets = {}, sorted({row["budget"] for row in rows})
    for row in rows:
        band = f" ({row['low']:.0f} to {row['high']:.0f})" if "low" in row else ""
        cell = f"{row['hits']:.1f} ± {row['std']:.1f}" if "std" in row else f"{row['hits']:.0f}{band}"
        lines.setdefault(row["by"], []).append(cell)
    head = [f"{label}: ranked by", *(f"{b} validations" for b in budgets)]
    return record.table(head, [[name, *cells] for name, cells in lines.items()])


def gains(label: str, rows: list[dict]) -> str:
    """Areas under the curve of hits."""
    lines = [
        [row["rows"], row["by"], f"{row['hits']:,} of {row['pool']:,}", f"{row['area']:.3f}",
         f"{row['other_area']:.3f}", f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"]
        for row in rows
    ]  # fmt: skip
    return record.table([f"{label}: rows", "ranked by", "hits there", "area", "area by mean", "difference"], lines)


def said(rows: list[dict]) -> str:
    """One line for each warning."""
    return "\n".join(
        f"* {row['about'] + ': ' if 'about' in row else ''}{row['name']}: "
        f"{'found' if row['detected'] else 'not found'}: {row['explanation']}" for row in rows
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    path = parser.parse_args().results
    report, parts = record.read(path), [INTRODUCTION.strip()]
    origin = f"{report['day']}, commit {report['commit'][:8]}, {report['settings']['model']}."
    parts.append(f"{origin} Note: {report['note']}." if "note" in report else origin)
    makers = {"calibration": calibrated, "reliability": reliable, "foreseen": foreseen, "hits": hits, "gain": gains}
    for name, label in LABELS.items():
        parts += [make(label, report[f"{name}: {table}"]) for table, make in makers.items()]
        parts.append(said(report[f"{name}: findings"]))
    parts.append(said(report["findings"]))
    files.write(path.with_suffix(".md"), "\n\n".join(parts) + "\n")


if __name__ == "__main__":
    main()
