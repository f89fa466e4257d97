"""Broken, hostile and absurd files all the way through `crysjax evaluate`: counted, explained, and nothing runs."""

import csv
import importlib.util
import json
from pathlib import Path

NASTY = Path(__file__).parents[1] / "data" / "nasty.py"


def nasty():
    spec = importlib.util.spec_from_file_location("nasty", NASTY)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_file_is_judged_or_counted_and_nothing_is_executed(crysjax, world, tmp_path):
    folder, work, marker, makers = tmp_path / "all", tmp_path / "work", tmp_path / "executed", nasty()
    for place in (folder, work):
        place.mkdir()
    good, bad = makers.good_files(work), makers.nasty_files(work, marker)
    for name, data in (good | bad).items():
        (folder / name.replace("/", "_")).write_bytes(data)
    options = ["--train", f"{world.data}:train", "--no-ceiling", "--processes", 1, "--out", tmp_path / "out"]
    answer = crysjax("evaluate", folder, *options)
    assert answer.code == 0, answer.err
    assert not marker.exists()
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())["all"]
    parsed, valid = found["ledger"][:2]
    assert parsed["entered"] == found["crystals"] + found["not_read"] and found["crystals"] >= len(good) / 2
    assert found["not_read"] > 45 and sum(valid["reasons"].values()) <= valid["entered"] - valid["passed"]
    rows = list(csv.DictReader((tmp_path / "out" / "all" / "structures.csv").open()))
    assert len(rows) == parsed["entered"]
    assert all(row["reason"] for row in rows if row.get("passed_all") != "1")
