"""The ledger keeps order, survives a crash, and comes back as it was written."""

import json
import math

import pytest

from crysjax.evaluation import ledger
from crysjax.evaluation.ledger import STAGES, Row


def row(candidate, stage, *, valid=True, round=0, value=1.0, reason=""):
    return Row(candidate, stage, round, 0, "objective", value, 0.5, "eV", valid, 0.01, reason, {"gap": [1.0, 0.1]})


def funnel(lasts: dict[str, int], round=0) -> list[Row]:
    """Rows stage by stage; candidate `c` fails at stage `lasts[c]` (6: it passes all)."""
    return [
        row(c, stage, valid=k < last, round=round, reason="" if k < last else f"no {stage}")
        for k, stage in enumerate(STAGES)
        for c, last in lasts.items()
        if k <= last
    ]


def test_written_rows_come_back(tmp_path):
    rows = funnel({"a": 6, "b": 1, "c": 4})
    path = tmp_path / "ledger.jsonl"
    passed = ledger.append(path, rows[:3], {})
    assert passed == {"a": 1, "b": 1, "c": 1}
    passed = ledger.append(path, rows[3:], passed)
    assert passed == {"a": 6, "b": -1, "c": -1} == ledger.passed_stages(rows)
    assert ledger.read(path) == rows
    assert len(path.read_text().splitlines()) == len(rows)


def test_counts_never_grow():
    found = ledger.counts(funnel({"a": 6, "b": 1, "c": 4, "d": 0}))
    assert [found[s]["entered"] for s in STAGES] == [4, 3, 2, 2, 2, 1]
    assert [found[s]["passed"] for s in STAGES] == [3, 2, 2, 2, 1, 1]
    assert ledger.reasons(funnel({"a": 1, "b": 1, "c": 6}))["screened"] == {"no screened": 2}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("a", "scored"), "has passed 1 stages"),
        (row("b", "screened"), "failed an earlier stage"),
        (row("a", "sampled"), "cannot enter 'sampled'"),
        (row("a", "guessed"), "not one of sampled, screened"),
    ],
)
def test_a_row_out_of_turn_is_refused_and_nothing_is_written(tmp_path, bad, message):
    path = tmp_path / "ledger.jsonl"
    passed = ledger.append(path, [row("a", "sampled"), row("b", "sampled", valid=False)], {})
    before = path.read_bytes()
    with pytest.raises(ValueError, match=message):
        ledger.append(path, [row("c", "sampled"), bad], passed)
    assert path.read_bytes() == before


def test_what_is_not_finite_is_null(tmp_path):
    ledger.append(tmp_path / "l", [row("a", "sampled", value=math.nan)._replace(std=math.inf)], {})
    (text,) = (tmp_path / "l").read_text().splitlines()
    assert json.loads(text)["value"] is None and json.loads(text)["std"] is None


def test_a_line_cut_short_is_left_out(tmp_path):
    path, rows = tmp_path / "ledger.jsonl", funnel({"a": 6, "b": 2})
    ledger.append(path, rows, {})
    whole = path.read_bytes()
    for cut in range(1, len(ledger.line(rows[-1]))):
        path.write_bytes(whole[:-cut])
        assert ledger.read(path) == rows[:-1]


def test_a_damaged_line_inside_is_an_error_with_its_number(tmp_path):
    path = tmp_path / "ledger.jsonl"
    path.write_text(ledger.line(row("a", "sampled")) + "{broken\n" + ledger.line(row("a", "screened")))
    with pytest.raises(ValueError, match=r"ledger\.jsonl: line 2 is not a row"):
        ledger.read(path)


def test_rounds_that_did_not_finish_are_dropped(tmp_path):
    path = tmp_path / "ledger.jsonl"
    first, second = funnel({"a": 6}), funnel({"b": 3}, round=1)
    ledger.append(path, first + second, {})
    path.write_bytes(path.read_bytes()[:-5])
    assert ledger.keep_rounds(path, 1) == first == ledger.read(path)
    assert ledger.keep_rounds(path, 0) == []
    assert ledger.keep_rounds(tmp_path / "none.jsonl", 1) == []
