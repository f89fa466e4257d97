"""`crysjax judge` with a real calculator: answers, failures, going on, and what it refuses."""

import csv
import json
from pathlib import Path

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io import read, write

from crysjax.cli.app import main


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in arguments])
    return stop.value.code


def rows(folder: Path) -> list[dict]:
    with (folder / "answers.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def metals(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("metals") / "metals.extxyz"
    write(path, [bulk("Cu", "fcc", 3.5), bulk("Si"), bulk("Al", "fcc", 4.2)])
    return path


def test_each_crystal_is_relaxed_and_answered_or_has_its_reason(metals, tmp_path, capsys):
    references = tmp_path / "elements.json"
    references.write_text(json.dumps({"Cu": -0.1, "Al": {"energy": -0.4, "correction": 0.2, "composition": {"Al": 2}}}))
    assert run("judge", metals, "--by", "emt", "--out", tmp_path / "said", "--references", references) == 0
    assert "3 crystals, 1 with a reason" in capsys.readouterr().out
    copper, silicon, aluminum = rows(tmp_path / "said")
    assert silicon["code"] == "calculator_failed"
    assert silicon["reason"].startswith("NotImplementedError") and silicon["energy_ev_per_atom"] == ""
    for row, element, reference in ((copper, "Cu", -0.1), (aluminum, "Al", -0.1)):
        atoms = read(tmp_path / "said" / "crystals" / f"{row['id']}.cif")
        atoms.calc = EMT()
        energy = atoms.get_potential_energy() / len(atoms)
        assert row["formula"] == element and row["reason"] == ""
        assert abs(float(row["energy_ev_per_atom"]) - energy) < 1e-5, "a CIF rounds positions"
        assert abs(float(row["formation_energy_ev_per_atom"]) - (energy - reference)) < 1e-5
        assert abs(atoms.get_stress()[:3].sum() / 3) * atoms.get_volume() < 0.05, "relaxed with its cell"


def test_it_goes_on_where_it_stopped_and_refuses_another_question(metals, tmp_path, capsys):
    said = tmp_path / "said"
    as_it_is = ("judge", metals, "--by", "emt", "--out", said, "--no-relax")
    assert run(*as_it_is) == 0
    whole = (said / "answers.csv").read_text()
    lines = whole.splitlines(keepends=True)
    (said / "answers.csv").write_text("".join(lines[:2]))
    assert run(*as_it_is) == 0
    again = rows(said)
    assert [r["id"] for r in again] == [line.split(",")[0] for line in lines[1:]]
    assert (said / "answers.csv").read_text().splitlines()[1] == whole.splitlines()[1], "what is known is kept"
    capsys.readouterr()
    assert run("judge", metals, "--by", "emt", "--out", said) == 2
    assert "another question" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--by", "vasp"], "calculator 'vasp' is unknown"),
        (["--by", "emt", "--setting", "cutoff"], "--setting cutoff: expected KEY=VALUE"),
        (["--by", "emt", "--setting", "cutoff=3"], "cutoff"),
        (["--by", "emt", "--timeout", "-1"], "--timeout"),
    ],
)
def test_mistakes_are_one_line(metals, tmp_path, capsys, arguments, message):
    assert run("judge", metals, "--out", tmp_path / "said", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
