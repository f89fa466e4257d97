"""Raw results: what is written comes back, one line a row, and names no folder of the machine."""

import argparse
import hashlib
from pathlib import Path

from crysjax.reports import record


def test_a_report_comes_back_with_a_line_for_each_row(tmp_path):
    report = {"seed": 1, "rows": [{"id": "a", "rms": None}, {"id": "b", "rms": 0.5}], "unit": "Å", "none": []}
    record.write(tmp_path / "r.json", report)
    assert record.read(tmp_path / "r.json") == report
    lines = (tmp_path / "r.json").read_text().splitlines()
    assert lines[3:5] == ['  {"id": "a", "rms": null},', '  {"id": "b", "rms": 0.5}']


def test_settings_name_files_and_no_folders():
    options = argparse.Namespace(
        data="data/a.npz", out=Path("/tmp/x/b.json"), samples=[Path("c/d.npz")], count=3, set=[]
    )
    told = record.about(options)
    assert told["settings"] == {"data": "a.npz", "out": "b.json", "samples": ["d.npz"], "count": 3, "set": []}
    assert {"versions", "commit", "cores", "day"} <= told.keys()


def test_inputs_are_told_by_their_digest_and_outputs_are_not(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"abc")
    known = hashlib.sha256(b"abc").hexdigest()[:16]
    model = Path(record.__file__).parents[1] / "models/shipped/student/student.npz"
    options = argparse.Namespace(data=f"{tmp_path}/a.npz:test", out=tmp_path / "a.npz", model="student", count=3)
    shipped = hashlib.sha256(model.read_bytes()).hexdigest()[:16]
    assert record.about(options)["digests"] == {"a.npz": known, "student.npz": shipped}


def test_a_table_is_markdown():
    assert record.table(["", "n"], [["a", 1]]) == "|  | n |\n| --- | --- |\n| a | 1 |"
