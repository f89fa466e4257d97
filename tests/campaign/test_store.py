"""State is written whole or not at all, and only the plan that began a campaign resumes it."""

import os
import subprocess

import numpy as np
import pytest

from crysjax.campaign import store

ARRAYS = {"frac": np.arange(6, dtype=np.float32).reshape(2, 3), "id": np.array(["0-1", "0-22"])}


def test_state_comes_back(tmp_path):
    path = store.save_state(tmp_path / "state.npz", ARRAYS, {"rounds": 2, "plan": {"seed": 3}})
    arrays, meta = store.load_state(path)
    assert meta == {"format": 2, "rounds": 2, "plan": {"seed": 3}}
    assert arrays.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], value)
    assert os.listdir(tmp_path) == ["state.npz"]


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "state.npz"
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"state\.npz: not the state of a campaign"):
        store.load_state(path)
    np.savez(path, meta=np.frombuffer(b'{"format": 99}', np.uint8))
    with pytest.raises(ValueError, match="state format 99, this version reads format 2; start again with --no-resume"):
        store.load_state(path)


def two_states(folder):
    """States of two rounds, the second with other arrays."""
    store.save_state(folder / "state.npz", ARRAYS, {"rounds": 1})
    return store.save_state(folder / "state.npz", {"frac": ARRAYS["frac"] + 1}, {"rounds": 2})


def test_any_flipped_byte_of_the_newest_state_leaves_the_one_before(tmp_path):
    path = two_states(tmp_path)
    newest, before = path.read_bytes(), store.previous(path).read_bytes()
    for place in range(len(newest)):
        path.write_bytes(newest[:place] + bytes([newest[place] ^ 0xFF]) + newest[place + 1 :])
        store.previous(path).write_bytes(before)
        said = []
        store.recover(path, said.append)
        assert len(said) == 1 and path.read_bytes() == before, place
        assert "state.npz: damaged; going on from the state after round 1" in said[0]
    assert os.listdir(tmp_path) == ["state.npz"]
    store.recover(path, said.append)
    assert len(said) == 1  # nothing to say of a whole one


def test_a_newest_state_that_is_gone_leaves_the_one_before(tmp_path):
    path, said = two_states(tmp_path), []
    before = store.previous(path).read_bytes()
    path.unlink()
    store.recover(path, said.append)
    assert path.read_bytes() == before and "state.npz: gone; going on from the state after round 1" in said[0]


def test_two_damaged_states_are_an_error_that_says_what_to_do(tmp_path):
    path = two_states(tmp_path)
    for file in (path, store.previous(path)):
        file.write_bytes(file.read_bytes()[:-100])
    left = path.read_bytes()
    with pytest.raises(ValueError, match=r"state\.npz: not the state of a campaign .*; start again with --no-resume"):
        store.recover(path, pytest.fail)
    assert path.read_bytes() == left
    store.forget(path)
    assert os.listdir(tmp_path) == []


def test_other_model_files_are_refused():
    began = {"a.npz of the heads": "12", "b.npz of the potential": "34"}
    store.check_same_files("runs/a", began, dict(began))
    for now, what in (
        (began | {"a.npz of the heads": "13"}, "a.npz of the heads has changed"),
        (began | {"sampling.json of the generator": "1"}, "sampling.json of the generator is new"),
        ({"a.npz of the heads": "12"}, "b.npz of the potential is gone"),
    ):
        with pytest.raises(ValueError, match=f"runs/a: {what} since this campaign began; .*--no-resume"):
            store.check_same_files("runs/a", began, now)


def test_another_plan_is_refused():
    store.check_same_plan("runs/a", {"seed": 1}, {"seed": 1})
    with pytest.raises(ValueError, match=r"runs/a: this campaign began with seed = 1, the plan now says 2; .*--out"):
        store.check_same_plan("runs/a", {"rounds": 1, "seed": 1}, {"rounds": 1, "seed": 2})


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_leaves_the_last_state_whole(tmp_path):
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True, text=True
    )
    if mount.returncode:
        pytest.skip(f"no small disk can be mounted here: {mount.stderr.strip()}")
    try:
        path = store.save_state(tmp_path / "state.npz", ARRAYS, {"rounds": 1})
        before = path.read_bytes()
        with pytest.raises(OSError, match=r"No space left on device: .*state\.npz'"):
            store.save_state(path, {"big": np.random.default_rng(0).random(1 << 15)}, {"rounds": 2})
        assert path.read_bytes() == before == store.previous(path).read_bytes()
        assert sorted(os.listdir(tmp_path)) == ["state.npz", "state.previous.npz"]
    finally:
        subprocess.run(["umount", tmp_path], check=True)
