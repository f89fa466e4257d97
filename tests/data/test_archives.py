"""Zips of samples and arrays in `.npz`: what comes out equals what went in, and sizes are checked before unpacking."""

import io as stdio
import struct
import zipfile

import numpy as np
import pytest

from crysjax.data import files
from crysjax.data.datasets import Entry, entries, from_entries, take
from crysjax.data.readers import archives, io, limits
from crysjax.data.readers.cif import format_p1


@pytest.fixture
def dataset():
    rng = np.random.default_rng(0)
    lattice = [np.eye(3) * 5 + rng.random((3, 3)) for _ in range(3)]
    return from_entries(
        [Entry(f"gen_{i}", np.array([8, 26]), rng.random((2, 3)), m, {}) for i, m in enumerate(lattice)]
    )


def zipped(path, members: dict[str, bytes | str]):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def assert_same(found, dataset) -> None:
    """The same crystals up to the orientation of the cell, which a CIF does not hold."""
    assert found.numbers.tolist() == dataset.numbers.tolist()
    np.testing.assert_allclose(found.frac, dataset.frac, atol=2e-6)
    metric = [np.einsum("mij,mkj->mik", d.lattice, d.lattice) for d in (found, dataset)]
    np.testing.assert_allclose(*metric, rtol=1e-5, atol=1e-4)


def texts(dataset) -> dict[str, str]:
    return {f"{e.id}.cif": format_p1(e.id, e.numbers, e.frac, e.lattice) for e in entries(dataset)}


def test_mattergens_zip_of_cifs(dataset, tmp_path):
    found = io.read(zipped(tmp_path / "generated_crystals_cif.zip", texts(dataset)))
    assert found.ids.tolist() == ["gen_0", "gen_1", "gen_2"] and found.provenance["format"] == "zip"
    assert_same(found, dataset)


def test_a_zip_of_several_formats_and_of_names_that_come_twice(dataset, tmp_path):
    (frames,) = io.write_crystals(dataset, tmp_path / "all.extxyz")
    io.to_atoms(entries(dataset)[0]).write(tmp_path / "POSCAR", format="vasp")
    poscar = (tmp_path / "POSCAR").read_bytes()
    members = {"__MACOSX/._a.cif": b"\0", "readme.txt": b"x", "run/all.extxyz": frames.read_bytes(), "1/POSCAR": poscar,
               "2/POSCAR": poscar}  # fmt: skip
    found = io.read(zipped(tmp_path / "a.zip", members))
    assert found.ids.tolist() == ["gen_0", "gen_1", "gen_2", "1/POSCAR", "2/POSCAR"]
    assert_same(take(found, np.arange(3)), dataset)
    np.testing.assert_allclose(found.frac[-2:], dataset.frac[:2], atol=1e-6)


def test_of_a_trajectory_the_last_step_is_the_sample(dataset, tmp_path):
    rows = entries(dataset)
    steps = [row._replace(id="", frac=(row.frac + 0.1 * k) % 1) for row in rows for k in (2, 1, 0)]
    members = {}
    for i in range(3):
        (file,) = io.write_crystals(steps[3 * i : 3 * i + 3], tmp_path / f"{i}.extxyz")
        members[f"gen_{i}.extxyz"] = file.read_bytes()
    found = io.read(zipped(tmp_path / "generated_trajectories.zip", members))
    assert_same(found, dataset)
    assert len(io.read(zipped(tmp_path / "steps.zip", members), skip_bad=True)) == 9


def test_names_of_members_lead_nowhere(dataset, tmp_path):
    place = tmp_path / "in" / "a.zip"
    place.parent.mkdir()
    one = next(iter(texts(dataset).values()))
    found = io.read(zipped(place, {"../../out.cif": one, "/tmp/crysjax-absolute.cif": one}))
    assert len(found) == 2 and [p.name for p in tmp_path.rglob("*")] == ["in", "a.zip"]


