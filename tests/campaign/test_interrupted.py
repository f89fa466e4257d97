"""A campaign that is killed at any write goes on to the same result, and knows what the kill had cost."""

import json
import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from crysjax.campaign import interrupted
from crysjax.campaign import outcomes as memory
from crysjax.data import files
from crysjax.evaluation import ledger
from tests.support import beside

campaigns = beside(__file__, "test_round")
PLAN, World, everything, several_packs = (
    getattr(campaigns, name) for name in ("PLAN", "World", "everything", "several_packs")
)


@pytest.fixture
def kills(monkeypatch):
    """Copies of a folder as a kill before and after each write would leave it: `kills(folder, run)`."""

    def made(folder, run):
        place, append, found = files._take_place, ledger.append, []

        def copied():
            found.append(folder.with_name(f"kill-{len(found)}"))
            shutil.copytree(folder, found[-1])

        def taking(new, old):
            copied()
            place(new, old)
            copied()

        def appending(path, rows, passed):
            rows = list(rows)
            before = path.read_bytes() if path.exists() else b""
            after = append(path, rows, passed)
            whole = path.read_bytes()
            path.write_bytes(whole[: (len(before) + len(whole)) // 2])  # in the middle of the rows
            copied()
            path.write_bytes(whole)
            return after

        monkeypatch.setattr(files, "_take_place", taking)
        monkeypatch.setattr(ledger, "append", appending)
        run()
        monkeypatch.setattr(files, "_take_place", place)
        monkeypatch.setattr(ledger, "append", append)
        return found

    return made


def test_killed_at_any_write_it_goes_on_exactly_and_relaxes_nothing_twice(tmp_path, kills):
    whole, plan = World(), replace(PLAN, rounds=2, validations=4)
    places = kills(tmp_path / "whole", lambda: whole.run(tmp_path / "whole", plan))
    assert len(places) == 2 * (6 + 2 * 4) + 2 + 2  # six stages, four files per round; first ledger; former state
    expected, relaxations = everything(tmp_path / "whole"), sum(whole.asked_to_relax)
    asked = []
    for place in places:
        world = World()
        world.run(place, plan)
        assert everything(place) == expected, place.name
        assert not list(place.glob(".*")) and not (place / interrupted.RELAXED).exists()
        known = interrupted.counted(place)
        assert known["relaxing"] == 0
        asked.append(sum(world.asked_to_relax))
    assert sorted(asked, reverse=True) == asked and asked[0] == relaxations and asked[-1] == 0


def test_a_relaxation_that_had_ended_is_kept_and_one_that_had_not_is_counted(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        World(interrupt_at=1).run(tmp_path)
    known = interrupted.counted(tmp_path)
    assert known == {"rounds": 0, "sampled": 0, "relaxations": 0, "relaxing": 2}
    world = World()
    outcomes = world.run(tmp_path)
    assert world.asked_to_relax == [2, 2] and outcomes.calls["potential"] == 7 * 7
    assert interrupted.counted(tmp_path) == {"rounds": 1, "sampled": 12, "relaxations": 2, "relaxing": 0}


def test_kept_relaxations_come_back_bit_for_bit_and_only_for_the_same_question(tmp_path):
    world, plan = World(), {"relax_steps": 9}
    from crysjax.campaign import round as rounds

    drawn = rounds.draw(PLAN, world.tools, jax.random.key(0), 0, None, lambda *_: None).crystals
    relax = interrupted.once(world.relax, tmp_path, plan)
    first, again = relax(drawn, None), relax(drawn, None)
    assert world.asked_to_relax == [12]
    for a, b in zip(first[1:], again[1:]):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
    assert first.crystals.lattice.tobytes() == again.crystals.lattice.tobytes()
    interrupted.once(world.relax, tmp_path, {"relax_steps": 10})(drawn, None)
    (tmp_path / interrupted.RELAXED).write_bytes(b"PK damaged")
    relax(drawn, None)
    assert world.asked_to_relax == [12, 12, 12]


@pytest.mark.parametrize("finished", [2, 3])
def test_a_damaged_state_costs_one_round_and_changes_nothing(tmp_path, finished):
    World().run(tmp_path / "whole")
    parts = tmp_path / "parts"
    if finished == 3:
        World().run(parts)
    else:
        with pytest.raises(KeyboardInterrupt):
            World(interrupt_at=2).run(parts)
    state = parts / memory.STATE
    state.write_bytes(state.read_bytes()[:-200])
    world = World()
    with pytest.warns(UserWarning, match=rf"going on from the state after round {finished - 1}"):
        world.run(parts)
    assert everything(parts) == everything(tmp_path / "whole")
    assert len(world.asked_to_relax) == 1  # of a round that was not the last, the relaxations are kept


def test_relaxations_of_another_potential_are_not_taken_for_these(tmp_path):
    with pytest.raises(KeyboardInterrupt):  # the first round has been relaxed and is not finished
        world = World()
        world.tools = world.tools._replace(files={"p": "1"}, judge=_interrupt)
        world.run(tmp_path)
    world = World()
    world.tools = world.tools._replace(files={"p": "2"})
    world.run(tmp_path)
    assert world.asked_to_relax == [3, 2, 2]
    world.tools = world.tools._replace(files={"p": "3"})
    with pytest.raises(ValueError, match="p has changed since this campaign began"):
        world.run(tmp_path)


def _interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("damage", ["deleted", "cut", "a value", "rows of a round"])
def test_a_ledger_that_changed_is_not_gone_on_with(tmp_path, damage):
    World().run(tmp_path)
    book = tmp_path / memory.LEDGER
    before, lines = book.read_bytes(), book.read_text().splitlines(keepends=True)
    if damage == "deleted":
        book.unlink()
    elif damage == "cut":
        book.write_text("".join(lines[:-2]))
    elif damage == "a value":
        book.write_text(
            "".join([lines[0].replace('"value": 3', '"value": 2').replace('"value": 2', '"value": 5'), *lines[1:]])
        )
    else:
        book.write_text("".join(line for line in lines if json.loads(line)["round"] != 1))
    with pytest.raises(ValueError, match=r"ledger\.jsonl: cut short, changed or missing since round 3 .*--no-resume"):
        World().run(tmp_path)
    book.write_bytes(before)
    World().run(tmp_path)


def test_a_state_of_an_older_version_wants_its_rounds_in_the_ledger(tmp_path):
    from crysjax.campaign import store

    World().run(tmp_path)
    arrays, meta = store.load_state(tmp_path / memory.STATE)
    store.save_state(tmp_path / memory.STATE, arrays, {k: v for k, v in meta.items() if k not in ("ledger", "format")})
    World().run(tmp_path)
    (tmp_path / memory.LEDGER).unlink()
    with pytest.raises(ValueError, match=r"ledger\.jsonl: cut short, changed or missing"):
        World().run(tmp_path)
    assert np.load(tmp_path / memory.STATE).files  # it is left as it was
