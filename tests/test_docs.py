"""The documentation, without building it: every page is reached, every link leads somewhere, every command exists."""

import importlib.util
import inspect
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path

import pytest
import typer

from crysjax.cli.app import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
WRITTEN = sorted(p for p in DOCS.rglob("*.md") if "generated" not in p.relative_to(DOCS).parts)
COMMANDS = typer.main.get_command(app)
FENCE = re.compile(r"^( *)(`{3,})(\{?[\w-]*\}?)[^\n]*\n(?:(.*?)\n)??\1\2 *$", re.M | re.S)


@pytest.fixture(scope="module")
def pages():
    """The module that makes the generated pages; it is no part of the package."""
    spec = importlib.util.spec_from_file_location("pages", DOCS / "pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generated(pages, tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs") / "generated"
    pages.write(folder)
    return folder


@pytest.fixture(scope="module")
def site(generated) -> dict[str, str]:
    """Every page by its name within the site, as Sphinx will see it."""
    found = {p.relative_to(DOCS).with_suffix("").as_posix(): p.read_text() for p in WRITTEN}
    for p in [*generated.rglob("*.md"), *generated.rglob("*.ipynb")]:
        if "parts" not in p.relative_to(generated).parts:
            found[f"generated/{p.relative_to(generated).with_suffix('').as_posix()}"] = p.read_text()
    return found


def blocks(text: str, *kinds: str) -> list[str]:
    """Fenced blocks of these languages or directives, those within other blocks included, without their indent."""
    found = []
    for indent, _, kind, body in FENCE.findall(text):
        lines = "\n".join(line.removeprefix(indent) for line in body.splitlines())
        found += [lines] if kind in kinds else blocks(lines, *kinds)
    return found


def plain(text: str) -> str:
    """A text without its code."""
    return re.sub(r"`[^`\n]+`", "", FENCE.sub("", text))


def test_every_page_is_in_one_toctree(site):
    listed = []
    for name, text in site.items():
        for block in blocks(text, "{toctree}"):
            entries = [line.strip() for line in block.splitlines() if line.strip() and not line.startswith(":")]
            for entry in entries:
                place = entry[1:] if entry.startswith("/") else (Path(name).parent / entry).as_posix()
                matches = [page for page in site if fnmatch(page, place)]
                assert matches, f"{name}: the toctree names {entry}, which is no page"
                listed += matches
    assert sorted(site.keys() - {"index"}) == sorted(listed)


def test_every_link_and_include_leads_to_a_file(site, generated):
    for name, text in site.items():
        if name.startswith("generated/notebooks"):
            continue
        includes = re.findall(r"^```\{(?:literal)?include\} (\S+)", text, re.M)
        for link in [*re.findall(r"\]\((?!https?:|#)([^)\s#]+)", plain(text)), *includes]:
            place = link[1:] if link.startswith("/") else (Path(name).parent / link).as_posix()
            parts = (DOCS / place).resolve().relative_to(ROOT).parts
            inside = generated.joinpath(*parts[2:]) if parts[:2] == ("docs", "generated") else ROOT.joinpath(*parts)
            assert inside.is_file(), f"{name}: {link}"


def test_python_compiles(site):
    count = 0
    for name in (name for name in site if not name.startswith("generated/")):
        for block in blocks(site[name], "python", "{code-cell}"):
            compile(block, f"{name}.md", "exec")
            count += 1
    assert count > 15


