"""What each leak means for a reported result, and which split would avoid it: one sentence each.

A *leak* makes a number on the second split better than it would be on new crystals. A *scope* is no fault: it says
which claim of generalization the split does not test. A *value* is a label that is none, by all appearances.
"""

from __future__ import annotations

from collections.abc import Iterator

_SPLIT = "crysjax data split --by "
_SCOPE = {
    "chemical_system": ("chemical system", "new chemistries", "chemical-system"),
    "prototype": ("prototype", "new structure types", "prototype"),
    "wyckoff_sequence": ("space group and Wyckoff sequence", "new arrangements of sites", "space-group"),
}


def findings(report: dict) -> list[dict]:
    """Rows of `kind` (leak, scope, value), `check`, `where`, `count` of `of` rows, `says` and `avoid`, leaks first."""
    rows = [row for pair, found in report["pairs"].items() for row in _pair(*pair.split(" -> "), found)]
    rows += [*_inside(report), *_numbers(report)]
    return sorted(rows, key=lambda row: row["kind"])


def _row(kind: str, check: str, where: str, count: int, of: int, says: str, avoid: str) -> dict:
    return {"kind": kind, "check": check, "where": where, "count": count, "of": of, "says": says, "avoid": avoid}


def _pair(reference: str, target: str, found: dict) -> Iterator[dict]:
    """What one pair of splits shares."""
    where, rows = f"{reference} -> {target}", found["rows"]
    exact, near, shared = found["exact_duplicates"], found["near_duplicates"], found["same_composition"]
    if found["same_id"]:
        says = f"entries of {target} are entries of {reference}: results on them are results on training data"
        yield _row("leak", "same id", where, found["same_id"], rows, says, _SPLIT + "composition")
    if exact:
        says = f"structures of {target} stand in {reference} too: a model can recall them, so errors and match rates \
on {target} may be too good by up to {exact / rows:.1%} of its rows"
        yield _row("leak", "exact duplicates", where, exact, rows, says, _SPLIT + "composition")
    if near:
        says = f"structures of {target} differ from one of {reference} by less than StructureMatcher resolves: as \
predictions they would count as found, as samples not as novel"
        yield _row("leak", "near duplicates", where, near, rows, says, f"{_SPLIT}composition or cluster --distance")
    if shared and found["twins"]:
        twins = round(shared * found["twins"])
        says = f"compositions of {target} stand in {reference} with the same sites and species exchanged: looking the \
twin up is a baseline that a model has to beat, and beating a random template is not enough \
(estimated from {found['checked']} of {shared} compared)"
        yield _row("leak", "twins", where, twins, rows, says, _SPLIT + "composition")
    if shared:
        says = f"compositions of {target} are known from {reference}: the result is not one for new compositions"
        yield _row("scope", "same composition", where, shared, rows, says, _SPLIT + "composition")
    for kind, overlap in found["families"].items():
        name, claim, by = _SCOPE[kind]
        if overlap["rows"]:
            least = "at least: " if overlap["drawn"] else ""
            says = f"{least}rows of {target} have a {name} that occurs in {reference}: on them, the result \
says nothing about {claim}"
            yield _row("scope", f"same {name}", where, overlap["rows"], rows, says, _SPLIT + by)
    for leak in found["time"]:
        if leak["later"]:
            says = f"rows of {reference} are later ({leak['column']}) than the first of {target} \
({leak['earliest']:g}): the result is not that of a prediction of what came later"
            avoid = f"{_SPLIT}time --column {leak['column']}"
            yield _row("leak", "time", where, leak["later"], leak["known"], says, avoid)


def _inside(report: dict) -> Iterator[dict]:
    """Repeats within splits, and ids."""
    for name, found in report["within"].items():
        for check, count in (("exact", found["exact_duplicates"]), ("near", found["near_duplicates"])):
            if count:
                says = f"rows of {name} {'repeat an earlier row' if check == 'exact' else 'nearly repeat another row'}\
: they weigh double, the effective size is smaller, and error bars that take rows as independent are too narrow"
                avoid = "no split helps: keep one crystal a group (of near ones: " + _SPLIT + "cluster --distance)"
                yield _row("scope", f"{check} repeats within", name, count, report["splits"][name], says, avoid)
    ids, total = report["ids"], report["crystals"]
    twice = sum(ids["within"].values())
    if twice:
        says = "ids come more than once within a split: joins by id are ambiguous and these entries weigh double"
        yield _row("leak", "repeated ids", "within splits", twice, total, says, "no split helps: keep one row per id")


def _numbers(report: dict) -> Iterator[dict]:
    """Preprocessing and labels: findings on whole columns, of 0 rows."""
    for scaled in report["preprocessing"]:
        column, on = scaled["column"], scaled["on"]
        if scaled["leaks"]:
            says = f"{column} was {scaled['scaling']} on {on}, not on train alone: what a model is given of train \
depends on the labels that it is tested on"
            yield _row("leak", "preprocessing", column, 0, 0, says, "no split: fit the scaling on train alone")
        elif scaled["leaks"] is None:
            says = f"{column} is {scaled['scaling']} with the same extremes on train and on all rows: the numbers \
cannot tell on which it was fitted"
            yield _row("scope", "preprocessing", column, 0, 0, says, "no split: state what it was fitted on")
    for fit in report["declared"]:
        if fit["leaks"]:
            says = f"the provenance says that {fit['what']} of {', '.join(fit['columns']) or 'the data'} was fitted \
on {', '.join(fit['on']) or 'unknown rows'}: what was fitted on held-out rows has seen them"
            yield _row("leak", "preprocessing", "provenance", 0, 0, says, "no split: fit it on train alone")
    for pair in report["labels"]:
        a, b = pair["columns"]
        says = f"{a} and {b} are functions of one another (rank correlation {pair['rho']:+.4f} \
over {pair['known']} rows): one as input predicts \
the other for nothing, and results on both count one result twice"
        yield _row("leak", "label leakage", f"{a} ~ {b}", 0, 0, says, "no split: drop one of them")
    for one in report["placeholders"]:
        others = one["others"]
        beside = f"while the others run from {others[0]:.4g} to {others[1]:.4g}" if others else "and nothing else"
        says = f"labels of {one['column']} are {one['value']:.6g}, {beside}: if \
that stands for an unknown value, errors and scales are wrong"
        avoid = "no split: leave unknown values empty"
        yield _row("value", "placeholder", one["column"], one["count"], one["known"], says, avoid)
