"""SIGTERM ends a command as Ctrl-C does: what is kept is said, and files and workers are left in order."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODES = {"Ctrl-C": 130, "SIGTERM": 143}  # 128 and the number of the signal


@contextmanager
def terminable() -> Iterator[list[str]]:
    """SIGTERM raises KeyboardInterrupt in the block and is named in the list; a second one ends the process at once."""
    received: list[str] = []

    def stop(number: int, frame: FrameType | None) -> None:
        received.append("SIGTERM")
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield received  # it is somebody else's business
        return
    signal.signal(signal.SIGTERM, stop)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
