"""How many files of crysjax one has to open to follow a command: those whose functions really run.

    python tests/follow.py train config.yaml --out /tmp/run

Runs the command line in this process under a profiler and prints, after it: the files in which a function was called;
how many of them call into another file themselves (the ones that tell the story; the rest are leaves); and how often
control climbs from a room to one of a higher level, other than by returning.
"""

import sys
import threading
from collections import Counter
from pathlib import Path

import crysjax
from crysjax.cli.app import main

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.structure import LEVEL

HOME = str(Path(crysjax.__file__).parent)


def file_of(code) -> str:
    """The file of a function, from `crysjax/`; empty for others, and for what runs on import."""
    name = code.co_filename
    return name[len(HOME) + 1 :] if name.startswith(HOME) and code.co_name != "<module>" else ""


def room(file: str) -> int:
    return LEVEL.get(file.split("/")[0].removesuffix(".py"), 0)


def follow(arguments: list[str]) -> Counter[tuple[str, str]]:
    """(file of the caller, file of the called) -> calls; a call between the two through other packages counts too."""
    calls: Counter[tuple[str, str]] = Counter()

    def watch(frame, event, _):
        if event == "call" and (here := file_of(frame.f_code)):
            above = frame.f_back
            while above is not None and not file_of(above.f_code):
                above = above.f_back
            calls[file_of(above.f_code) if above is not None else "", here] += 1

    threading.setprofile(watch)
    sys.setprofile(watch)
    try:
        main(arguments)
    except SystemExit as left:
        if left.code:
            raise
    finally:
        sys.setprofile(None)
    return calls


if __name__ == "__main__":
    calls = follow(sys.argv[1:])
    files = {file for pair in calls for file in pair if file}
    telling = {a for a, b in calls if a and a != b}
    climbs = {(a, b) for a, b in calls if a and room(b) > room(a)}
    print(f"files whose functions run: {len(files)}")
    print(f"of these, files that call into another: {len(telling)}")
    for file in sorted(telling, key=room, reverse=True):
        print(f"  {file} -> {', '.join(sorted({b for a, b in calls if a == file and b != file}))}")
    print(f"pairs of files where the lower room calls the higher one: {len(climbs)}")
    for a, b in sorted(climbs):
        print(f"  {a} -> {b}")
