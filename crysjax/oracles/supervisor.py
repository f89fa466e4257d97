"""The process between us and a worker: whatever the worker starts ends with it, and both end with us.

A worker that computes in C hears nothing, so it cannot notice that its parent is gone; and a program that puts itself
into the background (two forks and a session of its own) is nobody's child. So a small process that only waits stands
above the worker. On Linux the kernel makes it the parent of every orphan below it (PR_SET_CHILD_SUBREAPER, prctl(2)),
wakes it when its own parent dies, and kills the worker when it dies itself (PR_SET_PDEATHSIG). Elsewhere it looks once
a second who its parent is.

It ends, killing all that descends from it first, when the worker has ended, when its parent has, or when it is asked to
by `STOP`. Then it dies as the worker did. It imports neither NumPy nor anything else that takes time.
"""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

STOP = signal.SIGHUP  # asks a supervisor to end
LAST_SECONDS = 10.0  # to wait for killed processes; one that waits for a disk takes its time
_PROC = Path("/proc")
_PDEATHSIG, _SUBREAPER = 1, 36  # linux/prctl.h
_LOOK_SECONDS = 1.0
_WAKE = {signal.SIGCHLD, signal.SIGTERM, STOP}


def main(descriptor: int, parent: int, file_bytes: int) -> NoReturn:
    """Start a worker that talks over this descriptor and writes no longer file than this, and watch over it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAKE)
    _prctl(_PDEATHSIG, signal.SIGTERM)  # the parent's own death; also that of the thread which started us
    _prctl(_SUBREAPER, 1)
    above, worker = os.getpid(), os.fork()
    if not worker:
        _work(descriptor, above, file_bytes)
    os.close(descriptor)
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 1)  # the log ends with the last of those who write to it
    os.dup2(nowhere, 2)
    status = _ended(worker, parent)
    kill_below(above)
    if os.getppid() != parent:
        shutil.rmtree(Path.cwd().parent, ignore_errors=True)  # nobody else does
    _leave(status)


def _work(descriptor: int, above: int, file_bytes: int) -> NoReturn:
    _prctl(_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != above:  # it died before the kernel knew
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WAKE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    most = file_bytes if hard == resource.RLIM_INFINITY else min(file_bytes, hard)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    from crysjax.oracles import worker

    try:
        worker.main(descriptor)
    finally:
        sys.stdout.flush()
        os._exit(1)  # it never returns


def _prctl(option: int, value: int) -> None:
    with suppress(AttributeError, OSError):  # no Linux
        ctypes.CDLL(None).prctl(option, int(value), 0, 0, 0)


def _ended(worker: int, parent: int) -> int:
    """How the worker ended (wait(2)'s status); it may still run if nobody waits for it any more."""
    while True:
        said = _woken()
        status = _reaped(worker)
        if status is not None:
            return status
        if os.getppid() != parent or said == STOP:
            os.kill(worker, signal.SIGKILL)
            return signal.SIGKILL


def _woken() -> int:
    """The signal that came, 0 after a while without one."""
    if hasattr(signal, "sigtimedwait"):
        said = signal.sigtimedwait(_WAKE, _LOOK_SECONDS)
        return said.si_signo if said else 0
    time.sleep(_LOOK_SECONDS / 10)
    return STOP if STOP in signal.sigpending() else 0


def _reaped(worker: int) -> int | None:
    """The status of the worker if it has ended; every other dead child is forgotten."""
    found = None
    with suppress(ChildProcessError):
        while (one := os.waitpid(-1, os.WNOHANG))[0]:
            found = one[1] if one[0] == worker else found
    return found


def _leave(status: int) -> NoReturn:
    """Die as the worker did, so that whoever waits for us learns how."""
    if os.WIFSIGNALED(status):
        sent = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError, ValueError):  # SIGKILL cannot be set
            signal.signal(sent, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())
        os.kill(os.getpid(), sent)
    os._exit(os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else 1)


def kill_below(pid: int) -> None:
    """Kill all that descends from a process, and wait until it is gone; what it forks meanwhile as well."""
    end = time.monotonic() + LAST_SECONDS
    while (below := members({pid}, table(), sessions=False) - {pid}) and time.monotonic() < end:
        for one in below:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(one, signal.SIGKILL)
        time.sleep(0.005)
        if pid == os.getpid():
            _reaped(0)


def members(leaders: set[int], table: dict[int, tuple[int, int, int]], *, sessions: bool = True) -> set[int]:
    """The living ones of these processes, of their sessions, and of all that descends from them."""
    found = {pid for pid, (_, session, _) in table.items() if pid in leaders or (sessions and session in leaders)}
    while True:
        more = {pid for pid, (parent, _, _) in table.items() if parent in found} - found
        if not more:
            return found
        found |= more


def table() -> dict[int, tuple[int, int, int]]:
    """Parent, session and resident pages of every living process, by /proc/PID/stat (proc(5), fields 4, 6 and 24).

    A zombie with threads left (field 20) lives: its first thread has ended, and its children are its own until the last
    one has.
    """
    found = {}
    for place in _PROC.glob("[0-9]*"):
        with suppress(OSError, IndexError, ValueError):  # it ended while we looked
            words = (place / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if words[0] not in "ZX" or int(words[17]) > 1:
                found[int(place.name)] = (int(words[1]), int(words[3]), int(words[21]))
    return found
