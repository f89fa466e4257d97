"""Where a command cannot write it says so at once, in one line, and nothing is left behind."""

import os

import pytest

COMMANDS = {
    "relax": ("relax {0}/gone.npz --out {1}.npz", "file"),
    "relax into a folder": ("relax {0}/gone.npz --out {1}", "folder"),
    "predict": ("predict {0}/gone.npz --out {1}", "file"),
    "diffraction": ("diffraction {0}/gone.npz --out {1}", "file"),
    "sample": ("sample mp_20_generator --out {1}.npz", "file"),
    "design": ("design {0}/gone.yaml --out {1}", "folder"),
    "train": ("train {0}/gone.yaml --out {1}", "folder"),
    "evaluate": ("evaluate {0}/gone.npz --out {1}", "folder"),
    "elasticity": ("elasticity {0}/gone.npz --out {1}", "file"),
    "phonons": ("phonons {0}/gone.npz --out {1}", "folder"),
    "prepare": ("data prepare {0}/gone.npz --out {1}", "file"),
    "audit": ("data audit {0}/gone.npz --json {1}", "file"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_that_cannot_be_written_is_said_before_anything_is_read(crysjax, one_line, tmp_path, name, monkeypatch):
    command, kind = COMMANDS[name]
    suffix = ".npz" if ".npz" in command.split()[-1] else ""
    other = tmp_path / f"other{suffix}"
    other.mkdir() if kind == "file" else other.write_text("mine")
    said = "is a folder; expected a place for a file" if kind == "file" else "is a file; expected a folder"
    one_line(crysjax(*command.format(tmp_path, tmp_path / "other").split()), rf"other{suffix}: {said}")
    (tmp_path / "plain").write_text("mine")
    one_line(
        crysjax(*command.format(tmp_path, tmp_path / "plain" / "x").split()),
        rf"plain/x{suffix}: \S+/plain is a file; expected a folder",
    )
    (tmp_path / "shut").mkdir(mode=0o500)
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: allowed(path, mode) and "shut" not in str(path))  # root may
    one_line(
        crysjax(*command.format(tmp_path, tmp_path / "shut" / "new" / "x").split()),
        rf"shut/new/x{suffix}: \S+/shut cannot be written to: no permission, or a read-only file system",
    )
    assert sorted(os.listdir(tmp_path)) == sorted(["plain", "shut", other.name]) and os.listdir(tmp_path / "shut") == []


def test_folders_on_the_way_are_made(crysjax, tmp_path):
    (tmp_path / "a.xyz").write_text('1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3\nO 0 0 0\n')
    out = tmp_path / "not" / "yet" / "a.npz"
    assert crysjax("data", "prepare", tmp_path / "a.xyz", "--out", out).code == 0 and out.is_file()
