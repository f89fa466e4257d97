"""`crysjax data`: what cannot be read is named by file, entry and reason, or counted where that was asked for."""

import json

import numpy as np
import pytest

from crysjax.data import datasets
from crysjax.data.readers import cif

NUMBERS, FRAC = np.array([12, 8]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
GOOD = cif.format_p1("MgO", NUMBERS, FRAC, 3.1 * np.eye(3))
LAST_LINE = GOOD.rstrip().rindex("\n") + 1
CUT = {
    "within the last line": GOOD[: LAST_LINE + 14],
    "between two lines": GOOD[:LAST_LINE],  # one site less, and otherwise a whole file
    "before the sites": GOOD[:200],
    "at once": "",
}


@pytest.fixture
def good(tmp_path):
    (tmp_path / "good.cif").write_text(GOOD)
    return tmp_path / "good.cif"


@pytest.mark.parametrize("where", CUT)
def test_a_cif_that_is_cut_short(crysjax, one_line, good, where, tmp_path):
    bad, out = tmp_path / "bad.cif", tmp_path / "d.npz"
    bad.write_text(CUT[where])
    one_line(
        crysjax("data", "prepare", good, bad, "--out", out),
        r"bad\.cif: entry bad: .+; .data prepare --skip-bad. leaves them out",
    )
    assert not out.exists()
    answer = crysjax("data", "prepare", good, bad, "--out", out, "--skip-bad")
    assert answer.code == 0 and answer.out == f"{out}: 1 crystals, 1 skipped\n"
    assert answer.err.startswith("skipped bad.cif: entry bad: ") and answer.err.count("\n") == 1
    (row,) = datasets.load(out).provenance["skipped"]
    assert (row["file"], row["entry"]) == ("bad.cif", "bad") and row["reason"] in answer.err


@pytest.mark.parametrize("kind", ["cut short", "damaged within", "a text", "empty", "an array"])
def test_a_data_set_that_is_damaged(crysjax, one_line, good, world, kind, tmp_path):
    bad, out, whole = tmp_path / "bad.npz", tmp_path / "d.npz", world.data.read_bytes()
    half = len(whole) // 2
    content = {"cut short": whole[:half], "damaged within": whole[: half - 200] + b"\0" * 400 + whole[half + 200 :],
               "a text": b"hello", "empty": b"", "an array": b"\x93NUMPY\x01\x00"}[kind]  # fmt: skip
    bad.write_bytes(content)
    for command in ("info", "audit", "prepare"):
        extra = ["--out", out] if command == "prepare" else []
        one_line(
            crysjax("data", command, bad, *extra),
            r"bad\.npz: not .*\((it is no \.npz file|the file is cut short|the file is damaged)",
        )
    answer = crysjax("data", "prepare", good, bad, "--out", out, "--skip-bad")
    assert answer.code == 0 and answer.out == f"{out}: 1 crystals, 1 skipped\n"
    assert answer.err.startswith("skipped bad.npz: not ")
    assert [row["file"] for row in datasets.load(out).provenance["skipped"]] == ["bad.npz"]


def test_nothing_readable_and_nothing_there(crysjax, one_line, good, tmp_path):
    bad, out = tmp_path / "bad.cif", tmp_path / "d.npz"
    bad.write_text(CUT["before the sites"])
    answer = crysjax("data", "prepare", bad, "--out", out, "--skip-bad")
    assert answer.code == 2 and answer.err.splitlines()[-1] == f"crysjax: {bad}: no crystal could be read"
    gone = tmp_path / "gone.cif"  # a name that was mistyped is not an entry that is bad
    one_line(crysjax("data", "prepare", good, gone, "--out", out, "--skip-bad"), r"gone\.cif: no such file or folder")
    one_line(crysjax("data", "prepare", good, good, "--out", out), r"id 'good' comes 2 times")
    assert not out.exists()


def test_a_folder_with_a_bad_file(crysjax, one_line, good, tmp_path):
    folder = tmp_path / "crystals"
    folder.mkdir()
    good.rename(folder / "a.cif")
    (folder / "b.cif").write_text(CUT["between two lines"])
    one_line(crysjax("data", "prepare", folder, "--out", tmp_path / "d.npz"), r"crystals: entry b\.cif: cut short")
    answer = crysjax("data", "prepare", folder, "--out", tmp_path / "d.npz", "--skip-bad")
    assert answer.out.endswith("1 crystals, 1 skipped\n")


def test_what_was_skipped_before_is_not_counted_again(crysjax, good, tmp_path):
    (tmp_path / "bad.cif").write_text(CUT["before the sites"])
    crysjax("data", "prepare", good, tmp_path / "bad.cif", "--out", tmp_path / "a.npz", "--skip-bad")
    answer = crysjax("data", "prepare", tmp_path / "a.npz", "--out", tmp_path / "b.npz", "--skip-bad")
    assert answer.out.endswith("b.npz: 1 crystals, 0 skipped\n") and answer.err == ""
    assert len(datasets.load(tmp_path / "b.npz").provenance["skipped"]) == 1  # but it is not forgotten


def test_prepare_split_and_info(crysjax, world, good, tmp_path):
    out = tmp_path / "new" / "d.npz"
    assert crysjax("data", "prepare", f"{good}:test", f"{world.data}", "--out", out, "--note", "made up").code == 0
    answer = crysjax("data", "split", out, "--out", tmp_path / "s.npz", "--by", "random", "--fractions", "a=0.5,b=0.5")
    assert answer.out == f"{tmp_path / 's.npz'}: a 30, b 31\n" or answer.out.endswith(": a 31, b 30\n")
    found = json.loads(crysjax("data", "info", tmp_path / "s.npz").out)
    assert found["crystals"] == 61 and found["elements"]["O"] == 61 and found["provenance"]["note"] == "made up"
    assert found["properties"]["band_gap_ev"]["known"] == 60  # the CIF has none


def test_select_keeps_small_cells_and_what_another_set_lacks(crysjax, one_line, world, tmp_path):
    whole, few, rest = datasets.load(world.data), tmp_path / "few.npz", tmp_path / "rest.npz"
    assert crysjax("data", "select", world.data, "--max-atoms", 3, "--out", few).code == 0
    small = whole.num_atoms <= 3
    assert datasets.load(few).ids.tolist() == whole.ids[small].tolist() and 0 < small.sum() < len(whole)
    assert crysjax("data", "select", world.data, "--without", few, "--out", rest).code == 0
    assert datasets.load(rest).ids.tolist() == whole.ids[~small].tolist()
    one_line(crysjax("data", "select", few, "--without", few, "--out", rest), "nothing is left of")
