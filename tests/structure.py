"""The shape of the house, measured on its source: `python tests/structure.py`, with `--write` into ARCHITECTURE.md.

Sizes, who imports whom, what no user can reach, and how many files one opens to follow one thing that crysjax does.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from tests import lengths

PACKAGE = lengths.PACKAGE
PAGE = PACKAGE.parent / "ARCHITECTURE.md"
FILES = sorted(PACKAGE.rglob("*.py"))
LEVEL = {
    "base": 0, "geometry": 1, "search": 1, "chemistry": 2, "nets": 2, "data": 3, "config": 4,
    "terminal": 4, "surrogates": 4, "crystallography": 4, "constraints": 5, "retrieval": 5, "splits": 5,
    "generators": 6, "potentials": 6, "predictors": 6, "physics": 7, "guidance": 7, "models": 8, "oracles": 8,
    "evaluation": 8, "training": 9, "sampling": 9, "reports": 9, "campaign": 10, "front": 11, "cli": 12,
}  # fmt: skip
DOORS = ("crysjax", "crysjax.__main__", "crysjax.cli.app", "crysjax.front")
READ = {
    "a training run": "crysjax.cli.train",
    "a campaign": "crysjax.cli.design",
    "an evaluation": "crysjax.cli.evaluate",
}
BEGIN, END = "<!-- measured by tests/structure.py -->", "<!-- end -->"

Imports = Mapping[str, set[str]]
"""Module -> the modules of the package that it imports, wherever the import stands."""


def room(path: Path) -> str:
    """The first part of a module's name below the package: `crysjax/nets/dense.py` -> `nets`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module_name(path: Path) -> str:
    """`crysjax/nets/dense.py` -> `crysjax.nets.dense`; a package is its `__init__`."""
    return ".".join(("crysjax", *path.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


def imported(tree: ast.Module, path: Path) -> list[tuple[str, bool]]:
    """Every imported module by its absolute name, and whether it is imported at module level."""
    top = {id(node) for node in module_level(tree)}
    found = []
    for node in nodes(tree):
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


@cache
def parsed(path: Path) -> ast.Module:
    """The source of a file, parsed once."""
    return ast.parse(path.read_text())


@cache
def nodes(tree: ast.Module) -> tuple[ast.AST, ...]:
    """Imports, functions, classes and texts of a file, wherever they stand."""
    kinds = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Constant
    return tuple(node for node in ast.walk(tree) if isinstance(node, kinds))


@cache
def imports() -> dict[str, set[str]]:
    """The graph of the package: `from a import b` is a.b where that is a module, else a; type annotations count."""
    names = {module_name(path) for path in FILES}
    packages = {module_name(path) for path in FILES if path.name == "__init__.py"}
    empty = {module_name(path) for path in FILES if path.name == "__init__.py" and not path.read_text().strip()}
    found = {}
    for path in FILES:
        tree, here = parsed(path), module_name(path)
        said = {module for module, _ in imported(tree, path)}
        for node in nodes(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                inside = {f"{node.module}.{alias.name}" for alias in node.names} & names
                said |= inside
                if node.module in packages and len(inside) == len(node.names):
                    said.discard(node.module)  # only a way to its modules
        found[here] = (said & names) - empty - {here}
    return found


@cache
def by_name() -> dict[str, set[str]]:
    """Modules that a file names in a string, to import them when asked for: "crysjax.a.b" or "a.b:function"."""
    names = {module_name(path) for path in FILES}
    found = {}
    for path in FILES:
        texts = {n.value.partition(":") for n in nodes(parsed(path)) if _is_text(n)}
        whole = {place for place, _, _ in texts} | {f"crysjax.{place}" for place, colon, _ in texts if colon}
        found[module_name(path)] = {name for name in whole & names if name.count(".") > 1}
    return found


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def together(*graphs: Imports) -> dict[str, set[str]]:
    """One graph of several."""
    return {name: set().union(*(graph.get(name, set()) for graph in graphs)) for graph in graphs for name in graph}


def reached(graph: Imports, starts: Iterable[str]) -> set[str]:
    """Everything that some modules lead to, themselves included."""
    found, todo = set(), list(starts)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += graph[name]
    return found


def circles(graph: Imports) -> list[list[str]]:
    """Files that import one another in a ring, type annotations included; each ring once."""
    found, done = [], set()
    for start in graph:
        path, todo = [], [(start, iter(sorted(graph[start])))]
        while todo:
            left = todo[-1][1]
            path = [name for name, _ in todo]
            nxt = next(left, None)
            if nxt is None:
                done.add(todo.pop()[0])
            elif nxt in path:
                found.append(path[path.index(nxt) :])
            elif nxt not in done:
                todo.append((nxt, iter(sorted(graph.get(nxt, ())))))
    return found


def upward(graph: Imports, modules: Iterable[str]) -> list[tuple[str, str]]:
    """Imports of these modules that go to another room of the same or of a higher level."""
    rooms = {name: name.split(".")[1] for name in graph if name.split(".")[1:2] and name.split(".")[1] in LEVEL}
    return [
        (name, to)
        for name in modules for to in sorted(graph[name])
        if name in rooms and to in rooms and rooms[name] != rooms[to] and LEVEL[rooms[to]] >= LEVEL[rooms[name]]
    ]  # fmt: skip


def without_a_door(graph: Imports) -> list[str]:
    """Modules that no command, no public function and no `python -m` of their own leads to."""
    own = [module_name(path) for path in FILES if 'if __name__ == "__main__"' in path.read_text()]
    left = set(graph) - reached(graph, (*DOORS, *own))
    return sorted(name for name in left if (PACKAGE.parent / f"{name.replace('.', '/')}.py").exists())


def class_names() -> dict[str, list[str]]:
    """Public classes whose name more than one file defines, and where."""
    found = defaultdict(list)
    for path in FILES:
        for node in nodes(parsed(path)):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(module_name(path))
    return {name: where for name, where in found.items() if len(where) > 1}


def module_words() -> dict[str, set[str]]:
    """Words under which files import several modules of the package, `as` included, and which these are."""
    names, found = {module_name(path) for path in FILES}, defaultdict(set)
    for path in FILES:
        for node in nodes(parsed(path)):
            if isinstance(node, ast.ImportFrom) and node.module:
                for alias in node.names:
                    if (module := f"{node.module}.{alias.name}") in names:
                        found[alias.asname or alias.name].add(module)
    return {word: modules for word, modules in found.items() if len(modules) > 1}


def measured() -> dict[str, int]:
    """The table: what is measured -> its value."""
    graph = together(imports(), by_name())
    lines = [len(path.read_text().splitlines()) for path in FILES]
    sizes = [body.lines for body in lengths.bodies()]
    table = {
        "files": len(FILES),
        "lines": sum(lines),
        "lines of the longest file": max(lines),
        "functions": len(sizes),
        "lines of a function's body, median": int(statistics.median(sizes)),
        "lines of a function's body, 90th percentile": lengths.p90(sizes),
        "lines of the longest body": max(sizes),
        "circles between files": len(circles(imports())),
        "imports that climb to another room of the same or a higher level": len(upward(graph, graph)),
        "names of classes that several files define": len(class_names()),
        "words under which several modules are imported": len(module_words()),
        "modules that no command and no public function leads to": len(without_a_door(graph)),
    }
    for what, start in READ.items():
        opened = reached(graph, [start])
        table[f"files that {what} opens, from `cli/{start.split('.')[-1]}.py`"] = len(opened)
        table[f"imports on the way of {what} that climb"] = len(upward(graph, opened))
    return table


def on_the_page(page: str) -> dict[str, int]:
    """The table as it is written."""
    rows = [line.strip("|").split("|") for line in page.split(BEGIN)[1].split(END)[0].strip().splitlines()[2:]]
    return {what.strip(): int(value) for what, value in rows}


def text(table: Mapping[str, int]) -> str:
    """The table in Markdown."""
    return "\n".join(["| what | measured |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in table.items())])


def stale(written: Mapping[str, int], now: Mapping[str, int], tolerance: float = 0.1) -> list[str]:
    """Rows that are no longer true. Sizes may be off by a tenth, so that not every commit writes them; faults may only
    become fewer."""
    if list(written) != list(now):
        return [f"the rows are {list(written)}"]
    faults = {what for what in now if any(word in what for word in ("circles", "climb", "several", "no command"))}
    return [
        f"{what}: {written[what]} is written, {value} measured"
        for what, value in now.items()
        if value - written[what] > (0 if what in faults else tolerance * written[what])
        or (what not in faults and written[what] - value > tolerance * value)
    ]


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        page = PAGE.read_text()
        before, rest = page.split(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{text(measured())}\n{END}{rest.split(END)[1]}")
    print(text(measured()))
    for name in without_a_door(together(imports(), by_name())):
        print(f"no door: {name}")
    for body in lengths.bodies()[:5]:
        print(f"{body.lines} lines: {body.place}")
