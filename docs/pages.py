"""The pages of the site that have their one copy elsewhere: in the README, in experiments, in the code.

`write` puts them into a folder before Sphinx reads it: commands from the command line itself, configuration keys from
the signatures that check them, files of the repository under `repo/` in their own layout, so that links between them
hold, and parts of README and ARCHITECTURE under `parts/`, to be included. Nothing here needs Sphinx.
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MIRRORED = (
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "benchmarks/README.md",
    "experiments/*/README.md",
    "crysjax/models/shipped/*/README.md",
)
"""Texts of the repository that are pages of the site as they are."""

PARTS = {
    "python": ("README.md", "In Python"),
    "five_steps": ("README.md", "Your own property in five steps"),
    "measured": ("README.md", "What was measured"),
    "works": ("README.md", "What works, and what does not yet"),
    "where": ("ARCHITECTURE.md", "Where to put a new ..."),
    "rules": ("ARCHITECTURE.md", "Rules"),
    "rooms": ("ARCHITECTURE.md", "The rooms"),
    "families": ("ARCHITECTURE.md", "Generator families"),
    "round": ("ARCHITECTURE.md", "A design round"),
}
"""Sections that pages include: name -> file and heading."""

LINK = re.compile(r"(?<=\]\()(?!https?:|#|/)([^)\s]+)(?=\))")


def write(out: Path) -> None:
    """All pages, into an empty folder."""
    shutil.rmtree(out, ignore_errors=True)
    for source in mirrored():
        _mirror(source, out)
    for name, (source, heading) in PARTS.items():
        _copy_linked(ROOT / source, out)
        text = LINK.sub(lambda found: f"/generated/repo/{found[0]}", section(ROOT / source, heading))
        _put(out / "parts" / f"{name}.md", text)
    _put(out / "commands.md", "".join(commands()))
    _put(out / "config.md", "".join(config_keys()))
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        _put(out / "notebooks" / path.name, path.read_text())


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def mirrored() -> list[Path]:
    """The files of `MIRRORED`, and texts that they link to."""
    found = [path for pattern in MIRRORED for path in sorted(ROOT.glob(pattern))]
    linked = [target for path in found for target in targets(path) if target.suffix == ".md" and target not in found]
    return found + sorted(set(linked))


def targets(path: Path) -> list[Path]:
    """The files that a text links to by relative paths."""
    return [(path.parent / link.partition("#")[0]).resolve() for link in LINK.findall(path.read_text())]


def _mirror(source: Path, out: Path) -> None:
    """A text in its own place, with the files that it links to; a text without a heading gets one."""
    text = source.read_text()
    if not text.startswith("# "):
        text = f"# {source.parent.name}: {source.stem}\n\n{text}"
    _put(out / "repo" / source.relative_to(ROOT), text)
    _copy_linked(source, out)


def _copy_linked(source: Path, out: Path) -> None:
    for target in targets(source):
        copy = out / "repo" / target.relative_to(ROOT)
        if target.suffix != ".md" and target.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(target, copy)


def section(path: Path, heading: str) -> str:
    """What stands under a heading of the second level."""
    text = path.read_text()
    start = text.index(f"\n## {heading}\n") + len(f"\n## {heading}\n")
    end = text.find("\n## ", start)
    return text[start : end if end > 0 else None].strip() + "\n"


def commands() -> Iterator[str]:
    """Every command with its arguments and options, as the command line itself knows them."""
    import typer

    from crysjax.cli.app import app

    yield "# Commands\n\nMade from the command line when this site was built; `crysjax COMMAND --help` says the same.\n"
    yield "Exit codes: 0 done, 1 failed, 2 wrong input, 3 no candidate explains the pattern (`solve`), 130 Ctrl-C,\n"
    yield "143 SIGTERM. `--debug` shows a traceback.\n\n"
    for path, command in leaves(typer.main.get_command(app)):
        name = " ".join(path)
        yield f"## {name}\n\n{command.help}\n\n```text\ncrysjax {name}{_arguments(command)} [OPTIONS]\n```\n\n"
        yield _table(("", "type", "default", "meaning"), [row(one) for one in command.params])


def leaves(group: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The commands below a group, with the words that call them."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from leaves(command, (*above, name))
        else:
            yield (*above, name), command


def _arguments(command: Any) -> str:
    return "".join(
        f" {one.name.upper()}{'...' if one.multiple or one.nargs != 1 else ''}"
        for one in command.params
        if one.param_type_name == "argument"
    )


def row(parameter: Any) -> tuple[str, str, str, str]:
    """Names, type, default and meaning of a parameter."""
    argument = parameter.param_type_name == "argument"
    names = [parameter.name.upper()] if argument else [*parameter.opts, *parameter.secondary_opts]
    hint = parameter.type_descriptor.annotation
    kind = "flag" if hint is bool else _type(hint)
    limits = [f"from {parameter.min:g}" if parameter.min is not None else ""]
    limits += [f"to {parameter.max:g}" if parameter.max is not None else ""]
    default = "required" if parameter.required else _default(parameter.default)
    return ", ".join(f"`{name}`" for name in names), " ".join([kind, *filter(None, limits)]), default, parameter.help


def _type(hint: Any) -> str:
    words = {int: "whole number", float: "number", str: "text", bool: "true or false", Path: "path", dict: "mapping"}
    text = (
        str(getattr(hint, "__name__", hint)) if isinstance(hint, type) and not hasattr(hint, "__args__") else str(hint)
    )
    text = re.sub(r"\b(?:\w+\.)+(\w+)", r"\1", text)
    text = text.replace("Numbers", "tuple[float, ...]").replace("Weights", "float | tuple[float, ...]")
    text = re.sub(r"tuple\[(\w+), (\w+)\]", r"[\1, \2]", text).replace(", ...]", "").replace("tuple[", "list of ")
    for kind, word in words.items():
        text = re.sub(rf"\b{kind.__name__}\b", word, text)
    text = text.replace("None", "null").replace(" | ", " or ")
    return re.sub(r"(list of [\w ]*number)", r"\1s", re.sub(r"list\[(.+)\]", r"list of \1", text))


def _default(value: Any) -> str:
    if value is None or value == "" or value is False or callable(value):
        return ""
    if value is True:
        return "on"
    if isinstance(value, tuple | list):
        return f"`{list(value)}`" if len(value) < 4 else "see the signature"
    return f"`{value}`"


def config_keys() -> Iterator[str]:
    """Every key of plans, trainings and comparisons, from the signatures that check them."""
    yield "# Configuration keys\n\nMade from the signatures that check a config when this site was built. A config is\n"
    yield "flat YAML: `network: dense` names a factory, `network.width: 256` is a setting of it. An unknown key, a\n"
    yield "wrong type or an impossible value is one line that names the key, the value and what was expected.\n\n"
    yield "## A design plan\n\n`crysjax design PLAN.yaml`, `cx.design(plan)`."
    yield " `crysjax design --keys` prints the same.\n\n"
    yield _table(("key", "type", "default", "meaning"), plan_keys())
    for title, said, factories in schemas():
        yield f"## {title}\n\n{said}\n\n"
        for heading, factory in factories:
            if heading:
                yield f"### {heading}\n\n{_first(factory)}\n\n"
            yield _table(("key", "type", "default", "meaning"), keys(factory))


def plan_keys() -> list[tuple[str, str, str, str]]:
    """Key, type, default and meaning of each key of a plan, as `crysjax design --keys` has them."""
    from crysjax.campaign.keys import keys

    return [(f"`{key.name}`", key.type, f"`{key.default}`", key.meaning) for key in keys()]


def schemas() -> Iterator[tuple[str, str, list[tuple[str, Callable]]]]:
    """Title, introduction, and the factories of each kind of config."""
    from crysjax.cli.compare import plan_settings
    from crysjax.generators import processes
    from crysjax.models import families, registry
    from crysjax.potentials import learn, mlip
    from crysjax.predictors import ensembles, heads, synthesizability
    from crysjax.training import adapters, loop
    from crysjax.training.train import run_settings

    def named(section: str, table: dict) -> list:
        return [(f"{section}: {name}", factory) for name, factory in table.items()]

    made = {name: families.factory(family) for name, family in families.FAMILIES.items()}
    fields = {"frac": processes.POSITIONS, "lattice": processes.LATTICE, "species": processes.SPECIES}
    yield "A training run", "`crysjax train CONFIG.yaml`, `cx.train(config)`.", [("", run_settings)]
    yield "A comparison", "`crysjax compare CONFIG.yaml`.", [("", plan_settings)]
    yield "Generator families", "`family: NAME`, and `generator.KEY` for what follows.", named("family", made)
    yield (
        "Networks",
        "`network: NAME` and `network.KEY`, of generators and heads.",
        named("network", registry.networks()),
    )
    yield "Potentials", "`network: NAME` and `network.KEY` where `kind: potential`.", named("network", mlip.NETWORKS)
    for field, table in fields.items():
        yield f"Process of {field}", f"`{field}: NAME` and `{field}.KEY`.", named(field, table)
    single = {"heads": heads.heads, "novelty": heads.aware, "ensemble": ensembles.ensemble}
    single |= {"pu": synthesizability.classifier, "ensemble, of `pu`": synthesizability.bagged}
    single |= {"loss, of a potential": learn.force_loss, "optimizer": loop.adamw}
    yield (
        "Heads, losses and the optimizer",
        "`SECTION.KEY`; there is one factory for each section.",
        list(single.items()),
    )
    yield "Adapters", "`adapter: NAME` and `adapter.KEY`, with `start`.", named("adapter", adapters.ADAPTERS)


def _first(factory: Callable) -> str:
    """The first paragraph of a docstring."""
    return inspect.getdoc(factory).split("\n\n")[0]


def keys(factory: Callable) -> list[tuple[str, str, str, str]]:
    """Key, type, default and meaning of each keyword-only argument that plain text can give."""
    said, rows = meanings(factory), []
    for name, parameter in inspect.signature(factory).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY and not str(parameter.annotation).startswith(
            ("Process", "Constraint")
        ):
            default = "required" if parameter.default is parameter.empty else _written(parameter.default)
            rows.append((f"`{name}`", _type(parameter.annotation), default, _in_full(name, said.get(name, ""))))
    return rows


def _written(value: Any) -> str:
    """A default as YAML has it."""
    listed = [round(one, 4) if isinstance(one, float) else one for one in value] if isinstance(value, tuple) else value
    return f"`{json.dumps(listed)}`"


def _in_full(name: str, said: str) -> str:
    """A meaning; one that is "as in" another generator family is that family's, so that no reader has to look it up."""
    from crysjax.models import families

    like = re.fullmatch(r"as in `(\w+)`\.", said)
    return meanings(families.factory(families.FAMILIES[like[1]]))[name] if like else said


def meanings(factory: Callable) -> dict[str, str]:
    """What the `Args` of a docstring say of each name; names that share a line share the sentence."""
    _, _, after = (inspect.getdoc(factory) or "").partition("Args:\n")
    block = re.split(r"\n(?=\S)", after)[0]
    found = re.findall(r"^    ([\w, *]+): (.*(?:\n        .*)*)", block, re.MULTILINE)
    text = {name.strip(" *"): " ".join(said.split()) for names, said in found for name in names.split(",")}
    return {name: re.sub(r"`([A-Z_]+)`", lambda found: _values(factory, found), said) for name, said in text.items()}


def _values(factory: Callable, found: re.Match) -> str:
    """The values of a table of names that a docstring refers to."""
    value = factory.__globals__.get(found[1])
    return ", ".join(f"`{one}`" for one in value) if isinstance(value, tuple | list | dict) else found[0]


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; a bar inside a cell is written so that it does not end it."""
    if not rows:
        return "No settings.\n\n"
    lines = [head, ("---",) * len(head), *rows]
    return (
        "".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines) + "\n"
    )
