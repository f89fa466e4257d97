"""A run that is killed at any write, or whose checkpoints are damaged, goes on to the same bits and says so."""

import json
import shutil

import jax
import pytest

from crysjax.data import files
from crysjax.models import checkpoint
from crysjax.training import loop
from tests.support import beside

lines = beside(__file__, "test_loop")
bits, loss, optax_promotes, start, stream = (
    getattr(lines, name) for name in ("bits", "loss", "optax_promotes", "start", "stream")
)


@pytest.fixture(scope="module")
def step():
    return loop.make_step(loss, start()[1])


def run(folder, step, said=None):
    return loop.fit(
        start()[0],
        step,
        stream,
        folder,
        steps=30,
        save_every=10,
        log_every=5,
        say=(said if said is not None else []).append,
    )


def damage(path) -> None:
    (largest,) = sorted((p for p in path.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)[-1:]
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)


def test_a_damaged_newest_checkpoint_does_not_hide_the_older_one(tmp_path, step):
    expected = bits(run(tmp_path, step))
    damage(tmp_path / "checkpoints" / "30")
    said = []
    assert bits(run(tmp_path, step, said)) == expected
    assert said == [f"{tmp_path}/checkpoints/30: damaged and put aside; going on from step 20"]
    kept = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert kept == ["20", "30", "30.damaged"] and bits(run(tmp_path, step, said)) == expected and len(said) == 1
    rows = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [5, 10, 15, 20, 25, 30]


@pytest.mark.parametrize("line", ["5", "{}", "[1]", '{"step": "x"}', '{"step": null}', "\0\0\0", '{"step": 4, "lo'])
def test_a_line_of_the_log_that_is_no_row_is_left_out(tmp_path, step, line):
    """A power cut leaves zeros, a kill half a line; the checkpoints are whole and the run is done."""
    once = run(tmp_path, step)
    log = tmp_path / "metrics.jsonl"
    rows = log.read_text()
    log.write_text(rows + line + "\n")
    assert bits(run(tmp_path, step)) == bits(once) and log.read_text() == rows


def test_a_flipped_bit_in_any_byte_of_the_settings_of_a_run_is_noticed(tmp_path):
    checkpoint.save(tmp_path, start()[0], {"run": {"seed": 17, "steps": 30}})
    path = tmp_path / "config.json"
    whole = path.read_bytes()
    assert checkpoint.metadata(tmp_path) == {"run": {"seed": 17, "steps": 30}, "format": checkpoint.FORMAT}
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :])
        with pytest.raises(ValueError, match=r"config\.json: (cut short or damaged|checkpoints of format)"):
            checkpoint.metadata(tmp_path)
    path.write_text(json.dumps({"run": {"seed": 17}, "format": checkpoint.FORMAT}))  # of an older version
    assert checkpoint.metadata(tmp_path)["run"] == {"seed": 17}


def test_where_all_are_damaged_the_newest_is_named(tmp_path, step):
    run(tmp_path, step)
    for number in ("20", "30"):
        damage(tmp_path / "checkpoints" / number)
    with pytest.raises(ValueError, match=r"checkpoints/30: damaged .*; use a new folder"):
        run(tmp_path, step)


def test_a_whole_checkpoint_of_another_model_is_not_passed_over(tmp_path, step):
    run(tmp_path, step)
    other = jax.tree.map(lambda leaf: leaf, start()[0])._replace(params={"w": jax.numpy.zeros(4)})
    with pytest.raises(ValueError, match=r"checkpoints/30: of a run with other settings; use a new folder"):
        checkpoint.restore(tmp_path, other)


def test_checkpoints_without_digests_are_read(tmp_path, step):
    expected = bits(run(tmp_path, step))
    for number in ("20", "30"):
        (tmp_path / "checkpoints" / number / "digests.json").unlink()
    assert bits(run(tmp_path, step)) == expected


def test_killed_at_any_write_it_goes_on_to_the_same_bits(tmp_path, step, monkeypatch):
    place, found = files._take_place, []

    def copied():
        found.append(tmp_path / f"kill-{len(found)}")
        shutil.copytree(tmp_path / "whole", found[-1])

    def taking(new, old):
        copied()
        place(new, old)
        copied()

    monkeypatch.setattr(files, "_take_place", taking)
    expected = bits(run(tmp_path / "whole", step))
    monkeypatch.undo()
    assert len(found) == 12  # the settings and the state, three times
    for killed in found:
        said = []
        assert bits(run(killed, step, said)) == expected and said == [], killed.name
        assert sorted(p.name for p in (killed / "checkpoints").iterdir())[-2:] == ["20", "30"]
        assert not [p for p in killed.rglob(".*")]
