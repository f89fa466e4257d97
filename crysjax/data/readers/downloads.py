"""Downloads with a clear end: a size, a time for all of it, and the length that was announced."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any

_PIECE = 1 << 16


def fetch(
    request: str | urllib.request.Request,
    *,
    most: int,
    seconds: float,
    opened: Callable[..., Any] = urllib.request.urlopen,
) -> bytes:
    """The body of an answer of at most `most` bytes, all of it within `seconds` of wall time.

    A server that sends a byte now and then keeps every timeout of a socket away, so a thread of its own asks it and is
    left behind when the time is over.

    Raises:
        ValueError: more than `most` bytes.
        OSError: as `urllib` raises it; TimeoutError when the time is over; ConnectionError for a body cut short.
    """
    end, found = time.monotonic() + seconds, []

    def ask() -> None:
        try:
            with opened(request, timeout=seconds) as answer:
                found.append(_body(answer, most, end))
        except BaseException as error:  # handed on below
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        raise TimeoutError(f"no whole answer within {seconds:g} s")
    if isinstance(found[0], http.client.HTTPException):
        raise ConnectionError(f"the answer is cut short or malformed ({type(found[0]).__name__})")
    if isinstance(found[0], BaseException):
        raise found[0]
    return found[0]


def _body(answer: Any, most: int, end: float) -> bytes:
    announced = answer.headers.get("Content-Length", "")
    expected = int(announced) if announced.isdecimal() and len(announced) < 20 else None
    parts, size = [], 0
    while (expected or 0) <= most and size <= most and (piece := answer.read1(_PIECE)):
        parts.append(piece)
        size += len(piece)
        if time.monotonic() > end:
            raise TimeoutError("the time is over")
    if max(expected or 0, size) > most:
        raise ValueError(f"more than {most} bytes")
    if expected is not None and size < expected:
        raise ConnectionError(f"the answer ends after {size} of {expected} bytes")
    return b"".join(parts)
