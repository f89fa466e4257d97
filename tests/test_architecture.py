"""The rules that keep the house simple, checked on the source: who imports whom, how long things are."""

import ast
import statistics
import subprocess
import sys
import time
import typing
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import lengths

PACKAGE = lengths.PACKAGE
FILES = sorted(PACKAGE.rglob("*.py"))
LEVEL = {
    "base": 0, "geometry": 1, "search": 1, "chemistry": 2, "nets": 2, "data": 3, "config": 4,
    "terminal": 4, "surrogates": 4, "crystallography": 4, "constraints": 5, "retrieval": 5, "splits": 5,
    "generators": 6, "potentials": 6, "predictors": 6, "physics": 7, "guidance": 7, "models": 8, "oracles": 8,
    "evaluation": 8, "training": 9, "sampling": 9, "reports": 9, "campaign": 10, "front": 11, "cli": 12,
}  # fmt: skip
NEVER_DATA = {"nets", "generators", "search"}  # they work on packs and arrays, wherever these came from
HEAVY = {"pymatgen", "ase", "numpyro", "smact", "spglib"}  # imported inside functions only
ASE_ROOMS = (
    "chemistry/", "data/", "crystallography/", "retrieval/", "splits/", "physics/hull/", "oracles/", "evaluation/",
    "reports/", "potentials/ase.py",
)  # fmt: skip
"""The only places that know pymatgen or ase."""


def room(path: Path) -> str:
    """The first part of a module's name below the package: `crysjax/nets/dense.py` -> `nets`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST, path: Path) -> list[tuple[str, bool]]:
    """Every imported module by its absolute name, and whether it is imported at module level."""
    top = {id(node) for node in ast.walk(tree) if isinstance(node, ast.Module) for node in module_level(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) in top) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            package = ("crysjax", *path.relative_to(PACKAGE).parent.parts)
            stem = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (stem, node.module) if part)
            names = [f"{module}.{a.name}" for a in node.names] if module == "crysjax" else [module]
            found += [(name, id(node) in top) for name in names]
    return found


def module_level(module: ast.Module) -> list[ast.stmt]:
    """Statements that run at import: the body, and what hangs below `if` and `try` there, but not TYPE_CHECKING."""
    todo, out = list(module.body), []
    while todo:
        node = todo.pop()
        out.append(node)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.If | ast.Try):
            todo += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return out


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


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Files that import one another in a ring, type annotations included; each ring once."""
    found, done = [], set()
    for start in imports:
        path, todo = [], [(start, iter(sorted(imports[start])))]
        while todo:
            left = todo[-1][1]
            path = [name for name, _ in todo]
            nxt = next(left, None)
            if nxt is None:
                done.add(todo.pop()[0])
            elif nxt in path:
                found.append(path[path.index(nxt) :])
            elif nxt not in done:
                todo.append((nxt, iter(sorted(imports.get(nxt, ())))))
    return found


def test_no_files_import_one_another_in_a_circle():
    names = {
        ".".join(("crysjax", *p.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__") for p in FILES
    }
    imports = {}
    for path in FILES:
        name = ".".join(("crysjax", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        tree = ast.parse(path.read_text())
        said = {module for module, _ in imported(tree, path)}
        said |= {
            f"{node.module}.{alias.name}"
            for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module
            for alias in node.names
        }  # fmt: skip
        packages = {n for n in said if f"{n}.".startswith("crysjax.") and any(m.startswith(f"{n}.") for m in names)}
        imports[name] = (said & names) - packages - {name}
    assert circles(imports) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}}) == [["a", "b", "c"]]


def test_every_room_is_in_the_plan():
    assert {room(path) for path in FILES} - {"__init__", "__main__"} <= set(LEVEL)


def test_files_are_short():
    found = lengths.files()
    assert {name: n for name, n in found.items() if n > lengths.FILE} == {}
    assert [name for name in found if name.endswith("utils.py")] == []
    assert {n: c for n, c in found.items() if n.endswith("__init__.py") and c > 40} == {}


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


def test_import_is_quick_and_light():
    code = (
        "import time; t = time.perf_counter(); import crysjax; s = time.perf_counter() - t; import sys;"
        f"print(s, *sorted({HEAVY!r} & set(sys.modules)))"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    seconds = [float(run.stdout.split()[0]) for run in runs]
    assert runs[0].stdout.split()[1:] == [], "crysjax drags in heavy packages"
    assert min(seconds) < 2, f"import crysjax took {seconds} s"


def test_help_is_quick():
    if not (PACKAGE / "cli.py").exists() and not (PACKAGE / "cli").exists():
        pytest.skip("no command line yet")
    start = time.perf_counter()
    code = "import sys, crysjax.cli; print(*sorted({'jax', 'pymatgen', 'ase', 'numpyro'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == [], "the command line imports what only its commands need"
    assert time.perf_counter() - start < 5
