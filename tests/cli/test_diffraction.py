"""`crysjax diffraction` and `solve` on files: what is written, that one reads the other, and mistakes in one line."""

import csv
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from crysjax.chemistry.scattering import scattering
from crysjax.cli import diffraction as commands
from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.physics.diffraction import measured
from crysjax.physics.diffraction.pattern import Shape
from crysjax.physics.diffraction.peaks import peaks

app = typer.Typer()
app.command("diffraction")(commands.diffraction)
app.command("solve")(commands.solve)
SALT = Entry("salt", np.array([11, 17]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), 2.82 * (1 - np.eye(3)), {})
RADON = SALT._replace(id="radon", numbers=np.array([86, 86]))


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


@pytest.fixture
def crystals(tmp_path) -> Path:
    return datasets.save(datasets.from_entries([SALT, RADON]), tmp_path / "crystals.npz")


def rows(path: Path) -> list[dict]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_peaks_are_those_of_the_library(crystals, tmp_path):
    out = tmp_path / "peaks.csv"
    assert run("diffraction", crystals, "--out", out, "--angles", "10:80").exit_code == 0
    expected = peaks(datasets.load(crystals), scattering(dtype=np.float64), two_theta_degree=(10, 80))
    for name, found in zip(("salt", "radon"), expected):
        mine = [row for row in rows(out) if row["id"] == name]
        np.testing.assert_allclose([float(row["two_theta_degree"]) for row in mine], found.two_theta, atol=6e-6)
        np.testing.assert_allclose([float(row["intensity"]) for row in mine], found.intensity, atol=6e-6)
        assert [[int(row[k]) for k in "hkl"] for row in mine] == found.hkl.tolist()
        assert sum(int(row["multiplicity"]) for row in mine) == found.multiplicity.sum()


def test_what_has_no_pattern_is_told_and_the_rest_is_written(crystals, tmp_path):
    answer = run("diffraction", crystals, "--out", tmp_path / "n.csv", "--radiation", "neutron")
    assert answer.exit_code == 0 and "radon: no scattering factors" in answer.output
    assert "1 patterns, 1 failed" in answer.output
    assert {row["id"] for row in rows(tmp_path / "n.csv")} == {"salt"}


def test_a_profile_is_read_back_and_peaks_are_broadened(crystals, tmp_path):
    """A profile as it stands, a list of peaks as the same sum of peak shapes."""
    smooth, sharp = tmp_path / "smooth.csv", tmp_path / "sharp.csv"
    one = datasets.save(datasets.from_entries([SALT]), tmp_path / "one.npz")
    assert run("diffraction", one, "--out", smooth, "--profile", "--fwhm", 0.4).exit_code == 0
    assert run("diffraction", one, "--out", sharp).exit_code == 0
    x, y = measured.read(smooth, Shape(w=0.16))
    assert len(x) == len(rows(smooth)) == 1801
    grid, broad = measured.read(sharp, Shape(w=0.16))
    np.testing.assert_allclose(np.interp(grid, x, y)[grid < 89], broad[grid < 89], atol=0.01 * y.max())
    bare = tmp_path / "bare.xy"
    bare.write_text("# measured\n10 1\n10.5 2\n11 5\n11.5 1\n")
    np.testing.assert_allclose(measured.read(bare, Shape()), [[10, 10.5, 11, 11.5], [1, 2, 5, 1]])


def test_one_bad_row_does_not_take_the_others_with_it(tmp_path):
    """A cell so large that its reflections cannot be listed, between two good ones: counted and named."""
    large = SALT._replace(id="large, badly", lattice=900.0 * np.eye(3))
    again = SALT._replace(id="salt, again")
    given = datasets.save(datasets.from_entries([SALT, large, again]), tmp_path / "three.npz")
    answer = run("diffraction", given, "--out", tmp_path / "p.csv")
    assert answer.exit_code == 0, answer.output
    assert (
        "2 patterns, 1 failed" in answer.output and "large, badly: the cell has more than 20,000,000" in answer.output
    )
    names = [row["id"] for row in rows(tmp_path / "p.csv")]  # ids that hold commas are quoted
    assert set(names) == {"salt", "salt, again"} and names.count("salt") == names.count("salt, again") > 3


