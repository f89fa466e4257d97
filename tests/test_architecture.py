"""The rules that keep the house simple, checked on the source: who imports whom, how long things are."""

import ast
import re
import statistics
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import lengths, structure
from tests.structure import FILES, LEVEL, PACKAGE, circles, imported, room

STACK = {"jax", "flax", "optax", "pymatgen", "ase", "scipy", "numpyro", "spglib", "smact", "e3nn_jax", "jraph"}
NEVER_DATA = {"nets", "generators", "search"}  # they work on packs and arrays, wherever these came from
HEAVY = {"pymatgen", "ase", "numpyro", "smact", "spglib"}  # imported inside functions only
ASE_ROOMS = (
    "chemistry/", "data/", "crystallography/", "retrieval/", "splits/", "physics/hull/", "oracles/", "evaluation/",
    "reports/", "potentials/ase.py",
)  # fmt: skip
"""The only places that know pymatgen or ase."""


def import_faults(path: Path, source: str) -> list[str]:
    """What a file imports against the rules, one line each."""
    here, faults = room(path), []
    where = path.relative_to(PACKAGE.parent)
    for name, at_top in imported(ast.parse(source), path):
        parts = name.split(".")
        if parts[0] == "crysjax" and len(parts) > 1 and parts[1] in LEVEL and here in LEVEL:
            there = parts[1]
            if there != here and LEVEL[there] >= LEVEL[here]:
                faults.append(f"{where} (level {LEVEL[here]}) imports {name} (level {LEVEL[there]})")
            if there == "data" and here in NEVER_DATA:
                faults.append(f"{where} imports {name}: {here} never imports data")
        if parts[0] in HEAVY and at_top:
            faults.append(f"{where} imports {name} at module level: import it inside the function that needs it")
        if parts[0] in {"pymatgen", "ase"} and not str(path.relative_to(PACKAGE)).startswith(ASE_ROOMS):
            faults.append(f"{where} imports {name}: only {', '.join(ASE_ROOMS)} may")
        if parts[0] in {"experiments", "benchmarks", "tests"}:
            faults.append(f"{where} imports {name}: the package stands without it")
    return faults


def test_imports_run_downwards():
    faults = [fault for path in FILES for fault in import_faults(path, path.read_text())]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize(
    ("file", "source", "fault"),
    [
        ("nets/dense.py", "from crysjax.data import datasets", "never imports data"),
        ("nets/dense.py", "from ..training import loop", "level 9"),
        ("search/run.py", "def f():\n    import crysjax.surrogates.gp", "imports crysjax.surrogates.gp"),
        ("data/readers/io.py", "import pymatgen.core", "at module level"),
        ("campaign/round.py", "def f():\n    import ase", "only chemistry/"),
        ("nets/dense.py", "from crysjax import cli", "level 12"),
    ],
)
def test_the_rule_can_fail(file, source, fault):
    faults = import_faults(PACKAGE / file, source)
    assert any(fault in line for line in faults), faults


@pytest.mark.parametrize(
    "source", ["from crysjax.base import Pack", "from crysjax.geometry import torus", "import jax"]
)
def test_the_rule_lets_good_imports_pass(source):
    assert not import_faults(PACKAGE / "nets/dense.py", source)


def test_no_files_import_one_another_in_a_circle():
    assert circles(structure.imports()) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c"]]


def test_every_module_has_a_door():
    graph = structure.together(structure.imports(), structure.by_name())
    assert structure.without_a_door(graph) == []
    closed = graph | {door: {"crysjax.base"} for door in structure.DOORS}
    assert "crysjax.search.run" in structure.without_a_door(closed)
    assert "crysjax.generators.gan" in structure.reached(graph, ["crysjax.models.families"])  # by name


def test_a_class_has_one_meaning():
    assert structure.class_names() == {}


def test_a_word_is_one_module():
    assert structure.module_words() == {}


def test_the_page_has_the_figures_of_today():
    written, now = structure.on_the_page(structure.PAGE.read_text()), structure.measured()
    assert structure.stale(written, now) == [], "python tests/structure.py --write"
    assert structure.stale({"files": 100, "circles": 0}, {"files": 111, "circles": 1}) == [
        "files: 100 is written, 111 measured", "circles: 0 is written, 1 measured"]  # fmt: skip
    assert structure.stale({"files": 100}, {"files": 109}) == []


