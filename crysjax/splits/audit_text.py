"""The audit for people: plain text for a terminal, and a markdown report that a referee can read."""

from __future__ import annotations

from crysjax.splits import audit_columns as columns
from crysjax.splits import audit_repeats as repeats

_FAMILIES = {"chemical_system": "chemical system", "prototype": "prototype",
             "wyckoff_sequence": "space group and Wyckoff sequence"}  # fmt: skip


def text(report: dict) -> str:
    """Counts a pair of splits, then the findings."""
    lines = [f"{report['crystals']} crystals: " + ", ".join(f"{k} {v}" for k, v in report["splits"].items())]
    for name, count in report["repeated_within"].items():
        near = report["within"][name]["near_duplicates"]
        lines += [f"{name}: {count} rows repeat an earlier row of the same split"] if count else []
        lines += [f"{name}: {near} rows nearly repeat another row of the same split"] if near else []
    for pair, found in report["pairs"].items():
        lines += [f"{pair}: {found['rows']} rows", *(f"  {line}" for line in _pair_lines(*pair.split(" -> "), found))]
    for kind, title in (("leak", "leaks"), ("scope", "what these splits do not test")):
        rows = [row for row in report["findings"] if row["kind"] == kind]
        lines += [f"{title}: {len(rows) or 'none found'}", *(f"  {_sentence(row)}" for row in rows)]
    values = [row for row in report["findings"] if row["kind"] == "value"]
    lines += [f"suspicious values: {len(values)}", *(f"  {_sentence(row)}" for row in values)] if values else []
    return "\n".join(lines)


def _sentence(row: dict) -> str:
    share = f"{_share(row['count'], row['of'])} " if row["of"] else ""
    return f"{row['check']}, {row['where']}: {share}{row['says']}. Avoid: {row['avoid']}"


def _share(count: int, of: int) -> str:
    return f"{count} ({count / max(of, 1):.1%})"


def _pair_lines(reference: str, target: str, found: dict) -> list[str]:
    rows, shared = max(found["rows"], 1), found["same_composition"]
    lines = [
        f"same id in {reference}: {found['same_id']} ({found['same_id'] / rows:.1%})",
        f"same structure in {reference} (exact duplicates): {found['exact_duplicates']}",
        f"nearly the same structure in {reference}: {found['near_duplicates']}{_estimated(found)}",
        f"composition twins: {shared / rows:.1%} of {target} compositions ({shared} rows) occur in {reference}",
    ]
    if found["checked"]:
        checked = f"of these ({found['checked']} compared)"
        pairs = ", ".join(f"{name} ({n})" for name, n in found["swapped"].items())
        lines += [
            f"  {found['twins']:.1%} {checked} differ by a permutation of species on the same sites",
            f"  {found['duplicates']:.1%} {checked} are near duplicates as they are",
        ]
        if found["twins"]:
            lines += [f"  exchanged in twins: {found['two_cations']:.1%} two cations; most often {pairs}"]
    for kind, overlap in found["families"].items():
        share = f"{'at least ' if overlap['drawn'] else ''}{overlap['rows'] / rows:.1%} of rows"
        lines.append(f"{_FAMILIES[kind]} known from {reference}: {share}")
    return lines


def _estimated(found: dict) -> str:
    if found["near_checked"] == found["near_proposed"]:
        return ""
    return f" (estimated: {found['near_checked']} of {found['near_proposed']} proposals compared)"


# The report


