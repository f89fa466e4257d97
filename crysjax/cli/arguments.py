"""Rules for the arguments of every command: no empty path, outputs that can be written, a folder for one process."""

from __future__ import annotations

import functools
import inspect
import os
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
                if is_folder(name, given.get(name)):
                    stack.enter_context(files.alone(given[name]))
            return command(**given)

    def is_folder(name: str, place: Path | None) -> bool:
        return place is not None and not (crystals and name == "out" and place.suffix in FILES)

    run.is_folder = is_folder
    return run


def refuse_places(command: Callable, given: dict[str, Any]) -> None:
    """An error for an output that cannot be written where it is asked for, before hours are spent on it.

    Raises:
        ValueError: one line that names what is in the way: a folder for a file, a file for a folder, no permission.
    """
    is_folder = getattr(command, "is_folder", lambda *_: False)
    for name in ("out", "trajectory", "json_file"):
        if isinstance(given.get(name), Path):
            _refuse_place(given[name], is_folder(name, given[name]))


def _refuse_place(path: Path, folder: bool) -> None:
    if folder and path.exists() and not path.is_dir():
        raise ValueError(f"{path}: is a file; expected a folder, or a name that is free")
    if not folder and path.is_dir():
        raise ValueError(f"{path}: is a folder; expected a place for a file")
    inside = path.absolute() if folder else path.absolute().parent
    there = next(place for place in (inside, *inside.parents) if place.exists())
    if not there.is_dir():
        raise ValueError(f"{path}: {there} is a file; expected a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ValueError(f"{path}: {there} cannot be written to: no permission, or a read-only file system")


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
