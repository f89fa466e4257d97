"""Rules that hold for the arguments of every command: no empty path, and an output folder for one process alone."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import typer

FILES = (".npz", ".extxyz", ".xyz", ".cif")  # crystals under any other name are a folder of them


def alone(command: Callable, *, crystals: bool = False) -> Callable:
    """A command that has its output folders (`--out`, `--trajectory`) to itself while it runs.

    With `crystals`, `--out` is a folder unless its name ends like that of a file of crystals.
    """

    @functools.wraps(command)
    def run(**given: Any) -> Any:
        from crysjax.data import files

        with ExitStack() as stack:
            for name in ("out", "trajectory"):
                place = given.get(name)
                if place is not None and not (crystals and name == "out" and place.suffix in FILES):
                    stack.enter_context(files.alone(place))
            return command(**given)

    return run


def no_empty_paths(app: typer.Typer, arguments: list[str]) -> None:
    """An error for "" where a path belongs: it would mean the current folder, and comes of a variable that is not set.

    Text that is no path may be empty, as may options that an empty text leaves out.
    """
    if not any(one == "" or one.endswith("=") for one in arguments):
        return
    takes = dict(_options(app))
    for before, one in zip(["", *arguments], arguments):
        name, equals, value = one.partition("=")
        if one == "" and before not in takes:
            raise ValueError("an argument is empty; expected a path or a name")
        option = before if one == "" else name if equals and value == "" else ""
        if takes.get(option):
            raise ValueError(f"{option}: empty; expected a path")


def _options(app: typer.Typer) -> Iterator[tuple[str, bool]]:
    """Each option that takes a value, and whether that is a path which may not be empty."""
    for group in app.registered_groups:
        yield from _options(group.typer_instance)
    for command in app.registered_commands:
        kinds = typing.get_type_hints(command.callback)
        for name, parameter in inspect.signature(command.callback).parameters.items():
            if isinstance(parameter.default, typer.models.OptionInfo) and kinds[name] is not bool:
                is_path = Path in (kinds[name], *typing.get_args(kinds[name]))
                names = parameter.default.param_decls or (f"--{name.replace('_', '-')}",)
                yield from ((option, is_path) for option in names)
