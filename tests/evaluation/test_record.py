"""Raw results: what is written comes back, one line a row, and names no folder of the machine."""

import argparse
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


def test_a_table_is_markdown():
    assert record.table(["", "n"], [["a", 1]]) == "|  | n |\n| --- | --- |\n| a | 1 |"
