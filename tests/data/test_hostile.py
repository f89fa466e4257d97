"""A thousand malformed, hostile and absurd files: each is crystals or counted reasons, in seconds, and nothing runs."""

import importlib.util
import os
import random
import resource
import time
from pathlib import Path

import numpy as np
import pytest

from crysjax.data.datasets import Dataset, save
from crysjax.data.readers import io, limits


def beside(name: str):
    """A module of this folder, which is no package."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parent / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


nasty, mutants = beside("nasty"), beside("mutants")

SECONDS = 5.0  # of one file; the slowest take below two on a laptop's core
MEBIBYTES = 1_000  # of the whole process beyond what it had before
MUTANTS = int(os.environ.get("CRYSJAX_MUTANTS", 900))
SEED = int(os.environ.get("CRYSJAX_MUTANTS_SEED", 0))


def outcome(path: Path) -> Dataset | ValueError:
    """What reading gives; anything but crystals or a ValueError, and more than a few seconds, fails the test."""
    start = time.process_time()
    try:
        found = io.read(path, skip_bad=True)
    except ValueError as error:
        found = error
    seconds = time.process_time() - start
    assert seconds < SECONDS, f"{path.name} took {seconds:.1f} s"
    return found


def assert_sound(name: str, found: Dataset | ValueError) -> None:
    """Crystals are finite, of real elements, with some volume; a reason is one line; what is skipped has its place."""
    if isinstance(found, ValueError):
        assert str(found).isprintable() and name in str(found) and len(str(found)) < 700, (name, str(found))
        return
    assert len(found) > 0 and (found.num_atoms >= 1).all() and found.num_atoms.max() <= limits.SITES, name
    assert found.num_atoms.sum() == len(found.numbers) == len(found.frac), name
    assert found.numbers.min() >= 1 and found.numbers.max() <= 100, name
    assert np.isfinite(found.frac).all() and (found.frac >= 0).all() and (found.frac < 1).all(), name
    assert np.isfinite(found.lattice).all() and (np.abs(np.linalg.det(found.lattice)) > 0.05).all(), name
    assert not any(np.isinf(v).any() for v in (*found.properties.values(), *found.site_properties.values())), name
    for row in found.provenance.get("skipped", []):
        assert set(row) == {"file", "entry", "reason"} and row["file"] == name and row["reason"], row
        assert row["reason"].isprintable() and row["entry"].isprintable(), row


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> dict[str, bytes]:
    return nasty.good_files(tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def nasties(tmp_path_factory) -> tuple[dict[str, bytes], Path]:
    folder = tmp_path_factory.mktemp("nasty")
    return nasty.nasty_files(folder, folder / "marker"), folder / "marker"


def test_the_good_files_are_read_whole(good, tmp_path):
    for name, data in good.items():
        (tmp_path / name).write_bytes(data)
        found = io.read(tmp_path / name)
        assert len(found) >= 1 and found.provenance.get("skipped", []) == []
        assert_sound(name, found)


def test_mutants_are_crystals_or_reasons(good, tmp_path):
    rng, names, read, refused = random.Random(SEED), sorted(good), 0, 0
    for i in range(MUTANTS):
        name = names[i % len(names)]
        path = tmp_path / f"{i}-{name}" if "POSCAR" not in name else tmp_path / f"POSCAR-{i}"
        path.write_bytes(mutants.mutated(rng, name, good[name]))
        found = outcome(path)
        assert_sound(path.name, found)
        read, refused = read + isinstance(found, Dataset), refused + isinstance(found, ValueError)
    assert read > MUTANTS / 10 and refused > MUTANTS / 10  # both ways are walked


def test_nasty_files_one_by_one(nasties, tmp_path):
    files, marker = nasties
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
        assert_sound(name, outcome(tmp_path / name))
    assert not marker.exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEBIBYTES * 1024
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(files)  # nothing was unpacked or written beside them


def test_the_marker_would_appear_if_a_pickle_were_loaded(nasties):
    import pickle

    files, marker = nasties
    pickle.loads(files["evil.pkl"])
    assert marker.exists()
    marker.unlink()


def test_all_of_them_in_one_call_are_counted(nasties, good, tmp_path):
    files, marker = nasties
    files = {name: data for name, data in files.items() if len(data) < 50_000} | {"good.cif": good["p1.cif"]}
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    told = []
    inputs = [(tmp_path / name, name) for name in files]  # a split each: ids may well be the same
    made = io.prepare(inputs, skip_bad=True, on_skip=told.append)
    assert np.isfinite(made.lattice).all() and {row["file"] for row in told} <= set(files)
    sources = {part["file"] for part in made.provenance["parts"] if "file" in part}
    assert sources | {row["file"] for row in told} == set(files)
    save(made, tmp_path.parent / "again.npz")
    again = []  # what was skipped when a data set was made is not skipped anew when it is read
    io.prepare([(tmp_path.parent / "again.npz", "")], skip_bad=True, on_skip=again.append)
    assert again == []
    folder = io.read(tmp_path, skip_bad=True)
    assert_sound(tmp_path.name, folder)
    assert {"empty.cif", "binary.poscar", "count.extxyz"} <= {
        row["entry"].split(":")[0] for row in folder.provenance["skipped"]
    }
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("evil.pt", "refused: the pickle asks for pathlib.Path.touch|getattr"),
        ("evil_zip.pt", "refused: the pickle asks for"),
        ("evil_global.pt", "refused: the pickle asks for os.system"),
        ("evil.pkl", "it can execute code"),
        ("evil.traj", "it can execute code"),
        ("evil.py", "it can execute code"),
        ("evil.npz", "it is no .npz file"),
        ("evil.db", "not an SQLite database"),
        ("evil_objects.npz", "pickled objects"),
        ("bomb.zip", "unpacks to more than 200 times"),
        ("bomb.npz", "unpacks to more than 200 times"),
        ("bomb.csv.gz", "unpacks to more than 200 times"),
        ("huge_header.npz", "announces"),
        ("expanded.pt", "in a storage of 2 numbers"),
        ("view.db", "no plain table"),
        ("computed.db", "lacks plain columns"),
        ("utf16_no_mark.cif", "zero bytes"),
        ("ten_thousand.cif", "10000 sites; at most 2000"),
        ("operations_bomb.cif", "at most 6000 images are made"),
        ("quotes.cif", "nothing but quotes"),
        ("hundreds.cif", "899 sites times 16 operations"),
        ("partial.cif", "partial occupancy"),
        ("dummy.json", "'X'"),
        ("count.extxyz", "cut short: 1000000000000 atoms announced"),
        ("count.poscar", r"\[4000000000\] sites announced"),
        ("wide.extxyz", "columns"),
        ("negative.poscar", r"\[-3, 4\] sites"),
        ("negative.cif", "below zero"),
        ("magnetic.cif", "magnetic CIF files are not read"),
        ("count.xsf", "the file ends early"),
        ("unnamed.poscar", "no element symbols"),
        ("deep.json", "nested deeper"),
        ("ids.json", "an id of 1000000 characters"),
        ("zero.cif", "Singular matrix|no volume"),
        ("wide.cif", "cell vector"),
        ("infinite.poscar", "not finite"),
    ],
)
def test_reasons_say_what_is_wrong(nasties, tmp_path, name, reason):
    (tmp_path / name).write_bytes(nasties[0][name])
    with pytest.raises(ValueError, match=reason):
        io.read(tmp_path / name)


def test_what_can_be_read_of_bad_company_is_read(nasties, tmp_path):
    kept = {"nested.zip": 1, "broken_member.zip": 1, "outward.zip": 3, "utf16.cif": 1, "latin1.cif": 1, "mac.cif": 1,
            "duplicate.cif": 0, "two_thousand.cif": 1, "big_frame.extxyz": 1, "huge_int.json": 2}  # fmt: skip
    for name, count in kept.items():
        (tmp_path / name).write_bytes(nasties[0][name])
        found = outcome(tmp_path / name)
        assert (len(found) if isinstance(found, Dataset) else 0) == count, (name, found)


def test_folders_links_and_devices_are_no_files(tmp_path, good):
    (tmp_path / "good.cif").write_bytes(good["symmetric.cif"])
    (tmp_path / "folder.cif").mkdir()
    (tmp_path / "loop.cif").symlink_to(tmp_path / "loop.cif")
    (tmp_path / "up.cif").symlink_to(tmp_path)
    (tmp_path / "zero.xyz").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "POSCAR")
    found = io.read(tmp_path, skip_bad=True)
    assert len(found) == 1 and len(found.provenance["skipped"]) == 5
    assert all("expected a regular file" in row["reason"] for row in found.provenance["skipped"])
    nothing = "no such file or folder"
    named = {"loop.cif": nothing, "gone.cif": nothing, "zero.xyz": "is a device; expected", "POSCAR": "is a pipe; exp"}
    for name, said in named.items():
        with pytest.raises(ValueError, match=f"{name}: {said}"):
            io.read(tmp_path / name)
