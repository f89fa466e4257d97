"""Output folders and what is printed: hostile ids, two processes, kills, signals, paths that are not there."""

import csv
import json
import os
import re
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.io import read as ase_read

import crysjax
from crysjax.cli.app import app, explain
from crysjax.cli.signals import terminable
from crysjax.data import datasets, files, names
from crysjax.data.readers import io
from crysjax.models import registry
from crysjax.terminal import Stopped

IDS = ["../../x", "/etc/x", "x" * 250, "a/b", "a_b", "a", "A", "CON", "..", "\x1b[31mred", 'q"uo,te', "two\nlines", "é"]


@pytest.fixture(scope="module")
def hostile(world, tmp_path_factory) -> Path:
    """Crystals whose ids are no file names, deep enough that `../../x` would show."""
    given = datasets.take(datasets.load(world.data), np.arange(len(IDS)))
    return datasets.save(replace(given, ids=np.array(IDS)), tmp_path_factory.mktemp("a") / "b" / "c" / "d.npz")


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_trajectories_of_hostile_ids_stay_in_their_folder(crysjax, world, hostile, tmp_path):
    out, steps = tmp_path / "in" / "r.npz", tmp_path / "in" / "deep" / "steps"
    asked = ("relax", hostile, "--potential", world.potential, "--out", out, "--trajectory", steps, "--steps", 2)
    answer = crysjax(*asked)
    assert answer.code == 0, answer.err
    assert datasets.load(out).ids.tolist() == IDS
    assert everything(tmp_path) == {out} | {steps / f"{names.of(i)}.extxyz" for i in IDS}
    assert len(everything(steps)) == len(IDS) and not Path("/etc/x.extxyz").exists()
    assert all(len(ase_read(path, ":")) >= 1 for path in everything(steps))


def test_what_was_asked_for_is_written_before_the_extras(crysjax, world, tmp_path, monkeypatch):
    write = io.write_crystals

    def failing(materials, path):
        if "steps" in str(path):
            raise OSError(28, "No space left on device", str(path))
        return write(materials, path)

    monkeypatch.setattr(io, "write_crystals", failing)
    asked = ("relax", f"{world.data}:val", "--potential", world.potential, "--steps", 1)
    answer = crysjax(*asked, "--out", tmp_path / "r.npz", "--trajectory", tmp_path / "steps")
    assert answer.code == 1 and "No space left" in answer.err and len(datasets.load(tmp_path / "r.npz")) == 10


def test_tables_quote_ids_and_the_terminal_gets_no_escapes(crysjax, world, hostile, tmp_path):
    for command in ("predict", "diffraction"):
        out, options = tmp_path / f"{command}.csv", ("--model", world.heads) if command == "predict" else ()
        assert crysjax(command, hostile, "--out", out, *options).code == 0
        with out.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(dict.fromkeys(row["id"] for row in rows)) == IDS
    answer = crysjax("predict", hostile, "--model", world.heads)
    assert answer.code == 0 and "\x1b" not in answer.out and r"\x1b[31mred" in answer.out


def test_errors_show_escapes_of_names_and_do_not_send_them(crysjax, one_line, tmp_path):
    odd = tmp_path / "\x1b]0;title\x07\u202e.yaml"
    answer = crysjax("train", odd, "--out", tmp_path / "out")
    one_line(answer, r"\\x1b\]0;title\\x07\\u202e\.yaml")
    assert answer.err.replace("\n", "").isprintable()


