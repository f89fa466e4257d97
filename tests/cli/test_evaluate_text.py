"""What `crysjax evaluate` prints: the match rate first, columns that never touch, one way to write shares."""

import re

from crysjax.data import datasets


def test_what_is_printed_of_two_sets(crysjax, world, tmp_path):
    given = datasets.load(world.data)
    for name, rows in {"a": slice(0, 6), "b": slice(1, 7), "truth": slice(0, 6)}.items():
        datasets.save(datasets.take(given, range(60)[rows]), tmp_path / f"{name}.npz")
    options = ["--match", tmp_path / "truth.npz", "--train", f"{world.data}:train", "--processes", 1]
    answer = crysjax("evaluate", tmp_path / "a.npz", tmp_path / "b.npz", *options)
    assert answer.code == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0] == "match rate, StructureMatcher stol 0.5, angle 10.0°, ltol 0.3"
    assert lines[1].split() == ["one", "try", "per", "row", "match", "RMSE", "offered"]
    assert lines[2].split() == ["a", "100.0", "%", "0.000"] and lines[3].split()[0] == "b"
    assert re.search(r"^  b +0\.0 % +–$", lines[3]), lines[3]
    for line in lines:
        assert line == line.rstrip() and not re.search(r" [;,]|;;|;\s*$|,\s*$|\d%|\bnan\b", line), line
        assert not re.search(r"\S {2,}", line.lstrip().split(":", 1)[-1]) or line.startswith("  "), line
    metrics = [line for line in lines if line.startswith("  distance of ")]
    assert metrics and all(re.match(r"  \S.*\S {2,}\d", line) for line in metrics)
    assert any(line.startswith("  not found clash: ") for line in lines)
