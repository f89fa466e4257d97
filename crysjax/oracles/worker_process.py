"""A process that can be timed, weighed, killed with all its children, and replaced.

A calculator is somebody else's program: it may hang, eat the memory, fill the disk, crash the interpreter or start
programs of its own. So it runs in a process with a session of its own, under a `supervisor`. Memory is what all its
processes hold resident, read from /proc while the parent waits: limits of the address space (RLIMIT_AS) would stop
torch and JAX, which reserve far more of it than they use. What they print goes through a pipe, of which only the end is
kept; no file may be longer than the limit of the disk, and its folder is weighed like its memory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from crysjax.oracles import supervisor

POLL_SECONDS = 0.05  # between two looks at the memory; what grows by 1 GB/s overshoots its limit by 50 MB
DISK_GB = 10.0  # GB of files a worker; a plane-wave calculation of 100 atoms writes 1 to 5
_LAST_WORDS = 4096  # bytes of the log that a crash is explained from
_WEIGH_SECONDS = 0.5  # between two looks at the files
_PIECE = 1 << 16
_PIECE_SECONDS = 0.001  # between two full pieces of the log: whoever prints more than 64 MB/s has to wait


class Failed(Exception):
    """The worker cannot answer any more; the text says why, for people."""


class OutOfLimits(Failed):
    """It took more time or memory than it may, as it would again."""


class Worker(NamedTuple):
    """A running process that answers messages."""

    process: subprocess.Popen  # its supervisor, which ends as it does
    channel: Connection
    scratch: tempfile.TemporaryDirectory  # holds its working directory; goes with it
    printed: bytearray  # the end of what it printed
    reader: threading.Thread
    disk_gb: float


def start(*, disk_gb: float = DISK_GB) -> Worker:
    """A new interpreter in a session and a folder of its own, which waits for its first message.

    Its files take at most `disk_gb` (GB = 1e9 bytes), each by the kernel's limit and together as `ask` weighs them.
    """
    mine, its = Pipe()
    scratch = tempfile.TemporaryDirectory(prefix="crysjax-oracle-", ignore_cleanup_errors=True)
    (Path(scratch.name) / "work").mkdir()
    places = [str(Path(place).absolute()) for place in sys.path]  # "" means our folder, not the worker's
    main = f"main({its.fileno()}, {os.getpid()}, {int(disk_gb * 1e9)})"
    code = f"import sys; sys.path[:] = {places!r}; from crysjax.oracles.supervisor import main; {main}"
    process = subprocess.Popen(
        [sys.executable, "-c", code], pass_fds=[its.fileno()], cwd=Path(scratch.name) / "work", bufsize=0,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    its.close()  # so that the end of the worker is the end of the channel
    printed = bytearray()
    reader = threading.Thread(target=_drain, args=(process.stdout, printed), daemon=True)
    reader.start()
    return Worker(process, mine, scratch, printed, reader, disk_gb)


def _drain(pipe: BinaryIO, printed: bytearray) -> None:
    """Keep the end of what is printed, whoever prints how much."""
    while piece := pipe.read(_PIECE):
        printed += piece
        del printed[:-_LAST_WORDS]
        if len(piece) == _PIECE:
            time.sleep(_PIECE_SECONDS)
    pipe.close()


def ask(worker: Worker, message: Any, *, seconds: float, memory_gb: float | None) -> Any:
    """What the worker answers to a message; `Failed` says why it does not. Afterwards a failed worker must be stopped.

    `seconds` is wall time. `memory_gb` (GB = 1e9 bytes; None: no limit) is for the worker and its children together.
    """
    end, weigh = time.monotonic() + seconds, time.monotonic() + _WEIGH_SECONDS
    try:
        worker.channel.send(message)
        while not worker.channel.poll(min(POLL_SECONDS, max(end - time.monotonic(), 0))):
            if memory_gb is not None and resident_gb(worker) > memory_gb:
                raise OutOfLimits(f"needs more than {memory_gb:g} GB of memory")
            if (begin := time.monotonic()) > weigh:
                if files_gb(worker) > worker.disk_gb:
                    raise OutOfLimits(f"needs more than {worker.disk_gb:g} GB of disk")
                weigh = time.monotonic() + max(_WEIGH_SECONDS, 20 * (time.monotonic() - begin))
            if time.monotonic() > end:
                raise OutOfLimits(f"no answer within {seconds:g} s")
        return worker.channel.recv()
    except (EOFError, OSError):
        raise Failed(_death(worker)) from None


def stop(worker: Worker) -> None:
    """Kill the worker and everything that it started, wait until they are gone, and clear its folder away."""
    worker.process.send_signal(signal.SIGCONT)
    worker.process.send_signal(supervisor.STOP)
    with suppress(subprocess.TimeoutExpired):
        worker.process.wait(supervisor.LAST_SECONDS)
    end = time.monotonic() + supervisor.LAST_SECONDS
    leaders = {worker.process.pid}  # where the supervisor was killed, its session remains
    while (left := supervisor.members(leaders, supervisor.table())) and time.monotonic() < end:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        worker.process.poll()
        leaders = left | leaders
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(worker.process.pid, signal.SIGKILL)  # where there is no /proc
    worker.process.wait()
    worker.channel.close()  # not before: a worker whose channel ends kills itself, and its children cannot be found
    worker.reader.join(1)
    worker.scratch.cleanup()


def resident_gb(worker: Worker) -> float:
    """Memory that the worker and its children hold, in GB; pages that they share count once for each."""
    table = supervisor.table()
    pages = sum(table[pid][2] for pid in supervisor.members({worker.process.pid}, table))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e9


def files_gb(worker: Worker) -> float:
    """Disk that the files in the worker's folder take, in GB; links are not followed."""
    blocks = 0
    for folder, _, names in os.walk(worker.scratch.name):
        for name in names:
            with suppress(OSError):  # it is gone already
                blocks += os.lstat(os.path.join(folder, name)).st_blocks
    return blocks * 512 / 1e9


def can_weigh() -> bool:
    """Whether this system says how much memory a process holds."""
    return Path("/proc/self/stat").exists()


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
    worker.reader.join(1)
    lines = bytes(worker.printed).decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return f"{how}: {last}"[:300] if last else how