def test_the_judge_keeps_a_file_for_each_id_and_goes_on_after_a_cut_line(crysjax, tmp_path):
    copper = datasets.Entry("", np.array([29]), np.zeros((1, 3)), 1.8 * (1 - np.eye(3)), {})
    given = tmp_path / "given.npz"
    datasets.save(datasets.from_entries([copper._replace(id=i) for i in ("a/b", "a_b", "A", "a", "c,d")]), given)
    asked = ("judge", given, "--by", "emt", "--out", tmp_path / "said", "--no-relax")
    assert crysjax(*asked).code == 0
    table = tmp_path / "said" / "answers.csv"
    found = {path.stem for path in (tmp_path / "said" / "crystals").iterdir()}
    assert found == {names.of(i) for i in ("a/b", "a_b", "A", "a", "c,d")} and len(found) == 5
    whole = table.read_text()
    table.write_text(whole[: whole.rindex(",") - 3])  # as a kill leaves the last row
    assert crysjax(*asked).code == 0
    with table.open(newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == ["a/b", "a_b", "A", "a", "c,d"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "x.yaml", "--out", ""), "--out: empty; expected a path"),
        (("train", "x.yaml", "--out="), "--out: empty; expected a path"),
        (("design", "", "--out", "x"), "an argument is empty; expected a path or a name"),
        (("relax", "x.npz", "--out", "r.npz", "--trajectory", ""), "--trajectory: empty"),
        (("data", "prepare", "", "--out", "x.npz"), "an argument is empty"),
        (("data", "prepare", "--skip-bad", "", "--out", "x.npz"), "an argument is empty"),
        (("data", "audit", "x.npz", "--json", ""), "--json: empty"),
        (("evaluate", "x.npz", "--known", "", "--train", ""), "''|x.npz"),
    ],
)
def test_an_empty_path_is_not_the_current_folder(crysjax, one_line, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    one_line(crysjax(*arguments), message)
    assert everything(tmp_path) == set()


def test_text_that_is_no_path_may_be_empty(crysjax, world, tmp_path):
    asked = ("data", "prepare", world.data, "--out", tmp_path / "d.npz", "--note", "", "--skip-bad")
    assert crysjax(*asked).code == 0


def test_without_a_home_shipped_models_are_found(crysjax, one_line, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("CRYSJAX_MODELS", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert registry.model_path("student").exists() and "student" in registry.installed()
    with pytest.raises(ValueError, match="not here yet"):
        registry.model_path("nequix-mp-1")
    assert crysjax("models", "list").code == 0
    one_line(crysjax("models", "pull", "nequix-mp-1"), "no home directory to keep models in; set CRYSJAX_MODELS")


@pytest.mark.parametrize("name", ["ceiling.npz", "Relaxed.npz", "REFERENCE.extxyz"])
def test_sets_with_names_that_mean_something_else_are_refused(crysjax, one_line, world, tmp_path, name):
    io.write_crystals(datasets.load(world.data), tmp_path / name) if name.endswith("xyz") else shutil.copy(
        world.data, tmp_path / name
    )
    one_line(crysjax("evaluate", tmp_path / name, "--out", tmp_path / "out"), "a set cannot be named")
    assert not (tmp_path / "out").exists()


def test_every_output_folder_is_locked_and_everything_printed_is_printable():
    """Of every command whose `--out` is or may be a folder; and nothing prints past `show.say`."""
    for command in app.registered_commands:
        helps = {p: getattr(d, "help", "") or "" for p, d in zip(*_defaults(command.callback))}
        if "folder" in helps.get("out", "").lower():
            assert hasattr(command.callback, "__wrapped__"), command.name
    for path in Path(crysjax.__file__).parent.rglob("*.py"):
        if path.name not in ("terminal.py", "app.py", "calculators.py"):
            assert not re.search(r"typer\.echo|\bprint\(", path.read_text()), path.name


def _defaults(function) -> tuple[list, list]:
    import inspect

    parameters = inspect.signature(function).parameters
    return list(parameters), [p.default for p in parameters.values()]


def test_a_second_process_is_refused_and_sigterm_says_what_is_kept(designed, start, crysjax, one_line, plan, tmp_path):
    out = tmp_path / "out"
    process = start("design", plan, "--out", out)
    for line in process.stdout:
        if line.startswith("round 2/3 sample"):
            break
    before = (out / "ledger.jsonl").read_bytes()
    one_line(crysjax("design", plan, "--out", out), rf"{out}: another process is writing there; wait for it or name an")
    assert (out / "ledger.jsonl").read_bytes().startswith(before)
    process.send_signal(signal.SIGTERM)
    said, err = process.communicate(timeout=600)
    assert process.returncode == 143, (said, err)
    assert re.fullmatch(rf"crysjax: stopped by SIGTERM; [12] of 3 rounds in {out} are kept; the same .*\n", err), err
    assert crysjax("design", plan, "--out", out).code == 0
    for name in ("ledger.jsonl", "candidates.extxyz"):
        assert (out / name).read_bytes() == (designed[0] / name).read_bytes()
    assert not list(out.glob(".*"))


def test_sigterm_is_raised_as_ctrl_c_is_and_a_second_one_is_not_caught():
    with terminable() as received, pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert received == ["SIGTERM"] and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert explain(Stopped("kept"), *received) == ("stopped by SIGTERM; kept", 143)
    assert explain(Stopped("kept")) == ("stopped by Ctrl-C; kept", 130)


@pytest.fixture
def kills(monkeypatch, tmp_path):
    """`kills(folder, run)`: copies of the folder as a kill before, within and after each write would leave it."""

    def made(folder, run):
        place, found = files._take_place, []

        def copied():
            found.append(tmp_path / f"kill-{len(found)}" / folder.name)
            shutil.copytree(folder, found[-1])

        def taking(new, old):
            if new.is_dir():  # one file of it less, as a kill while it is filled
                least = sorted(new.iterdir())[-1:]
                kept = [(p, p.read_bytes()) for p in least if p.is_file()]
                [p.unlink() for p, _ in kept]
                copied()
                [p.write_bytes(content) for p, content in kept]
            copied()
            place(new, old)
            copied()

        with monkeypatch.context() as patched:
            patched.setattr(files, "_take_place", taking)
            run()
        return found

    return made


def contents(folder: Path) -> dict[str, bytes]:
    timed = ("summary.json", "report.html", "interrupted.json", "metrics.json", ".npz", "table.tex")
    return {str(p.relative_to(folder)): p.read_bytes() for p in everything(folder) if not p.name.endswith(timed)}


def test_killed_while_candidates_are_written_it_goes_on(designed, crysjax, plan, kills, tmp_path):
    out = tmp_path / "whole" / "out"
    shutil.copytree(designed[0], out)
    asked = lambda place: crysjax("design", plan, "--out", place)  # noqa: E731
    places = kills(out, lambda: asked(out))
    expected = contents(designed[0])
    assert len(places) >= 9 and "candidates.extxyz" in expected
    for place in places:
        there = {k: v for k, v in contents(place).items() if k.startswith("candidates/")}
        assert there == {k: v for k, v in expected.items() if k.startswith("candidates/")}  # old or new, all of them
        answer = asked(place)
        assert answer.code == 0, (place, answer.err)
        assert contents(place) == expected and not list(place.glob(".*")), place


def test_killed_at_any_write_an_evaluation_goes_on(crysjax, world, kills, tmp_path):
    out = tmp_path / "whole" / "out"
    asked = lambda place: crysjax(  # noqa: E731
        "evaluate", f"{world.data}:test", "--train", f"{world.data}:train", "--no-ceiling", "--out", place
    )
    places = kills(out, lambda: asked(out))
    expected = contents(out)
    assert len(places) > 12 and [name for name in expected if name.endswith("structures.csv")]
    for place in places[:: max(1, len(places) // 5)]:
        answer = asked(place)
        assert answer.code == 0, (place, answer.err)
        assert contents(place) == expected, place
        assert not [p for p in place.rglob(".*")]
    first, last = (json.loads((p / "metrics.json").read_text())["data"]["metrics"] for p in (out, place))
    assert first == last


KILLED = """
import os, sys
from crysjax.cli import main
from crysjax.data import files
place = files._take_place
def dying(new, old):
    if new.is_dir():
        os.kill(os.getpid(), 9)
    place(new, old)
files._take_place = dying
main(sys.argv[1:])
"""


def test_really_killed_there_the_folder_is_free_again(designed, start, crysjax, plan, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(designed[0], out)
    process = start("design", plan, "--out", out, code=KILLED)
    process.communicate(timeout=600)
    assert process.returncode == -9 and list(out.glob(".*.partial")) and (out / ".lock").exists()
    assert crysjax("design", plan, "--out", out).code == 0
    assert contents(out) == contents(designed[0]) and not list(out.glob(".*"))
