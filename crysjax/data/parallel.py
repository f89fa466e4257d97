"""The one pool of processes: a function of many tasks, in this process where few, else in some that are started once.

Processes are started with "spawn", so a script that uses more than one needs the usual `if __name__ == "__main__"`
guard; one process starts none.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

LONGEST_CHUNK = 256  # tasks that are sent together


@contextmanager
def workers(processes: int, inline: int) -> Iterator[Callable[..., list]]:
    """`run(function, tasks, work)`: the answers in order; processes, at most one a core, start when they pay.

    They do where `work`, the number of tasks if it is not given, is at least `inline`.
    """
    processes = min(processes, os.cpu_count() or 1)
    with ExitStack() as stack:
        spawn = multiprocessing.get_context("spawn")
        pool = cache(lambda: stack.enter_context(ProcessPoolExecutor(processes, mp_context=spawn)))

        def run(function: Callable, tasks: Sequence, work: int | None = None) -> list:
            if processes < 2 or len(tasks) < 2 or (len(tasks) if work is None else work) < inline:
                return [function(task) for task in tasks]
            chunk = max(1, min(LONGEST_CHUNK, len(tasks) // (8 * processes)))
            return list(pool().map(function, tasks, chunksize=chunk))

        yield run


def each(
    function: Callable[[Any], Any], tasks: Sequence, processes: int, *, inline: int, work: int | None = None
) -> list:
    """`function` of every task, in order, by up to so many processes; in this one below `inline` tasks."""
    with workers(processes, inline) as run:
        return run(function, tasks, work)