def test_a_bad_member_leaves_the_others(dataset, tmp_path):
    members = texts(dataset) | {
        "gen_1.cif": "data_x\n",
        "more.zip": zipped(tmp_path / "inner.zip", {"a": b""}).read_bytes(),
    }
    found = io.read(zipped(tmp_path / "a.zip", members), skip_bad=True)
    assert found.ids.tolist() == ["gen_0", "gen_2"]
    reasons = {row["entry"]: row["reason"] for row in found.provenance["skipped"]}
    assert reasons["more"] == "an archive within an archive is not read" and "_atom_site_" in reasons["gen_1"]


def _announce(data: bytes, size: int) -> bytes:
    """The archive with another unpacked size in the directory entry of its first member."""
    at = data.index(b"PK\x01\x02") + 24
    return data[:at] + struct.pack("<I", size) + data[at + 4 :]


def test_sizes_are_refused_by_the_directory_alone(tmp_path, monkeypatch):
    path = tmp_path / "a.zip"
    honest = zipped(path, {"a.cif": b"x" * 1000}).read_bytes()
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_, **__: pytest.fail("unpacked"))
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("unpacked"))
    for size, message in ((limits.BYTES + 1, "more than 1000000000 bytes"), (limits.SMALL_BYTES + 1, "200 times its")):
        path.write_bytes(_announce(honest, size))
        with pytest.raises(ValueError, match=message):
            io.read(path)


def test_a_member_that_unpacks_to_more_than_announced_is_cut_off(tmp_path):
    path = zipped(tmp_path / "a.zip", {"a.cif": b"x" * 1_000_000})
    path.write_bytes(_announce(path.read_bytes(), 10))
    with archives.opened(path) as archive, pytest.raises(ValueError, match="cut short or damaged"):
        archives.member(archive, archive.infolist()[0])


def test_honest_ratios_pass_at_their_bound():
    limits.refuse_bomb(limits.SMALL_BYTES, 1)
    limits.refuse_bomb(900_000_000, 900_000_000 // limits.RATIO)
    with pytest.raises(ValueError, match="200 times"):
        limits.refuse_bomb(limits.SMALL_BYTES + 1, 1)
    with pytest.raises(ValueError, match="CRYSJAX_MAX_BYTES"):
        limits.refuse_bomb(limits.BYTES + 1, limits.BYTES)


def test_gunzip_equals_gzip():
    import gzip

    rng = np.random.default_rng(0)
    for data in (b"", b"a", rng.bytes(3_000_000), b"ab" * 2_000_000):
        assert limits.gunzip(gzip.compress(data)) == data
        assert limits.gunzip(gzip.compress(data) + gzip.compress(b"tail") + b"\0" * 10) == data + b"tail"
        with pytest.raises(ValueError, match=r"no end|damaged"):
            limits.gunzip(gzip.compress(data + b"xyz")[:-5])


@pytest.mark.parametrize(
    "array",
    [np.arange(6).reshape(2, 3), np.zeros((0, 3)), np.array(2.5), np.array(["a", "bc"]), np.asfortranarray(np.eye(3))],
)
def test_arrays_are_numpys_own(array, tmp_path):
    np.savez(tmp_path / "a.npz", x=array)
    found = archives.arrays(tmp_path / "a.npz")["x"]
    np.testing.assert_array_equal(found, array)
    assert found.dtype == array.dtype
    with files.npz(tmp_path / "a.npz", "an array") as file:
        np.testing.assert_array_equal(file["x"], array)


def test_arrays_that_need_unpickling_or_announce_too_much_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([{}], object))
    buffer = stdio.BytesIO()
    np.save(buffer, np.zeros(4))
    longer = buffer.getvalue().replace(b"(4,)", b"(9,)")
    zipped(tmp_path / "b.npz", {"x.npy": longer})
    for name, message in (("a.npz", "pickled objects"), ("b.npz", r"announces \(9,\) of float64, and 32 bytes follow")):
        with pytest.raises(ValueError, match=message):
            archives.arrays(tmp_path / name)
        with pytest.raises(ValueError, match=message), files.npz(tmp_path / name, "an array") as file:
            file["x"]
