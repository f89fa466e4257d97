"""`crysjax`: its commands, and how it fails: one line, exit code 2 for bad input, 1 for the rest, 130 for Ctrl-C."""

from __future__ import annotations

import copy
import errno
import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import typer

from crysjax import __version__
from crysjax.cli import compare, data, design, diffraction, elasticity, evaluate, judge, models, phonons, train
from crysjax.cli.show import Stopped

app = typer.Typer(
    help="Inverse design of inorganic crystals. `crysjax COMMAND --help` tells more; --debug shows tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.command("train")(train.train)
app.command("sample")(models.sample)
app.command("predict")(models.predict)
app.command("relax")(models.relax)
app.command("elasticity")(elasticity.elasticity)
app.command("diffraction")(diffraction.diffraction)
app.command("solve")(diffraction.solve)
app.command("judge")(judge.judge)
app.command("phonons")(phonons.phonons)
app.command("design")(design.design)
app.command("evaluate")(evaluate.evaluate)
app.command("compare")(compare.compare)
app.add_typer(models.app, name="models")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True)) -> None:
    """Options before the command."""


LONGEST_LINE = 2000  # characters of an error
WRONG_PATH = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError, PermissionError)
WRONG_PATH_NUMBERS = (errno.ENAMETOOLONG, errno.EROFS, errno.ELOOP)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    try:
        command = finite(typer.main.get_command(app))
        code = command(args=[a for a in arguments if a != "--debug"], standalone_mode=False)
        if code == 130:  # what typer makes of a KeyboardInterrupt
            raise Stopped
    except BaseException as error:
        if debug and not isinstance(error, SystemExit):
            raise
        message, code = explain(error)
        if message:
            print(f"crysjax: {message}", file=sys.stderr)
    sys.exit(code or 0)


def finite(command: Any) -> Any:
    """The command with numbers that have to be finite: `min=0` lets NaN pass, and nothing that computes wants it."""
    for inner in getattr(command, "commands", {}).values():
        finite(inner)
    for parameter in command.params:
        if parameter.type.name in ("float", "float range"):
            parameter.type = copy.copy(parameter.type)  # types are shared between options
            parameter.type.convert = partial(_finite, parameter.type.convert)
    return command


def _line(error: BaseException) -> str:
    """What an error says, on one printable line of bounded length: it may quote what came from a file."""
    line = " ".join(str(error).split())
    line = line if len(line) <= LONGEST_LINE else f"{line[:LONGEST_LINE]}..."
    return "".join(c if c.isprintable() else "?" for c in line)


def _finite(convert: Callable, text: Any, parameter: Any, context: Any) -> Any:
    value = convert(text, parameter, context)
    if isinstance(text, str) and value is not None and not math.isfinite(value):  # a default of ours may be infinite
        raise ValueError(f"{parameter.opts[0]} {text}: expected a finite number")
    return value


def explain(error: BaseException) -> tuple[str, int]:
    """One line and the exit code of an error."""
    if isinstance(error, typer.Abort) and error.__cause__ is not None:
        error = error.__cause__  # what typer takes for Ctrl-C or the end of a dialogue
    if isinstance(error, SystemExit):
        return "", error.code
    if isinstance(error, Stopped | KeyboardInterrupt | typer.Abort):
        kept = " ".join(str(a) for a in error.args)
        return f"stopped by Ctrl-C{'; ' + kept if kept else ''}", 130
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