def markdown(report: dict, name: str) -> str:
    """The report on the data set `name`: findings, counts, the worst pairs with their ids, and what was done how."""
    parts = [f"# Leakage audit of {name}", _data_set(report), "## Findings", *_findings(report),
             "## Pairs of splits", _counts(report), "## Families known from the first split", _family_table(report),
             "## Worst pairs", _worst(report), "## What was checked, and how", _methods(report)]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _table(head: list[str], rows: list[list]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _data_set(report: dict) -> str:
    splits = ", ".join(f"{name} {count}" for name, count in report["splits"].items())
    made = "; ".join(_recorded(report["provenance"])) or "not recorded in the file"
    return (
        f"{report['crystals']} crystals: {splits}. How the split was made: {made}. "
        f"Properties: {', '.join(report['properties']) or 'none'}."
    )


def _recorded(node: object) -> list[str]:
    """What the provenance, or that of a part, says of how a split was made."""
    if isinstance(node, dict) and isinstance(node.get("split"), dict):
        return [", ".join(f"{name} {value}" for name, value in node["split"].items())]
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    return [line for child in children for line in _recorded(child)]


def _findings(report: dict) -> list[str]:
    """A table of leaks and one of scope."""
    titles = {"leak": "Leaks: a number on the second split is better than it would be on new crystals.",
              "scope": "Scope: no fault, but what results on this split do not show.",
              "value": "Values: labels that look like placeholders or slips."}  # fmt: skip
    head = ["check", "where", "rows", "what it means", "what avoids it"]
    parts = []
    for kind, title in titles.items():
        rows = [[r["check"], r["where"], _share(r["count"], r["of"]) if r["of"] else "-", r["says"], f"`{r['avoid']}`"]
                for r in report["findings"] if r["kind"] == kind]  # fmt: skip
        parts += [title if rows else f"{title} None found.", *([_table(head, rows)] if rows else [])]
    return parts


def _counts(report: dict) -> str:
    head = ["pair", "rows", "same id", "exact", "near", "same composition", "compared", "twins", "near duplicates"]
    rows = [
        [pair, f["rows"], f["same_id"], f["exact_duplicates"], f["near_duplicates"],
         _share(f["same_composition"], f["rows"]), f["checked"], f"{f['twins']:.1%}", f"{f['duplicates']:.1%}"]
        for pair, f in report["pairs"].items()
    ]  # fmt: skip
    inside = [[name, report["splits"][name], report["ids"]["within"].get(name, 0), f["exact_duplicates"],
               f["near_duplicates"], *["-"] * 4] for name, f in report["within"].items()]  # fmt: skip
    return _table(head, rows + inside) + "\n\nA row with one name counts repeats within that split."


def _family_table(report: dict) -> str:
    rows = [
        [pair, _FAMILIES[kind], ("at least " if o["drawn"] else "") + _share(o["rows"], found["rows"]),
         f"{o['shared_families']} of {o['families']}",
         "; ".join(f"{label} ({before} / {after} rows)" for label, before, after in o["largest"])]
        for pair, found in report["pairs"].items() for kind, o in found["families"].items()
    ]  # fmt: skip
    return _table(["pair", "family", "rows", "families shared", "largest (first / second split)"], rows)


def _worst(report: dict) -> str:
    """Repeats and twins with their ids, closest first."""
    rows = []
    for where, found in [*report["within"].items(), *report["pairs"].items()]:
        rows += [[where, "repeat", p["id"], p["known"], p["formula"], f"{p['rms']:.4f}"] for p in found["worst_pairs"]]
        rows += [[where, f"twin ({p['exchanged']})", p["id"], p["known"], "", f"{p['rms']:.4f}"]
                 for p in found.get("closest_twins", [])]  # fmt: skip
    head = ["where", "what", "row", "known structure", "formula", "RMS / (V/n)^(1/3)"]
    return _table(head, rows) if rows else "None."


def _methods(report: dict) -> str:
    """Method and tolerance of every check."""
    same, limit = repeats.SAME, report["limit"]
    times = ", ".join(report["time_columns"]) or "none is named so: not checked"
    matcher = f"pymatgen's StructureMatcher (stol {same.stol}, angle {same.angle_degree}°, ltol {same.ltol})"
    families = "spglib, symprec 0.1 Å; prototype = anonymous formula, space group, atoms in the primitive cell; \
Wyckoff sequence = multiplicity and site symmetry of every orbit, which do not depend on the origin"
    lines = [
        f"Near duplicates: same reduced formula, fingerprints (mean neighbor distances, 12 neighbors, an element) \
within {repeats.NEAR} and volumes within {repeats.NEAR_VOLUME:.0%}, confirmed by {matcher}. At most \
{max(limit // 3, 1)} proposals are compared; where there are more, the count is scaled by the confirmed share.",
        f"Exact duplicates: the same with fingerprints within {repeats.EQUAL} and RMS below {repeats.EQUAL_RMS} of the \
free length.",
        f"Twins: at most {limit} rows of known composition per pair (seed {report['seed']}) against the most similar \
known structure, as it is ({matcher}) and with equally frequent species exchanged (stol 0.5, angle 10°, ltol 0.3).",
        f"Families: {families}. At most {report['symmetry_rows']} rows a split are drawn; where there are more, the \
shares are lower bounds."
        if report["symmetry_rows"]
        else "Prototype and Wyckoff sequence: not checked.",
        f"Time: property {times}; rows of the first split later than the earliest of the second. Exact.",
        f"Preprocessing: columns with mean 0 and deviation 1 within {columns.MOMENT:g} on all rows, or that run \
exactly from 0 or -1 to 1; and what the provenance declares as fitted ({len(report['declared'])} entries). Scaling \
to other numbers, and of inputs that are not in the file, cannot be seen.",
        f"Label leakage: Spearman |rho| > {columns.RANK} over at least {columns.FEWEST} rows, without those where both \
columns have their most frequent value. Relations that are not \
monotone, or need several columns, are not found.",
        "Suspicious values: the end of a column that lies outside all others by more than their own range and has \
only nines for digits, or comes three times or more; or that is 1,000 spreads from the median.",
        "Ids and compositions: exact comparison of every row.",
    ]
    return "\n".join(f"- {line}" for line in lines)
