"""What is written is written whole, by one process, and is noticed when it changes on the disk."""

import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from crysjax.data import digests, files, locks

ARRAYS = {"a": np.arange(60.0), "name": np.array(["x", "yy"])}


def read(path) -> dict:
    with files.npz(path, "a test") as file:
        return {name: file[name] for name in file.files}


def test_every_flipped_bit_of_an_npz_is_noticed(tmp_path):
    path = files.write_npz(tmp_path / "a.npz", ARRAYS)
    assert set(read(path)) == set(ARRAYS) and set(np.load(path).files) == set(ARRAYS)  # other readers see no more
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        with pytest.raises(files.Damaged, match=r"a\.npz: not a test"):
            read(path)
    for left in range(len(whole)):
        path.write_bytes(whole[:left])
        with pytest.raises(files.Damaged):
            read(path)


def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name, kind in {"pipe": "a pipe", "null": "a device"}.items():
        with pytest.raises(ValueError, match=f"{name}: is {kind}; expected a place for a file"):
            files.write(tmp_path / name, b"x")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode) and (tmp_path / "null").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["null", "pipe"]


def test_files_without_a_digest_are_read(tmp_path):
    np.savez(tmp_path / "old.npz", **ARRAYS)
    np.testing.assert_array_equal(read(tmp_path / "old.npz")["a"], ARRAYS["a"])