def test_a_measured_pattern_that_nothing_explains_is_no_solution(tmp_path):
    """Two atoms of the wrong elements and place cannot give three peaks: told, exit status 3, and kept as misfits."""
    pattern, out = tmp_path / "noise.xy", tmp_path / "found.npz"
    x = np.linspace(20, 60, 4001)
    y = sum(np.exp(-((x - at) ** 2) / 0.02) for at in (21.3, 37.9, 44.4, 52.1)) + 0.1
    pattern.write_text("\ufeff" + "\n".join(f"{a:.2f}\t{b:.6f}".replace(".", ",") for a, b in zip(x, y)))
    one = datasets.save(datasets.from_entries([SALT]), tmp_path / "one.npz")
    answer = run("solve", pattern, "--formula", "NaCl", "--cell", one, "--starts", 4, "--steps", 3, "--fwhm", 0.4,
                 "--out", out)  # fmt: skip
    assert answer.exit_code == commands.NO_SOLUTION == 3, answer.output
    assert "4001 points of a profile" in answer.output and "solve 0/4" in answer.output
    assert "a background of about" in answer.output and "fitted by 6 terms" in answer.output
    assert "zero shift" in answer.output and "no solution found: Rwp" in answer.output
    found = datasets.load(out)
    assert (found.properties["solved"] == 0).all() and all(name.startswith("misfit-") for name in found.ids)
    assert found.properties["rwp"].min() > 0.2 and found.properties["copies"].sum() <= 4


def test_rock_salt_from_its_own_peaks(tmp_path):
    """Two atoms in a known cell: chlorine ends half a body diagonal from sodium."""
    one, out = datasets.save(datasets.from_entries([SALT]), tmp_path / "one.npz"), tmp_path / "found.npz"
    pattern = tmp_path / "peaks.csv"
    assert run("diffraction", one, "--out", pattern).exit_code == 0
    answer = run("solve", pattern, "--formula", "NaCl", "--cell", one, "--starts", 4, "--keep", 2, "--fwhm", 0.6,
                 "--steps", 40, "--out", out)  # fmt: skip
    assert answer.exit_code == 0, answer.output
    found = datasets.load(out)
    assert len(found) <= 2 and found.properties["rwp"][0] < 0.05 and found.ids[0] == "candidate-0000"
    assert found.properties["solved"][0] == 1 and found.properties["copies"].sum() <= 4
    away = (found.frac[1] - found.frac[0]) % 1
    np.testing.assert_allclose(away, 0.5, atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--formula", "salt"], "--formula salt: expected symbols"),
        (["--formula", "Xy2"], "'Xy'; expected a chemical element"),
        (["--formula", "NaCl", "--fwhm", 0], "--fwhm 0.0"),
        (["--formula", "NaCl", "--radiation", "light"], "radiation: 'light'"),
        (["--formula", "NaCl", "--cell", "CRYSTALS"], "2 crystals; expected one"),
        (["--formula", "NaCl", "--method", "luck"], "method 'luck'"),
        (["--formula", "NaCl", "--accept", "nan"], "--accept nan"),
    ],
)
def test_mistakes_of_solve_are_one_line(arguments, message, crystals, tmp_path):
    pattern = tmp_path / "pattern.csv"
    pattern.write_text("two_theta_degree,intensity\n10,1\n11,5\n12,1\n")
    given = [crystals if a == "CRYSTALS" else a for a in arguments]
    error = run("solve", pattern, *given, "--out", tmp_path / "out.npz").exception
    assert isinstance(error, ValueError) and message in str(error) and "\n" not in str(error)


def test_mistakes_in_files_and_angles(crystals, tmp_path):
    both, words = tmp_path / "both.csv", tmp_path / "words.csv"
    assert run("diffraction", crystals, "--out", both).exit_code == 0
    words.write_text("two_theta_degree,intensity\nten,one\n")
    for path, message in ((both, "several crystals"), (words, "expected rows of 2θ")):
        with pytest.raises(ValueError, match=message):
            measured.read(path, Shape())
    for angles in ("90:0", "5", "0:200", "a:b"):
        error = run("diffraction", crystals, "--out", both, "--angles", angles).exception
        assert isinstance(error, ValueError) and f"--angles {angles}" in str(error)
