"""A process that can be timed, weighed, killed with all its children, and replaced.

A calculator is somebody else's program: it may hang, eat the memory, crash the interpreter or start programs of its
own. So it runs in a process with a session of its own. Memory is what all processes of the session hold resident,
read from /proc while the parent waits: limits of the address space (RLIMIT_AS) would stop torch and JAX, which reserve
far more of it than they use.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

POLL_SECONDS = 0.05  # between two looks at the memory; what grows by 1 GB/s overshoots its limit by 50 MB
_PROC = Path("/proc")
_LAST_SECONDS = 10.0  # to wait for killed processes; one that waits for a disk takes its time
_LAST_WORDS = 4096  # bytes of the log that a crash is explained from


class Failed(Exception):
    """The worker cannot answer any more; the text says why, for people."""


class OutOfLimits(Failed):
    """It took more time or memory than it may, as it would again."""


class Worker(NamedTuple):
    """A running process that answers messages."""

    process: subprocess.Popen
    channel: Connection
    scratch: tempfile.TemporaryDirectory  # its working directory and log; goes with it


def start() -> Worker:
    """A new interpreter in a session and a folder of its own, which waits for its first message."""
    mine, its = Pipe()
    scratch = tempfile.TemporaryDirectory(prefix="crysjax-oracle-", ignore_cleanup_errors=True)
    (Path(scratch.name) / "work").mkdir()
    places = [str(Path(place).absolute()) for place in sys.path]  # "" means our folder, not the worker's
    code = f"import sys; sys.path[:] = {places!r}; from crysjax.oracles.worker import main; main({its.fileno()})"
    with (Path(scratch.name) / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=[its.fileno()], cwd=Path(scratch.name) / "work",
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    its.close()  # so that the end of the worker is the end of the channel
    return Worker(process, mine, scratch)


def ask(worker: Worker, message: Any, *, seconds: float, memory_gb: float | None) -> Any:
    """What the worker answers to a message; `Failed` says why it does not. Afterwards a failed worker must be stopped.

    `seconds` is wall time. `memory_gb` (GB = 1e9 bytes; None: no limit) is for the worker and its children together.
    """
    end = time.monotonic() + seconds
    try:
        worker.channel.send(message)
        while not worker.channel.poll(min(POLL_SECONDS, max(end - time.monotonic(), 0))):
            if memory_gb is not None and resident_gb(worker) > memory_gb:
                raise OutOfLimits(f"needs more than {memory_gb:g} GB of memory")
            if time.monotonic() > end:
                raise OutOfLimits(f"no answer within {seconds:g} s")
        return worker.channel.recv()
    except (EOFError, OSError):
        raise Failed(_death(worker)) from None


def stop(worker: Worker) -> None:
    """Kill the worker and everything that it started, wait until they are gone, and clear its folder away."""
    end = time.monotonic() + _LAST_SECONDS
    members = _members({worker.process.pid}, _table())
    while members and time.monotonic() < end:
        for pid in members:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        worker.process.poll()
        table = _table()  # what forked while it was being killed is found by its parent or session
        members = _members(members & table.keys() | {worker.process.pid}, table)
    with suppress(ProcessLookupError):
        os.killpg(worker.process.pid, signal.SIGKILL)  # where there is no /proc
    worker.process.wait()
    worker.channel.close()  # not before: a worker whose channel ends kills itself, and its children cannot be found
    worker.scratch.cleanup()


def resident_gb(worker: Worker) -> float:
    """Memory that the worker and its children hold, in GB; pages that they share count once for each."""
    table = _table()
    pages = sum(table[pid][2] for pid in _members({worker.process.pid}, table))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def can_weigh() -> bool:
    """Whether this system says how much memory a process holds."""
    return (_PROC / "self" / "stat").exists()


def _members(leaders: set[int], table: dict[int, tuple[int, int, int]]) -> set[int]:
    """The living ones of these processes, of their sessions, and of all that descends from them."""
    members = {pid for pid, (_, session, _) in table.items() if pid in leaders or session in leaders}
    while True:
        more = {pid for pid, (parent, _, _) in table.items() if parent in members} - members
        if not more:
            return members
        members |= more


def _table() -> dict[int, tuple[int, int, int]]:
    """Parent, session and resident pages of every living process, by /proc/PID/stat (proc(5), fields 4, 6 and 24)."""
    found = {}
    for place in _PROC.glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):  # it ended while we looked
            words = (place / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if words[0] not in "ZX":
                found[int(place.name)] = (int(words[1]), int(words[3]), int(words[21]))
    return found


def _death(worker: Worker) -> str:
    """How a process ended, with the last line that it printed."""
    with suppress(subprocess.TimeoutExpired):
        worker.process.wait(timeout=5)  # the channel closes a moment before the process is gone
    code = worker.process.returncode
    if code is None:
        how = "the worker closed its channel"
    elif code < 0:
        how = f"the worker was killed by {signal.Signals(-code).name}"
    else:
        how = f"the worker ended with exit code {code}"
    with (Path(worker.scratch.name) / "log").open("rb") as log:
        log.seek(max(log.seek(0, os.SEEK_END) - _LAST_WORDS, 0))
        lines = log.read().decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{how}: {last}"[:300] if last else how
