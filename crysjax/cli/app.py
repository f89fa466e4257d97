"""`crysjax`: its commands, and how it fails: one line, exit code 2 for bad input, 1 for the rest, 130 for Ctrl-C,
143 for SIGTERM.
"""

from __future__ import annotations

import errno
import inspect
import math
import sys
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from crysjax import __version__
from crysjax.cli import (
    compare,
    data,
    design,
    diffraction,
    elasticity,
    evaluate,
    inputs,
    judge,
    models,
    phonons,
    polymorphs,
    predict,
    train,
)
from crysjax.cli.arguments import alone, no_empty_paths, refuse_places
from crysjax.cli.signals import EXIT_CODES, terminable
from crysjax.terminal import Stopped, printable, say

app = typer.Typer(
    help="Inverse design of inorganic crystals. `crysjax COMMAND --help` tells more; --debug shows tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.command("train")(alone(train.train))
app.command("sample")(alone(models.sample, crystals=True))
app.command("predict")(predict.predict)
app.command("relax")(alone(models.relax, crystals=True))
app.command("elasticity")(elasticity.elasticity)
app.command("diffraction")(diffraction.diffraction)
app.command("solve")(alone(diffraction.solve, crystals=True))
app.command("judge")(alone(judge.judge))
app.command("polymorphs")(alone(polymorphs.polymorphs))
app.command("inputs")(alone(inputs.inputs))
app.command("phonons")(alone(phonons.phonons))
app.command("design")(alone(design.design))
app.command("evaluate")(alone(evaluate.evaluate))
app.command("compare")(alone(compare.compare))
app.add_typer(models.app, name="models")


def _version(asked: bool) -> None:
    if asked:
        say(__version__)
        raise typer.Exit


@app.callback()
def _options(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True)) -> None:
    """Options before the command."""


LONGEST_LINE = 2000  # characters of an error
WRONG_PATH = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
WRONG_PATH_NUMBERS = (errno.ENAMETOOLONG, errno.EROFS, errno.ELOOP)


def checked(command: Callable) -> Callable:
    """The command, refusing places it cannot write to, and numbers that are not finite.

    `min=0` lets NaN pass, and nothing that computes wants it.
    """
    defaults = {name: getattr(p.default, "default", None) for name, p in inspect.signature(command).parameters.items()}

    @wraps(command)
    def run(**given: Any) -> Any:
        for name, value in given.items():
            if isinstance(value, float) and not math.isfinite(value) and value != defaults[name]:
                raise ValueError(f"--{name.replace('_', '-')} {value}: expected a finite number")
        refuse_places(command, given)
        return command(**given)

    return run


def _check_numbers(commands: typer.Typer) -> None:
    for known in commands.registered_commands:
        known.callback = checked(known.callback)
    for group in commands.registered_groups:
        _check_numbers(group.typer_instance)


_check_numbers(app)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    with terminable() as received, warnings.catch_warnings():
        _warn_in_lines()
        try:
            arguments = [a for a in arguments if a != "--debug"]
            no_empty_paths(app, arguments)
            code = app(args=arguments, standalone_mode=False)
            if code == 130:  # what typer makes of a KeyboardInterrupt
                raise Stopped
        except BaseException as error:
            if debug and not isinstance(error, SystemExit):
                raise
            message, code = explain(error, *received)
            if message:
                print(f"crysjax: {printable(message)}", file=sys.stderr)
    sys.exit(code or 0)


def _warn_in_lines() -> None:
    """What readers tell of files is one line each; other warnings are shown as ever.

    What crystals do not keep is told every time, the rest once for a file.
    """
    from crysjax.data.lost import Notice, NotKept

    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, Notice):
            say(f"crysjax: warning: {message}", err=True)
        else:
            usual(message, category, *where, **more)

    warnings.simplefilter("default", Notice)
    warnings.simplefilter("always", NotKept)
    warnings.showwarning = show


def _line(error: BaseException) -> str:
    """What an error says, on one line of bounded length: it may quote what came from a file."""
    line = " ".join(str(error).split())
    return line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."


def explain(error: BaseException, by: str = "Ctrl-C") -> tuple[str, int]:
    """One line and the exit code of an error; `by` is what stopped a command that was stopped."""
    if isinstance(error, typer.Abort) and error.__cause__ is not None:
        error = error.__cause__  # what typer takes for Ctrl-C or the end of a dialogue
    if isinstance(error, SystemExit):
        return "", error.code
    if isinstance(error, Stopped | KeyboardInterrupt | typer.Abort):
        kept = " ".join(str(a) for a in error.args)
        return f"stopped by {by}{'; ' + kept if kept else ''}", EXIT_CODES[by]
    if hasattr(error, "format_message"):  # click's own errors: unknown option, missing argument
        return error.format_message(), getattr(error, "exit_code", 2)
    line = _line(error)
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else line
        return what, 2 if isinstance(error, WRONG_PATH) or error.errno in WRONG_PATH_NUMBERS else 1
    if isinstance(error, ValueError):
        return line, 2
    if type(error).__name__ == "NonFiniteLoss":
        return line, 1
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in line:
        return f"not enough memory: {line[:300]}", 1
    return f"internal error, {type(error).__name__}: {line[:300]}; --debug shows where", 1
