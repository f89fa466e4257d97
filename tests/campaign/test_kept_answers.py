"""A campaign that is killed while a calculator judges goes on with the answers that had come, to the same result."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from crysjax.campaign import assemble, interrupted, judges, kept_answers
from crysjax.campaign.plan import Plan
from crysjax.data import datasets
from crysjax.oracles import calculators
from crysjax.oracles.hosted import Answer, Single
from tests.support import beside

campaigns = beside(__file__, "test_round")
PLAN, World, everything, several_packs = (
    getattr(campaigns, name) for name in ("PLAN", "World", "everything", "several_packs")
)
CALCULATOR = """
import os, signal
from pathlib import Path
from ase.calculators.lj import LennardJones

HERE = Path(__file__).parent

class Counted(LennardJones):
    def calculate(self, atoms=None, *given):
        with (HERE / "asked").open("a") as file:
            file.write(str(atoms.symbols) + "\\n")
        if (HERE / "victim").exists() and len((HERE / "asked").read_text().split()) == 2:
            os.kill(int((HERE / "victim").read_text()), signal.SIGKILL)
            signal.pause()
        super().calculate(atoms, *given)
"""


def campaign(folder: Path, calculator: Path) -> list[int]:
    """Run it; how many crystals the potential was asked to relax each time."""
    world = World()
    judge = judges.made(judges.judging(f"{calculator}:Counted", relax=False), 3)
    world.tools = world.tools._replace(last=judge, oracles={"judge": judge.oracle})
    world.run(folder, replace(PLAN, rounds=2, validations=5))
    return world.asked_to_relax


def test_a_kill_while_it_judges_loses_the_one_that_was_under_way(tmp_path):
    """The potential leaves three and two crystals whole; a kill -9 comes while the second one is asked about."""
    calculator, asked = tmp_path / "counted.py", tmp_path / "asked"
    calculator.write_text(CALCULATOR)
    campaign(tmp_path / "whole", calculator)
    expected = asked.read_text().split()
    asked.unlink()
    code = (
        f"import os; from pathlib import Path; Path({str(tmp_path / 'victim')!r}).write_text(str(os.getpid())); "
        "from tests.campaign import test_kept_answers as t; t.campaigns.rounds.PAIRS = 8; "
        f"t.campaign(Path({str(tmp_path / 'cut')!r}), Path({str(calculator)!r}))"
    )
    child = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert child.returncode == -signal.SIGKILL
    (tmp_path / "victim").unlink()
    assert asked.read_text().split() == expected[:2]
    assert interrupted.counted(tmp_path / "cut")["relaxing"] == 1
    assert campaign(tmp_path / "cut", calculator) == [2]  # the first round's relaxations by the potential are kept
    assert asked.read_text().split() == [*expected[:2], *expected[1:]]
    assert everything(tmp_path / "cut") == everything(tmp_path / "whole")
    assert not any((tmp_path / "cut" / name).exists() for name in (kept_answers.ANSWERS, interrupted.BEGUN))


def rows(count: int) -> list[datasets.Entry]:
    return [datasets.Entry(f"c{k}", np.array([3, 8]), np.zeros((2, 3)), (3 + k) * np.eye(3), {}) for k in range(count)]


def test_answers_come_back_as_they_were_and_a_death_is_no_answer(tmp_path):
    given = [
        Answer(Single(-1.5, np.full((2, 3), 0.1), np.eye(3)), rows(4)[0], "", 3, 1, 2.5),
        Answer(Single(-1.0, None, None), rows(4)[1], "not converged", 9, 1, 2.5),
        Answer(None, None, "no answer within 1 s", 0, 1, 1.0),
        Answer(None, None, "killed by signal 9", 0, 1, 1.0, died=True),
    ]
    asked = []

    def ask(some, done):
        for index, row in enumerate(some):
            asked.append(row.id)
            done(index, given[int(row.id[1:])])
        return [given[int(row.id[1:])] for row in some]

    nothing = lambda index, answer: None  # noqa: E731
    first = kept_answers.keeping(ask, tmp_path, "q")(rows(4), nothing)
    again = kept_answers.keeping(ask, tmp_path, "q")(rows(4), nothing)
    assert asked == ["c0", "c1", "c2", "c3", "c3"]
    for a, b in zip(first, again):
        assert (a.reason, a.steps, a.tries, a.seconds) == (b.reason, b.steps, b.tries, b.seconds)
        assert (a.single is None) == (b.single is None) and (a.crystal is None) == (b.crystal is None)
    assert again[0].single.energy == -1.5 and again[0].single.forces.tobytes() == given[0].single.forces.tobytes()
    assert again[1].single.forces is None and again[1].crystal.lattice.tobytes() == given[1].crystal.lattice.tobytes()
    kept_answers.keeping(ask, tmp_path, "another question")(rows(1), nothing)
    (damaged,) = [p for p in (tmp_path / kept_answers.ANSWERS).iterdir() if p.stat().st_size][:1]
    damaged.write_bytes(damaged.read_bytes()[:-9])
    assert asked[5:] == ["c0"]


def test_what_is_no_answer_is_asked_again(tmp_path):
    answer, asked = Answer(Single(-1.0, None, None), rows(1)[0], "", 1, 1, 0.1), []

    def ask(some, done):
        asked.extend(row.id for row in some)
        done(0, answer)
        return [answer]

    nothing = lambda index, answer: None  # noqa: E731
    keep = kept_answers.keeping(ask, tmp_path, "q")
    keep(rows(1), nothing)
    (place,) = (tmp_path / kept_answers.ANSWERS).iterdir()
    np.savez(place, energy=-1.0)  # another program's file
    keep(rows(1), nothing)
    keep(rows(1), nothing)
    assert asked == ["c0", "c0"]


def test_a_calculator_in_a_file_is_another_question_once_the_file_changes(tmp_path):
    place = tmp_path / "mine.py"
    place.write_text("from ase.calculators.emt import EMT\n")
    first = judges._question(calculators.named(f"{place}:EMT"))
    assert judges._question(calculators.named(f"{place}:EMT")) == first
    plan = Plan(target={"band_gap_ev": [1, 2]}, elements=("O",), judge=f"{place}:EMT")
    before = assemble.digests_of(plan)["mine.py of the judge"]
    place.write_text("from ase.calculators.lj import LennardJones as EMT\n")
    assert judges._question(calculators.named(f"{place}:EMT")) != first
    assert assemble.digests_of(plan)["mine.py of the judge"] != before  # what a state is compared with


def test_a_calculator_that_is_not_there_is_said_at_the_start(tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        judges.made(judges.judging(f"{tmp_path / 'nope.py'}:Foo"), 4)
    with pytest.raises(ValueError, match=r"expected module:name or file\.py:name"):
        judges.made(judges.judging("nope.py:"), 4)