def test_every_flipped_bit_of_json_is_noticed(tmp_path):
    path, value = tmp_path / "a.json", {"seed": 1, "name": "Café", "of": {"steps": [1, 2.5, None]}}
    whole = digests.sealed_json(json.dumps(value, indent=1, ensure_ascii=False))
    path.write_bytes(whole)
    assert digests.read_json(path) == value and json.loads(whole) | value == json.loads(whole)
    for i in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[i // 8] ^= 1 << i % 8
        with pytest.raises(ValueError):
            digests.parse_json(bytes(damaged))
    for cut in range(len(whole)):
        with pytest.raises(ValueError):
            digests.parse_json(whole[:cut])
    path.write_bytes(whole[:-1] + b', "seed": 2}')
    with pytest.raises(ValueError, match=r"a\.json: the file is damaged: its contents are not those"):
        digests.read_json(path)


def test_json_without_a_digest_is_read_and_one_saved_again_with_an_end_of_line_too(tmp_path):
    path, text = tmp_path / "a.json", '{"seed": 1}\n'
    for content in (text.encode(), digests.sealed_json(text) + b"\n", b"\xef\xbb\xbf" + text.encode()):
        path.write_bytes(content)
        assert digests.read_json(path) == {"seed": 1}
    path.write_text("[1]")
    assert digests.read_json(path) == [1]
    for nothing in ("{}", "[1]", ""):
        with pytest.raises(ValueError, match="expected a JSON object"):
            digests.sealed_json(nothing)


def test_json_that_lost_bytes_is_damaged_wherever_they_were():
    whole = digests.sealed_json(json.dumps({"seed": 1, "sha256": "0" * 64, "version": "é"}, indent=1))
    assert digests.parse_json(whole)["seed"] == 1
    for i in range(len(whole)):
        for lost in (1, 2, 5):
            left = whole[:i] + whole[i + lost :]
            if left.rstrip() != whole:
                with pytest.raises(ValueError):
                    digests.parse_json(left)


def test_json_with_a_digest_that_was_saved_again_says_what_to_do():
    whole = digests.sealed_json(json.dumps({"seed": 1, "of": [1, 2]}, indent=1))
    value = json.loads(whole)
    ways = [json.dumps(value), json.dumps(value, indent=2), json.dumps({digests.JSON_KEY: None, "seed": 1})]
    for changed in [*ways, b"\xef\xbb\xbf" + whole, whole.replace(b"\n", b"\r\n")]:
        with pytest.raises(ValueError, match=r"is damaged: .*; get it again, or remove its key 'crysjax_sha256' if"):
            digests.parse_json(changed)
    del value[digests.JSON_KEY]  # what the line says
    assert digests.parse_json(json.dumps(value)) == {"seed": 1, "of": [1, 2]}


def test_a_list_of_digests_names_what_changed_or_is_missing(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("x", "in/y"):
        (tmp_path / name).write_bytes(b"0123456789")
    assert not digests.check_list(tmp_path)
    digests.write_list(tmp_path)
    assert digests.check_list(tmp_path)
    (tmp_path / "in" / "y").write_bytes(b"0123456780")
    with pytest.raises(ValueError, match=r"in/y: the file is damaged"):
        digests.check_list(tmp_path)
    (tmp_path / "in" / "y").unlink()
    with pytest.raises(ValueError, match=r"in/y: the file is missing"):
        digests.check_list(tmp_path)
    (tmp_path / digests.LIST).write_text("{}")
    with pytest.raises(ValueError, match=r"digests\.json: the file is damaged"):
        digests.check_list(tmp_path)


def test_what_is_being_written_is_hidden_random_and_made_exclusively(tmp_path):
    with files.whole(tmp_path / "a.cif") as one, files.whole(tmp_path / "a.cif") as other:
        assert one != other and {one.parent, other.parent} == {tmp_path}
        for partial in (one, other):
            assert partial.exists() and partial.name.startswith(".") and partial.suffix == files.PARTIAL
            assert stat.S_IMODE(partial.stat().st_mode) & 0o600 == 0o600
        one.write_text("one")
        other.write_text("other")
    assert (tmp_path / "a.cif").read_text() == "one" and len(os.listdir(tmp_path)) == 1  # the one that ended last


@pytest.mark.parametrize("system", ["with renameat2", "without"])
def test_a_folder_takes_the_place_of_a_full_one(tmp_path, monkeypatch, system):
    if system == "without":
        monkeypatch.setattr(files, "_exchanged", lambda one, other: False)
    for name in ("old", "new"):
        with files.whole(tmp_path / "f", folder=True) as partial:
            files.write(partial / name, name)
            if name == "new":
                assert os.listdir(tmp_path / "f") == ["old"]  # until the new one is whole
    assert os.listdir(tmp_path / "f") == ["new"] and os.listdir(tmp_path) == ["f"]
    with pytest.raises(OSError, match="No space"), files.whole(tmp_path / "f", folder=True) as partial:
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path / "f") == ["new"] and os.listdir(tmp_path) == ["f"]


def test_folders_and_files_are_handed_to_the_disk(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    files.write(tmp_path / "a", "text")
    assert Path(synced[0]).suffix == files.PARTIAL and synced[-1] == str(tmp_path)


HOLD = """
import sys, time
from crysjax.data import files
with files.alone(sys.argv[1]), files.whole(sys.argv[1] + "/x") as partial:
    print("locked", flush=True)
    time.sleep(120)
"""


def test_a_second_process_is_refused_until_the_first_dies(tmp_path):
    folder = tmp_path / "deep" / "out"
    other = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    with (
        pytest.raises(locks.Busy, match=r"out: another process is writing there; .*another folder"),
        locks.folder(folder),
    ):
        pass
    (partial,) = folder.glob(".*.partial")
    files._forget(partial)
    assert partial.exists()  # it is in use
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert partial.exists()
    with files.alone(folder):
        assert not partial.exists()  # nobody writes it any more


def test_a_lock_leaves_nothing_and_may_be_taken_twice_by_one_process(tmp_path):
    with files.alone(tmp_path / "a"):
        with files.alone(tmp_path / "a"):
            files.write(tmp_path / "a" / "x", "x")
        assert (tmp_path / "a" / locks.NAME).exists()  # the outer one holds it still
    assert os.listdir(tmp_path / "a") == ["x"]
    with pytest.raises(ValueError, match="a mistake"), files.alone(tmp_path / "b" / "c"):
        raise ValueError("a mistake")
    assert os.listdir(tmp_path) == ["a"]  # nothing came into the others


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_and_worked_on(tmp_path, monkeypatch, code):
    def none(descriptor, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks.fcntl, "flock", none)
    with pytest.warns(UserWarning, match="this file system has no locks"), files.alone(tmp_path / "a"):
        files.write(tmp_path / "a" / "x", "x")
        (tmp_path / "a" / ".0.partial").touch()
    with pytest.warns(UserWarning, match="no locks"), files.alone(tmp_path / "a"):
        assert (tmp_path / "a" / ".0.partial").exists()  # nobody can tell whether it is in use


def test_cells_of_a_table_come_back(tmp_path):
    import csv

    rows = [["a,b", 'say "x"', "two\nlines"], ["", "=1+1", "é"]]
    text = files.csv_text(["id", "b", "c"], rows)
    assert list(csv.reader(text.splitlines(keepends=True))) == [["id", "b", "c"], *rows]
