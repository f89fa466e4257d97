"""The table of mutations still fits the source: every wrong formula can be made, and is spelled as Python."""

import ast
import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

PATH = Path(__file__).with_name("mutations.py")
spec = importlib.util.spec_from_file_location("mutations", PATH)
mutations = importlib.util.module_from_spec(spec)
spec.loader.exec_module(mutations)
TABLE = mutations.table()
ROOMS = {
    "geometry", "search", "nets", "surrogates", "data", "crystallography", "constraints", "retrieval", "generators",
    "potentials", "predictors", "physics", "guidance", "oracles", "evaluation", "training", "campaign",
}  # fmt: skip


@pytest.mark.parametrize("mutation", TABLE, ids=lambda m: f"{m.file}: {m.wrong}")
def test_it_applies_once_and_is_python(mutation):
    text = mutations.mutated(mutation)
    original = (mutations.ROOT / "crysjax" / mutation.file).read_text()
    assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(original))  # more than a comment changes
    files = mutations.files_of_tests(mutation)
    assert files and all((mutations.ROOT / "tests" / name).exists() for name in files)
    for part in mutation.tests:
        if "::" in part:  # a test that is named exists
            name, function = part.partition("[")[0].split("::")
            assert f"def {function}(" in (mutations.ROOT / "tests" / name).read_text()


def test_fifty_or_more_in_every_room():
    count = Counter(mutation.room for mutation in TABLE)
    assert len(TABLE) >= 50 and set(count) == ROOMS and min(count.values()) >= 2


def test_old_text_that_is_missing_or_comes_twice_is_refused():
    one = TABLE[0]
    with pytest.raises(ValueError, match="occurs 0 times; expected once"):
        mutations.mutated(one._replace(old="no such formula"))
    with pytest.raises(ValueError, match=r"occurs \d+ times; expected once"):
        mutations.mutated(one._replace(old="return"))
    with pytest.raises(ValueError, match="is not changed"):
        mutations.mutated(one._replace(new=one.old))


def test_the_share_counts_what_was_caught_alone():
    rows = [{"file": "nets/a.py", "answer": a} for a in ("caught", "caught", "survived", "error")]
    assert mutations.summary(rows) == {"mutations": 4, "caught": 2, "share": 0.5, "rooms": {"nets": "2/4"}}


def test_results_of_an_earlier_state_are_kept_and_say_so():
    one, other = TABLE[0], TABLE[1]
    row = {"digest": mutations.digest(one), "file": one.file, "wrong": one.wrong, "answer": "caught"}
    old = row | {"digest": "0", "file": other.file, "wrong": other.wrong}
    found = mutations.kept(TABLE, [old, row, row | {"wrong": "no such formula"}])
    assert found == [row | {"current": True}, old | {"current": False}]


def test_kept_results_name_formulas_of_the_table_where_they_are():
    known = json.loads((mutations.ROOT / "experiments/mutations/result.json").read_text())["rows"]
    places = Counter((mutation.file, mutation.wrong) for mutation in TABLE)
    assert max(places.values()) == 1
    assert all((row["file"], row["wrong"]) in places for row in known)
