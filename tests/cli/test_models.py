"""Model files: those of another kind, of another version, or damaged are refused by name; where models come from."""

import hashlib
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from crysjax import __version__
from crysjax.models import published, registry


def uses(world, kind: str, path) -> list:
    """A command that needs a model of this kind."""
    out = path.parent / "out.npz"
    return {
        "generator": ["sample", path, "--out", out, "-n", 3],
        "heads": ["predict", world.data, "--model", path],
        "potential": ["relax", world.data, "--potential", path, "--out", out],
    }[kind]


KINDS = ("generator", "heads", "potential")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_another_kind(crysjax, one_line, world, kind):
    for other in set(KINDS) - {kind}:
        answer = crysjax(*uses(world, kind, getattr(world, other)))
        one_line(answer, rf"{other}/model\.npz: a model of kind '{other}'; expected one of kind '{kind}'")
    one_line(crysjax(*uses(world, kind, world.data)), r"data\.npz: not a crysjax model \(config is not a file")


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_another_version(crysjax, one_line, world, kind, tmp_path):
    with np.load(getattr(world, kind)) as file:
        content = dict(file)
    text = json.dumps(json.loads(bytes(content["config"])) | {"format": 99}).encode()
    np.savez(tmp_path / "m.npz", **content | {"config": np.frombuffer(text, np.uint8)})
    answer = crysjax(*uses(world, kind, tmp_path / "m.npz"))
    one_line(answer, r"m\.npz: model format 99, this version reads format 1")


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_model(crysjax, one_line, world, kind, tmp_path):
    whole, path = getattr(world, kind).read_bytes(), tmp_path / "m.npz"
    half = len(whole) // 2
    for content in (b"", whole[:half], whole[:half] + b"\0" * 100 + whole[half + 100 :]):
        path.write_bytes(content)
        one_line(crysjax(*uses(world, kind, path)), r"m\.npz: not a (crysjax model|potential of crysjax) \(")
    assert os.listdir(tmp_path) == ["m.npz"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSJAX_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


def test_pull_takes_only_the_right_file(crysjax, one_line, data_dir, folder, world, tmp_path):
    source = data_dir / "potentials" / "nequix-mp-1.nqx"
    wrong = tmp_path / "wrong.nqx"
    wrong.write_bytes(source.read_bytes()[:-1])
    answer = crysjax("models", "pull", "nequix-mp-1", "--from", wrong)
    one_line(answer, r"wrong\.nqx: SHA-256 is [0-9a-f]{64}, expected 1647af8e[0-9a-f]+; nothing was kept")
    assert not folder.exists() or os.listdir(folder) == []
    away = "nequix-mp-1       potential       not here: crysjax models pull nequix-mp-1\n"
    assert away in crysjax("models", "list").out
    answer = crysjax("models", "pull", "nequix-mp-1", "--from", source)
    assert answer.code == 0 and "license MIT" in answer.out
    assert sorted(os.listdir(folder)) == ["nequix-mp-1.nqx", "nequix-mp-1.nqx.sha256"]
    kept = (folder / "nequix-mp-1.nqx").read_bytes()
    assert hashlib.sha256(kept).hexdigest() == published.PUBLISHED["nequix-mp-1"].sha256
    assert "nequix-mp-1       potential       published by its own project" in crysjax("models", "list").out
    crysjax("models", "pull", "nequix-mp-1", "--from", wrong)
    assert (folder / "nequix-mp-1.nqx").read_bytes() == kept  # a wrong file does not replace a right one
    card = json.loads(crysjax("models", "card", "nequix-mp-1").out)
    assert card["license"] == "MIT" and card["settings"]["cutoff"] == 6.0
    flipped = kept[:9000] + bytes([kept[9000] ^ 1]) + kept[9001:]
    (folder / "nequix-mp-1.nqx").write_bytes(flipped)
    for _ in range(2):  # the second time as if pulled before digests were kept: the published one is known
        answer = crysjax(*uses(world, "potential", folder / "nequix-mp-1.nqx"))
        one_line(
            answer, r"nequix-mp-1\.nqx: the file is damaged: .*; get it again by `crysjax models pull nequix-mp-1`"
        )
        (folder / "nequix-mp-1.nqx.sha256").unlink(missing_ok=True)
    for size in (0, 100, 5000, len(kept) // 2):
        wrong.write_bytes(kept[:size])
        one_line(crysjax(*uses(world, "potential", wrong)), r"wrong\.nqx: not a whole Nequix potential")
    one_line(crysjax(*uses(world, "generator", wrong)), r"wrong\.nqx: a model of kind 'potential'; expected")


def test_the_card_says_how_a_model_was_made(crysjax, world):
    card = json.loads(crysjax("models", "card", world.generator).out)
    assert card["run"]["steps"] == 30 and card["crystals"] == 40
    assert card["provenance"]["note"] == "made up" and card["provenance"].keys() == {"note", "cells"}
    assert np.isfinite(card["validation"]["loss"])
    mae = json.loads(crysjax("models", "card", world.heads).out)["validation"]
    assert mae.keys() == {"loss", "mae/formation_energy_ev_per_atom", "mae/band_gap_ev"}


def test_what_needs_no_model_does_not_wait_for_jax(world, folder):
    code = """
import sys
from crysjax.cli import main
for command in (["--help"], ["--version"], ["design", "--help"], ["models", "list"], ["models", "card", sys.argv[1]]):
    try:
        main(command)
    except SystemExit as left:
        assert not left.code, command
    assert not {"jax", "pymatgen", "ase", "numpyro"} & set(sys.modules), command
"""
    found = subprocess.run([sys.executable, "-c", code, world.heads], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "design" in found.stdout and __version__ in found.stdout and '"validation"' in found.stdout
    assert found.stdout.count("\nnequix-mp-1  ") == 1


SHIPPED = {
    "mp_20_generator": "generator", "mp_20_heads": "property heads", "mp_20_retrieval": "generator",
    "mp_20_wyckoff": "generator", "student": "potential", "synthesizability": "classifier",
}  # fmt: skip


def test_a_line_a_model_says_what_it_is_for_and_how_good_it_is(crysjax, folder, world, tmp_path):
    folder.mkdir()
    (folder / "my-heads.npz").write_bytes(world.heads.read_bytes())
    (folder / "broken.npz").write_bytes(b"PK")
    answer = crysjax("models", "list", "--json", tmp_path / "list.json")
    assert answer.code == 0, answer.err
    lines, rows = answer.out.splitlines(), json.loads((tmp_path / "list.json").read_text())
    assert len(lines) == len(rows) == 10 and all(len(line) <= 100 for line in lines)
    named = {row["name"]: row for row in rows}
    assert {name: named[name]["kind"] for name in SHIPPED} == SHIPPED
    for name in SHIPPED:  # what is said stands in the card, and is said of the same thing below it
        text = (registry.MODELS / name / "README.md").read_text()
        row = f"| in one number | {named[name]['measured']} |"
        assert row in text and named[name]["use"] in text
        for number in re.findall(r"\d+(?:\.\d+)?", named[name]["measured"]):
            assert re.search(rf"(?<![\d.]){re.escape(number)}(?![\d]|\.\d)", text.replace(row, "")), (name, number)
    assert re.fullmatch(r"MAE [\d.e+-]+ of formation_energy_ev_per_atom \(validation\)", named["my-heads"]["measured"])
    assert named["my-heads"]["path"] == str(folder / "my-heads.npz") and named["broken"]["kind"] == "damaged"
