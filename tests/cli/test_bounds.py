"""What users hand to commands: files that never end, numbers that are none, weights and elements of their own."""

import csv
import inspect
import os
import re
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.potentials.mlip import mlip, save_potential


@pytest.fixture
def alarm():
    """A command that waits for a pipe would wait for ever."""

    def over(*_):
        raise TimeoutError("it waits")

    before = signal.signal(signal.SIGALRM, over)
    signal.alarm(240)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Argon and an unknown crystal beside it, a potential of argon, and pipes under many names."""
    folder = tmp_path_factory.mktemp("bounds")
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    rows = [Entry("argon", np.full(4, 18), corners + 0.01, 5.3 * np.eye(3), {}),
            Entry("strange", np.array([12, 26]), corners[:2], 4.0 * np.eye(3), {})]  # fmt: skip
    datasets.save(datasets.from_entries(rows), folder / "crystals.npz")
    argon = mlip(network="lennard_jones", numbers=(18,), cutoff_angstrom=6.0)
    save_potential(folder / "argon.npz", argon, argon.init(jax.random.key(0)))
    (folder / "energies.csv").write_text("id,formation_energy_ev_per_atom\nargon,0.1\n")
    (folder / "hull.csv").write_text("composition,formation_energy_ev_per_atom\nAr,0\n")
    (folder / "pattern.csv").write_text("".join(f"{10 + k / 10},{k % 7}\n" for k in range(300)))
    for suffix in (".yaml", ".csv", ".json", ".npz", ".nqx", ".cif", ".xy"):
        os.mkfifo(folder / f"pipe{suffix}")
    return folder


PIPES = {
    "a plan": "design {0}/pipe.yaml --out {1}/o",
    "a training config": "train {0}/pipe.yaml --out {1}/o",
    "a comparison": "compare {0}/pipe.yaml --out {1}/o",
    "references": "judge {0}/crystals.npz --by emt --out {1}/o --references {0}/pipe.json",
    "crystals": "judge {0}/pipe.npz --by emt --out {1}/o",
    "a hull": "evaluate {0}/crystals.npz --hull {0}/pipe.json --dft {0}/energies.csv --out {1}/o",
    "a hull of crystals": "evaluate {0}/crystals.npz --hull {0}/pipe.npz --dft {0}/energies.csv --out {1}/o",
    "energies": "evaluate {0}/crystals.npz --hull {0}/hull.csv --dft {0}/pipe.csv --out {1}/o",
    "training data": "evaluate {0}/crystals.npz --train {0}/pipe.npz --out {1}/o",
    "a pattern": "solve {0}/pipe.xy --formula MgO --out {1}/o",
    "a cell": "solve {0}/pattern.csv --formula MgO --cell {0}/pipe.cif --out {1}/o",
    "published weights": "models pull nequix-mp-1 --from {0}/pipe.nqx",
    "own weights": "models pull mine --from {0}/pipe.npz",
    "a card": "models card {0}/pipe.nqx",
    "a potential": "relax {0}/crystals.npz --potential {0}/pipe.npz --out {1}/o.npz",
    "heads": "predict {0}/crystals.npz --model {0}/pipe.npz",
    "a generator": "sample {0}/pipe.npz --out {1}/o.npz",
    "a structure": "data prepare {0}/pipe.cif --out {1}/o.npz",
    "a data set": "data split {0}/pipe.npz --out {1}/o.npz",
    "an audit": "data audit {0}/pipe.npz",
    "a device": "design /dev/zero --out {1}/o",
    "a device of patterns": "solve /dev/zero --formula MgO --out {1}/o",
    "a device of weights": "models pull nequix-mp-1 --from /dev/zero",
}


@pytest.mark.parametrize("name", PIPES)
def test_no_command_waits_for_a_pipe(alarm, crysjax, one_line, place, tmp_path, name, monkeypatch):
    monkeypatch.setenv("CRYSJAX_MODELS", str(tmp_path / "models"))
    words = PIPES[name].format(place, tmp_path).split()
    one_line(crysjax(*words), rf"is a {'device' if 'device' in name else 'pipe'}; expected ")


RELAX = "relax {0}/crystals.npz --potential {0}/argon.npz --out {1}/o.npz"
GROUPS = "data space-groups {0}/crystals.npz --out {1}/o.npz"
NUMBERS = {
    f"{RELAX} --pressure-gpa nan": "--pressure-gpa nan: expected a finite number",
    f"{RELAX} --fmax inf": "--fmax inf: expected a finite number",
    f"{RELAX} --keep-symmetry 99": "symmetry tolerance: 99 Å; expected a tolerance above 0, at most 2 Å",
    f"{GROUPS} --symprec-angstrom nan": "--symprec-angstrom nan: expected a finite number",
    f"{GROUPS} --symprec-angstrom -1": "symmetry tolerance: -1 Å; expected a tolerance above 0",
    f"{GROUPS} --symprec-angstrom 1e9": r"symmetry tolerance: 1e\+09 Å; expected a tolerance above 0",
    "data split {0}/crystals.npz --by space-group --symprec-angstrom 0 --out {1}/o.npz": "symmetry tolerance: 0 Å;",
    "judge {0}/crystals.npz --by emt --timeout nan --out {1}/o": "--timeout.*(nan: expected|or equal to 0)",
    "phonons {0}/crystals.npz --potential {0}/argon.npz --length inf --out {1}/o": "--length inf: expected a finite",
}


@pytest.mark.parametrize("words", NUMBERS)
def test_numbers_that_are_none_are_named(crysjax, one_line, place, tmp_path, words):
    one_line(crysjax(*words.format(place, tmp_path).split()), NUMBERS[words])


REFERENCES = {
    "deep": "[" * 100_000, "null": '{"Ar": null}', "a list": "[1, 2]", "no element": '{"Xx": 1}', "cut": '{"Ar": 1',
    "digits": '{"Ar": ' + "9" * 400 + "}", "nan": '{"Ar": NaN}', "no atoms": '{"Ar": {"energy": 1, "composition": {}}}',
    "text": '{"Ar": "a lot"}', "nothing": "",
}  # fmt: skip


@pytest.mark.parametrize("name", REFERENCES)
def test_references_that_are_none_are_one_line(crysjax, one_line, place, tmp_path, name):
    (tmp_path / "r.json").write_text(REFERENCES[name])
    words = [
        "judge",
        place / "crystals.npz",
        "--by",
        "emt",
        "--out",
        tmp_path / "o",
        "--references",
        tmp_path / "r.json",
    ]
    one_line(crysjax(*words), r"--references .*r\.json: expected JSON of an energy or entry by element \(")


def test_weights_of_ones_own_get_a_name(crysjax, one_line, place, tmp_path, monkeypatch):
    monkeypatch.setenv("CRYSJAX_MODELS", str(tmp_path / "models"))
    answer = crysjax("models", "pull", "my-argon", "--from", place / "argon.npz")
    assert answer.code == 0 and "my-argon, a model of kind potential, SHA-256" in answer.out
    assert "my-argon          potential       of your own" in crysjax("models", "list").out
    assert (tmp_path / "models" / "my-argon.npz").read_bytes() == (place / "argon.npz").read_bytes()
    pull = ["models", "pull"]
    one_line(
        crysjax(*pull, "my-argon", "--from", place / "argon.npz"), r"'my-argon' is here already .* name that is free"
    )
    one_line(crysjax(*pull, "student"), r"'student' is here already \(.*student\.npz\)")
    one_line(crysjax(*pull, "other"), r"'other' is not published; expected one of nequix-mp-1.*, or --from FILE")
    one_line(crysjax(*pull, "../x", "--from", place / "argon.npz"), r"'\.\./x': expected a name of letters")
    one_line(crysjax(*pull, "x", "--from", place / "crystals.npz"), r"crystals\.npz: not a crysjax model")
    one_line(crysjax(*pull, "x", "--from", place / "hull.csv"), r"hull\.csv: expected a model's file, \.npz or \.nqx")
    assert os.listdir(tmp_path / "models") == ["my-argon.npz"]


def test_an_unknown_element_is_the_reason_of_its_crystal_alone(crysjax, one_line, place, tmp_path):
    """In everything that asks a potential; the crystal beside it is answered."""
    why, given = "the potential does not know Mg, Fe", ["--potential", place / "argon.npz"]
    answer = crysjax("relax", place / "crystals.npz", *given, "--out", tmp_path / "r.npz")
    assert answer.code == 0 and "1 converged, 1 failed" in answer.out and f"strange: {why}\n" in answer.err
    answer = crysjax("elasticity", place / "crystals.npz", *given, "--no-eos", "--out", tmp_path / "e.csv")
    assert answer.code == 0 and f"strange: {why}\n" in answer.err
    first, second = csv.DictReader((tmp_path / "e.csv").open())
    assert first["reason"] == "" and float(first["c11_gpa"]) > 0 and second["reason"] == why
    phonons = ["phonons", place / "crystals.npz", *given, "--row", 1, "--out", tmp_path / "p"]
    one_line(crysjax(*phonons), why)
    answer = crysjax("data", "label", place / "crystals.npz", *given, "--out", tmp_path / "l.npz")
    assert answer.code == 0 and "1 crystals labeled, 1 left out" in answer.out and why in answer.err


def test_models_are_found_without_a_home(place, tmp_path):
    """As where a container runs under a number that the system does not list."""
    code = (
        "import os, pwd, pathlib\nos.environ.pop('HOME', None); os.environ.pop('CRYSJAX_MODELS', None)\n"
        "def home(): raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.home = home\n"
        "from crysjax.cli.app import main\nmain(['models', 'list'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and "student" in done.stdout, done.stderr
    code = code.replace("['models', 'list']", f"['models', 'pull', 'mine', '--from', {str(place / 'argon.npz')!r}]")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1) and "set CRYSJAX_MODELS" in done.stderr


def test_an_error_is_one_printable_line_of_bounded_length():
    from crysjax.cli.app import LONGEST_LINE, explain
    from crysjax.data.names import printable

    line, code = explain(ValueError("a\n\x1b[31mred\x1b[0m " + "x" * 10**6))
    assert code == 2 and printable(line).startswith("a \\x1b[31mred\\x1b[0m xxx") and len(line) <= LONGEST_LINE + 3


UNITS = re.compile(r"Å|eV|GPa|degrees|\bK\b|GB|THz|[Ss]econds|share|%|factor|fraction|property.s unit|descriptor space")


def test_every_number_has_its_unit_in_the_help():
    from crysjax.cli.app import app

    def commands(group):
        for inner in group.registered_groups:
            yield from commands(inner.typer_instance)
        yield from (command.callback for command in group.registered_commands)

    seen, lacking = 0, []
    for command in commands(app):
        for name, parameter in inspect.signature(command).parameters.items():
            if "float" in str(parameter.annotation):
                seen += 1
                lacking += [] if UNITS.search(parameter.default.help) else [f"{command.__name__} --{name}"]
    assert seen > 15 and lacking == []