def test_every_room_is_in_the_plan():
    assert {room(path) for path in FILES} - {"__init__", "__main__"} <= set(LEVEL)


def test_files_are_short():
    found = lengths.files()
    assert {name: n for name, n in found.items() if n > lengths.FILE} == {}
    assert [name for name in found if name.endswith("utils.py")] == []
    assert {n: c for n, c in found.items() if n.endswith("__init__.py") and c > 40} == {}


def test_slow_tests_are_there():
    for name in (PACKAGE.parent / "tests" / "slow.txt").read_text().split():
        path, _, test = name.partition("::")
        assert (f"\ndef {test}(" if test else "\ndef test_") in (PACKAGE.parent / path).read_text(), name


def test_functions_are_short():
    found = lengths.bodies()
    assert [f"{body.place}: {body.lines} lines" for body in found if body.lines > lengths.BODY] == []
    assert lengths.p90([body.lines for body in found]) <= lengths.P90
    assert statistics.median(body.lines for body in found) <= lengths.MEDIAN


def test_a_body_is_counted_without_signature_and_docstring(tmp_path):
    source = (
        'def f(\n    x,\n):\n    """Says\n\n    more."""\n    y = x\n\n    def g():\n        return y\n\n    return g\n'
    )
    (tmp_path / "f.py").write_text(source)
    assert lengths.bodies(tmp_path) == [(6, "f.py:1 f"), (1, "f.py:9 g")]


def undocumented(part: type) -> list[str]:
    """Fields of a NamedTuple that hold a function, but not of a documented protocol that says how it is called."""
    faults = []
    for name, hint in typing.get_type_hints(part).items():
        for kind in typing.get_args(hint) or (hint,):
            function = typing.get_origin(hint) is Callable or "__call__" in vars(kind)
            if function and not (getattr(kind, "_is_protocol", False) and kind.__doc__):
                faults.append(f"{part.__name__}.{name}: {hint}")
    return faults


def test_every_function_of_the_contract_has_a_protocol():
    from crysjax.base import contract

    parts = [part for part in vars(contract).values() if isinstance(part, type) and hasattr(part, "_fields")]
    assert len(parts) == 7
    assert [fault for part in parts for fault in undocumented(part)] == []
    assert not [p.name for p in (PACKAGE / "base").glob("*.py") if "Callable[" in p.read_text()]

    class Loose(typing.NamedTuple):
        apply: Callable[[int], int]
        name: str

    assert undocumented(Loose)


ONCE = {
    r"(?m)^ *(import|from) spglib": {"crystallography/symmetry_finder.py", "data/readers/hall_settings.py"},
    r"ProcessPoolExecutor\(": {"data/parallel.py"},
    r"\[\[?-1, 0, 1\]|\(-1, 0, 1\)|\[0, -1, 1\]": {"geometry/torus.py"},  # the 27 images
    r'= "formation_energy_ev_per_atom"': {"data/entry.py"},
    r"\"(the cell has no volume|positions or cell are not finite)\"": {"geometry/soundness.py"},
}
"""Text that stands in these files and nowhere else."""


@pytest.mark.parametrize("pattern", ONCE)
def test_one_of_each(pattern):
    found = {str(p.relative_to(PACKAGE)) for p in FILES if re.search(pattern, p.read_text())}
    assert found == ONCE[pattern]


SECONDS_OF_IMPORT = 0.5  # 0.01 s on an idle core; a busy machine takes many times that


def test_import_needs_nothing_heavy():
    """`import crysjax` imports none of the stack, and `--help` nothing that computes."""
    code = "import time; t = time.perf_counter(); import crysjax; print(time.perf_counter() - t);"
    code += "import sys; from crysjax.__main__ import console; sys.argv = ['crysjax', '--help']\ntry: console()\n"
    code += "except SystemExit: pass\nprint(*sorted(set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", "import sys; first = set(sys.modules)\n" + code], capture_output=True,
                         text=True, check=True)  # fmt: skip
    lines = run.stdout.splitlines()
    assert float(lines[0]) < SECONDS_OF_IMPORT and "evaluate" in run.stdout
    assert not (STACK | {"numpy"}) & set(lines[-1].split()), "--help imports what only its commands need"
    bare = subprocess.run([sys.executable, "-c", "import sys, crysjax; print(*sys.modules)"], capture_output=True,
                          text=True, check=True)  # fmt: skip
    assert not (STACK | {"numpy", "typer", "yaml"}) & set(bare.stdout.split())
