"""Tables that users bring: byte-order marks, missing and bad numbers, ids given twice."""

import json

import numpy as np
import pytest

from crysjax.campaign import questions
from crysjax.data.datasets import Entry, from_entries
from crysjax.oracles import opinions
from crysjax.physics.hull import hull

ENERGY = "formation_energy_ev_per_atom"
MARKS = [b"\xef\xbb\xbf", b""]


def samples(*ids: str):
    return from_entries([Entry(i, np.array([12, 8]), np.array([[0, 0, 0], [0.5] * 3]), 3 * np.eye(3), {}) for i in ids])


@pytest.mark.parametrize("mark", MARKS)
def test_dft_energies_with_a_byte_order_mark(tmp_path, mark):
    path = tmp_path / "dft.csv"
    path.write_bytes(mark + f"id,{ENERGY}\r\na,-1.5\r\nb,\r\nc,n/a\r\na,-1.5\r\n".encode())
    value, *_, known = questions.read_energies(str(path))(samples("a", "b", "c"), np.ones(3, bool))
    assert value[0] == -1.5 and np.isnan(value[1:]).all() and known == 1


@pytest.mark.parametrize(("rows", "message"), [
    (f"id,{ENERGY}\na,-1\nb,1.5 eV\n", r"row 2 .*could not convert \w+ '1\.5 eV' to a number"),
    (f"id,{ENERGY}\na,inf\n", "row 1 .*could not convert"), (f"name,{ENERGY}\na,-1\n", "no 'id'"),
    ("id,energy\na,-1\n", f"no '{ENERGY}'"),
    (f"id,{ENERGY}\na,-1\nb,-2\na,-3\n", r"id 'a' has two energies, -1 and -3 \(row 3\)"),
])  # fmt: skip
def test_bad_dft_tables_name_row_and_value(tmp_path, rows, message):
    (tmp_path / "dft.csv").write_text(rows)
    with pytest.raises(ValueError, match=f"dft\\.csv: .*{message}"):
        questions.read_energies(str(tmp_path / "dft.csv"))


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("kind", ["csv", "json"])
def test_hull_entries_with_a_byte_order_mark(tmp_path, mark, kind):
    path = tmp_path / f"h.{kind}"
    rows = [{"composition": "MgO", ENERGY: -3.0}, {"composition": "NaN", ENERGY: None}]
    text = json.dumps(rows) if kind == "json" else f"composition,{ENERGY}\nMgO,-3.0\nNaN,\n"
    path.write_bytes(mark + text.encode())
    counts, energies, _ = hull.read_entries(path)
    assert counts[0][[11, 7]].tolist() == [1, 1] and counts[1][[10, 6]].tolist() == [1, 1]  # sodium nitride
    assert energies[0] == -3 and np.isnan(energies[1])
    assert "2 entries, 1 of them without an energy" in questions.read_hull([str(path)]).source


def test_answers_that_a_spreadsheet_saved_again(tmp_path):
    path = tmp_path / "answers.csv"
    path.write_bytes(b"\xef\xbb\xbfid,reason\r\na,\r\nb,it failed\r\n")
    assert [row["id"] for row in opinions.answers(path)] == ["a", "b"]
    path.write_text("name,reason\na,\n")
    with pytest.raises(ValueError, match=r"answers\.csv: no column 'id' among \['name', 'reason'\]"):
        opinions.answers(path)
