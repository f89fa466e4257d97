"""What people see: text without what a terminal would obey, and progress, as a bar where there is a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

from crysjax.data.names import printable

QUIET_SECONDS = 5.0  # between plain lines


class Stopped(Exception):
    """Ctrl-C or SIGTERM, with what is kept; typer would take a KeyboardInterrupt for itself and say nothing."""


def say(text: object = "", *, err: bool = False) -> None:
    """Print lines; the one way in which commands write to the terminal."""
    typer.echo(printable(text, keep="\n\t"), err=err)


Advance = Callable[..., None]  # (done, total, what = "")


@contextmanager
def bar(name: str) -> Iterator[Advance]:
    """A progress display; call what it gives with (done, total, text)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    head, tail = (TextColumn(text, markup=False) for text in ("{task.fields[name]}", "{task.description}"))
    columns = (head, BarColumn(), MofNCompleteColumn(), tail)
    with Progress(*columns, TimeRemainingColumn(), disable=not _is_terminal()) as display:
        task, last = display.add_task("", total=None, name=printable(name)), [-QUIET_SECONDS, ""]

        def advance(done: int, total: int, what: str = "", part: str = name) -> None:
            display.update(task, completed=done, total=total, description=printable(what), name=printable(part))
            now = time.monotonic()
            if display.disable and (done == total or now - last[0] > QUIET_SECONDS or part != last[1]):
                last[:] = now, part
                say(f"{part} {done}/{total} {what}".rstrip())

        yield advance


def _is_terminal() -> bool:
    from rich.console import Console

    return Console().is_terminal