def commands(text: str) -> list[list[str]]:
    """The words of each line of a shell block that calls crysjax; a backslash continues a line."""
    lines = [line for block in blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`(crysjax [^`\n]+)`", FENCE.sub("", text))
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[line.index("crysjax") + 1 :] for line in words if "crysjax" in line and "=" not in line[0][:1]]


def fault(words: list[str]) -> str:
    """What is wrong with a command as documented; "" where it exists with all of its options."""
    command = COMMANDS
    while words and hasattr(command, "commands"):
        if words[0].startswith("-") or words[0] == "COMMAND":
            return "" if words[0] in ("--version", "--help", "COMMAND") else f"no option {words[0]}"
        if words[0] not in command.commands:
            return f"no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    known = {"--help"}.union(*([*one.opts, *one.secondary_opts] for one in getattr(command, "params", [])))
    used = {word.partition("=")[0] for word in words if re.match(r"-{1,2}[a-z]", word)}
    return ", ".join(sorted(used - known))


def test_documented_commands_exist_with_their_options(site):
    count = 0
    for name in (name for name in site if not name.startswith("generated/")):
        for words in commands(site[name]):
            assert not fault(words), f"{name}: crysjax {' '.join(words)}: {fault(words)}"
            count += 1
    assert count > 40


def test_a_wrong_command_or_option_is_noticed():
    assert fault(["sampel", "mp_20_wyckoff"]) == "no command sampel"
    assert fault(["sample", "mp_20_wyckoff", "--fromula", "SrTiO3"]) == "--fromula"
    assert fault(["data", "split", "all.npz", "--by", "time", "--out", "x.npz"]) == ""
    assert commands("```sh\nA=1 crysjax data \\\n  info x --y # z\n```") == [["data", "info", "x", "--y"]]


def test_settings_of_documented_plans_are_accepted(site):
    from crysjax.campaign.plan import plan_of
    from crysjax.config import parse_yaml

    found = [parse_yaml(block) for name in site if name.startswith("howto/") for block in blocks(site[name], "yaml")]
    assert found
    for settings in found:
        plan_of({"elements": ["O"]} | settings)


def test_generated_reference_is_complete(pages, generated):
    said = (generated / "commands.md").read_text()
    for words, command in pages.leaves(COMMANDS):
        part = said.split(f"## {' '.join(words)}\n")[1].split("\n## ")[0]
        assert all(f"| {pages.row(one)[0]} |" in part for one in command.params)
        assert all(f"`{name}`" in part for one in command.params for name in one.opts if name.startswith("-"))
    keys = (generated / "config.md").read_text()
    for _, _, factories in pages.schemas():
        assert all(row[0] in keys for _, factory in factories for row in pages.keys(factory))
    row = "| `ema_decay` | number | `0.999` | decay per step of the moving average of the weights, which"
    assert row in keys and "| `lattice_center` | list of numbers | `[0.0, 0.0, 0.0, 0.0, 0.0, 1.6]` | mean of" in keys


def test_every_key_of_a_config_has_a_meaning(pages):
    """Each setting of each factory is explained in its docstring, and each docstring explains settings that exist."""
    assert [row[0] for row in pages.plan_keys() if len(row[3].split()) < 3] == []
    for title, _, factories in pages.schemas():
        for name, factory in factories:
            where = f"{title}, {name or factory.__name__}"
            for key, _, _, meaning in pages.keys(factory):
                assert len(meaning.split()) > 1 and meaning.endswith("."), f"{where}: {key} has no meaning: {meaning!r}"
                assert not meaning.startswith("as in"), f"{where}: {key} points to another factory: {meaning!r}"
            unknown = pages.meanings(factory).keys() - inspect.signature(factory).parameters
            assert not unknown, f"{where}: the docstring explains {sorted(unknown)}, which the signature does not have"


def test_every_name_of_the_front_door_is_in_the_reference():
    import crysjax

    text = (DOCS / "reference" / "api.md").read_text()
    assert [name for name in crysjax.__all__ if not re.search(rf"^   {name}$", text, re.M)] == []


def test_nothing_is_loaded_from_other_servers():
    """The site works offline: no script, style or image has an address."""
    for path in [*DOCS.glob("*.py"), *(DOCS / "_static").glob("*")]:
        assert not re.search(r"https?://", path.read_text()), path
    assert "nb_ipywidgets_js: dict[str, dict] = {}" in (DOCS / "conf.py").read_text()
