"""Do the tests notice a wrong formula? Each entry of `mutations.json` is one: it is made, and its tests have to fail.

    python tests/mutations.py [--room generators] [--new] [--out experiments/mutations/result.json] [--baseline]

A mutation changes one formula of physical meaning (a sign, a factor, an exponent, a missing term) in a temporary copy
of the package and runs the few tests that should notice, and nothing else. It counts as caught where pytest reports a
failed test (exit code 1); no test found or an error before the tests is not "caught" but an error of the table. The old
text has to occur exactly once in its file, so the table cannot rot silently: `tests/test_mutations.py` checks it
with every run of the suite. Results are kept under a digest of the mutation, its file and its tests: what has not
changed is not run again. A result of an earlier state stays until it is run again and says `"current": false`; `--new`
runs those alone that have no result at all. `--baseline` runs the selected tests unchanged as well, where they have to
pass.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_suffix(".json")
GOAL = 0.95
LIMIT_SECONDS = 900


class Mutation(NamedTuple):
    """One wrong formula and who should notice."""

    file: str  # below crysjax/
    old: str
    new: str
    wrong: str  # what is wrong with the new text, in words
    tests: list[str]  # arguments of pytest, below tests/

    @property
    def room(self) -> str:
        return self.file.partition("/")[0]


def table() -> list[Mutation]:
    """All mutations of the table."""
    return [Mutation(**row) for row in json.loads(TABLE.read_text())]


def mutated(mutation: Mutation, root: Path = ROOT) -> str:
    """The text of the file with the mutation made.

    Raises:
        ValueError: the old text is not there exactly once, or nothing changes.
    """
    text = (root / "crysjax" / mutation.file).read_text()
    found = text.count(mutation.old)
    if found != 1:
        raise ValueError(f"{mutation.file}: {mutation.old!r} occurs {found} times; expected once")
    if mutation.old == mutation.new:
        raise ValueError(f"{mutation.file}: {mutation.old!r} is not changed")
    return text.replace(mutation.old, mutation.new)


def digest(mutation: Mutation) -> str:
    """Of the mutation, its file and the files of its tests: what an earlier result belongs to."""
    files = [ROOT / "crysjax" / mutation.file, *(ROOT / "tests" / path for path in files_of_tests(mutation))]
    parts = [json.dumps(mutation).encode(), *(path.read_bytes() for path in files)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def files_of_tests(mutation: Mutation) -> list[str]:
    return [part.partition("::")[0] for part in mutation.tests if part.partition("::")[0].endswith(".py")]


def run(mutation: Mutation, copy: Path, changed: bool = True) -> dict[str, Any]:
    """Whether the tests notice, in the copy of the tree, which is left as it was."""
    target = copy / "crysjax" / mutation.file
    kept = target.read_text()
    if changed:
        target.write_text(mutated(mutation))
    tests = [f"tests/{part}" if part.partition("::")[0].endswith(".py") else part for part in mutation.tests]
    began = time.monotonic()
    try:
        code, said = tested(tests, copy)
    finally:
        target.write_text(kept)
    answer = {0: "survived", 1: "caught"}.get(code, "error")
    row = {"answer": answer, "seconds": round(time.monotonic() - began, 1)}
    return row if answer == "caught" else row | {"said": said}


def tested(tests: list[str], copy: Path) -> tuple[int, str]:
    """Exit code of pytest in a process of its own, forked so that libraries are imported once, and what it said last.

    The parent imports nothing of the package and runs no computation, so nothing of it is left in a child.
    """
    log = copy / "log.txt"
    child = os.fork()
    if not child:
        os.chdir(copy)
        os.environ["PYTHONPATH"] = str(copy)
        sys.path.insert(0, str(copy))
        sys.stdout = sys.stderr = log.open("w")
        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--capture=sys", *tests])
        sys.stdout.flush()
        os._exit(int(code))
    ends = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < ends:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), log.read_text()[-400:]
        time.sleep(0.1)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return -1, f"no end after {LIMIT_SECONDS} s"


def copied(folder: Path) -> Path:
    """A copy of what tests need."""
    for name in ("crysjax", "tests", "benchmarks", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def kept(every: list[Mutation], known: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The results in the order of the table, each with whether it is of the mutation, file and tests as they are."""
    of = {(row["file"], row["wrong"]): row for row in known}
    found = [(m, of[m.file, m.wrong]) for m in every if (m.file, m.wrong) in of]
    return [row | {"current": row["digest"] == digest(m)} for m, row in found]


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts in all and by room."""
    rooms = sorted({row["file"].partition("/")[0] for row in rows})
    of_room = {room: [r["answer"] for r in rows if r["file"].startswith(f"{room}/")] for room in rooms}
    caught = sum(row["answer"] == "caught" for row in rows)
    counts = {room: f"{answers.count('caught')}/{len(answers)}" for room, answers in of_room.items()}
    return {"mutations": len(rows), "caught": caught, "share": round(caught / max(len(rows), 1), 4), "rooms": counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--room", action="append", help="only these rooms")
    parser.add_argument("--new", action="store_true", help="only those that were never run")
    parser.add_argument("--out", type=Path, default=ROOT / "experiments/mutations/result.json")
    parser.add_argument("--baseline", action="store_true", help="run the tests without mutations, too")
    args = parser.parse_args()
    for name in ("jax", "flax.linen", "optax", "scipy.stats", "scipy.optimize", "e3nn_jax"):
        importlib.import_module(name)
    every = table()
    known = json.loads(args.out.read_text())["rows"] if args.out.exists() else []
    rows = kept(every, known)
    done = {(row["file"], row["wrong"]) for row in rows if args.new or (row["current"] and row["answer"] == "caught")}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        copy = copied(Path(folder))
        for mutation in every:
            if (args.room and mutation.room not in args.room) or (mutation.file, mutation.wrong) in done:
                continue
            answer = run(mutation, copy)
            if args.baseline and run(mutation, copy, changed=False)["answer"] != "survived":
                answer |= {"answer": "error", "said": "the tests fail without the mutation"}
            row = {"digest": digest(mutation), "file": mutation.file, "wrong": mutation.wrong, **answer}
            print(f"{answer['answer']:9s}{answer['seconds']:6.0f} s  {mutation.file}: {mutation.wrong}", flush=True)
            rows = kept(every, [*rows, row])
            args.out.write_text(json.dumps(summary(rows) | {"rows": rows}, indent=1) + "\n")
    found, current = summary(rows), sum(row["current"] for row in rows)
    print(f"{found['caught']} of {found['mutations']} caught, {found['share']:.1%} (goal {GOAL:.0%})")
    print(f"{current} were run with files as they are, {len(every) - len(rows)} never")
    sys.exit(0 if found["share"] >= GOAL else 1)


if __name__ == "__main__":
    main()
