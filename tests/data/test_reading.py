"""The one way to read files: what never ends is not opened, what unpacks to too much is refused, errors are a line."""

import gzip
import io as stdio
import json
import os
import re
import resource
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest

from crysjax.crystallography import symmetry_finder
from crysjax.data import datasets, files
from crysjax.data.datasets import Entry
from crysjax.data.readers import io, limits, reading, tables

PACKAGE = Path(files.__file__).parents[1]


def crystals(count: int = 3) -> datasets.Dataset:
    cells = [Entry(f"c{k}", np.array([12, 8]), np.array([[0, 0, 0], [0.5] * 3]), 3.0 * np.eye(3), {"gap_ev": 1.0})
             for k in range(count)]  # fmt: skip
    return datasets.from_entries(cells)


READERS = {
    "bytes": reading.read_bytes, "text": reading.read_text, "json": reading.read_json, "table": tables.read,
    "digest": reading.digest, "contents": reading.contents, "set": datasets.load,
    "npz": lambda path: files.npz(path, "arrays").__enter__(),
}  # fmt: skip


@pytest.mark.parametrize("name", READERS)
def test_what_never_ends_is_not_opened(name, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        kinds = {tmp_path / "pipe": "a pipe", tmp_path / "socket": "a socket"}
        for path, kind in (kinds | dict.fromkeys(map(Path, ("/dev/zero", "/dev/stdin")), "")).items():
            with pytest.raises(ValueError, match=rf"{kind or 'a (device|pipe)'}; expected a regular file") as error:
                READERS[name](path)
            assert str(error.value).startswith(f"{path}: ")
    with pytest.raises(IsADirectoryError):
        READERS[name](tmp_path)


def test_a_size_is_a_bound_even_where_the_system_names_none(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"x" * 1000)
    assert reading.read_bytes(tmp_path / "a", 1000) == b"x" * 1000
    with pytest.raises(ValueError, match=r"a: 1000 bytes; at most 999 are read$"):
        reading.read_bytes(tmp_path / "a", 999)
    assert len(reading.read_bytes("/proc/self/status", 100_000)) > 100
    with pytest.raises(ValueError, match=r"/proc/self/status: .* at most 100 are read"):
        reading.read_bytes("/proc/self/status", 100)
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", limits.BYTES + 1)  # a hole: it takes no disk, and no memory
    with pytest.raises(ValueError, match=r"huge: 1000000001 bytes; .*CRYSJAX_MAX_BYTES raises this"):
        reading.read_bytes(tmp_path / "huge")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "no JSON, or cut short: Expecting value, line 1 column 1"),
        (b'{"a": [1, 2', "no JSON, or cut short: "),
        (b"[" * 100_000, "nested deeper than any file of use is"),
        (b'{"a":' * 100_000, "nested deeper than any file of use is"),
        (b"\xff\xfe\x00", "not text"),
        (b"\0" * 9, "not text"),
    ],
)
def test_what_is_no_json_is_one_line(text, said, tmp_path):
    for name, data in (("a.json", text), ("a.json.gz", gzip.compress(text))):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=rf"{name}: .*{said}") as error:
            reading.read_json(tmp_path / name)
        assert str(error.value).isprintable() and len(str(error.value)) < 300


def test_json_that_is_good(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"a": [1, 2.5, None], "b": 2**62}).encode())
    assert reading.read_json(tmp_path / "a.json") == {"a": [1, 2.5, None], "b": 2**62}
    assert reading.parse_json("9" * 400) == np.inf and reading.parse_json("9" * 5000) == np.inf
    assert reading.parse_json("1" + "0" * 40) == 1e40


def test_a_table_is_rows(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbfid,x\r\na,"1,5"\r\nb,2\r\n')
    assert tables.read(tmp_path / "a.csv") == [{"id": "a", "x": "1,5"}, {"id": "b", "x": "2"}]
    (tmp_path / "b.csv").write_bytes(b"id,x\n" + b"y" * 200_000 + b",1\n")  # beyond what the csv module takes by itself
    assert len(tables.read(tmp_path / "b.csv")[0]["id"]) == 200_000


# Bombs


def bomb(path: Path, megabytes: int, members: int = 1) -> Path:
    """An `.npz` of a model or data set with arrays of zeros, a thousandth of their size."""
    head = stdio.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<u2", "fortran_order": False, "shape": (megabytes << 19,)})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for k in range(members):
            with archive.open(f"leaf_{k}.npy", "w", force_zip64=True) as file:
                file.write(head.getvalue())
                for _ in range(megabytes):
                    file.write(bytes(1 << 20))
    return path


@pytest.mark.parametrize(("megabytes", "members"), [(130, 1), (25, 5)])
def test_a_bomb_is_refused_by_its_directory(megabytes, members, tmp_path):
    path = bomb(tmp_path / "m.npz", megabytes, members)
    assert path.stat().st_size < 500_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(files.Damaged, match=r"not a model \(unpacks to more than 20 times"), files.npz(path, "a model"):
        pass
    with pytest.raises(files.Damaged, match=r"not a crysjax data set \(unpacks to more than 20 times"):
        datasets.load(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kB


# Data sets that lie


LIES = {
    "a position": ({"frac": [[np.nan, 0, 0]]}, r"crystal 0 \('c0'\) has positions that are not finite"),
    "a far position": ({"frac": [[0, 0, 0]] * 3 + [[1e30, 0, 0]]}, r"crystal 1 \('c1'\) has a fractional coordinate"),
    "a cell": ({"lattice": [np.full((3, 3), np.inf)]}, r"crystal 0 \('c0'\) has a cell that is not finite"),
    "no volume": (
        {"lattice": [np.eye(3), np.ones((3, 3))]},
        r"crystal 1 \('c1'\) has a cell of less than 0\.1 Å³ \(0 Å³ per atom\)",
    ),
    "a vast cell": ({"lattice": [np.eye(3) * 1e6]}, r"crystal 0 \('c0'\) has a cell vector beyond 10000 Å"),
    "no element": ({"numbers": [0]}, r"crystal 0 \('c0'\) has atomic numbers beyond"),
    "an element beyond": ({"numbers": [8, 8, 200]}, r"crystal 1 \('c1'\) has atomic numbers beyond"),
    "a property": ({"property/gap_ev": [0, np.inf]}, r"crystal 1 \('c1'\) has an infinite 'gap_ev'"),
    "counts": ({"num_atoms": [3]}, r"'numbers' holds uint8 of shape \(6,\); expected \(7,\)"),
    "an empty one": ({"num_atoms": [0, 4]}, r"a crystal without sites"),
    "a negative one": ({"num_atoms": [-2, 6]}, r"a crystal without sites"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_data_set_is_checked_when_it_is_loaded(lie, tmp_path):
    """As `io.read` and as `datasets.load`, which every command uses; the first crystal at fault is named."""
    path = datasets.save(crystals(), tmp_path / "a.npz")
    assert len(datasets.load(path)) == len(io.read(path)) == 3
    with np.load(path) as file:
        arrays = dict(file)
    changed, said = LIES[lie]
    for name, values in changed.items():
        arrays[name][: len(values)] = values
    np.savez(path, **arrays)
    for read in (datasets.load, io.read):
        with pytest.raises(files.Damaged, match=rf"a\.npz: not a crysjax data set \({said}"):
            read(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"lattice": np.zeros((3, 9))}, {"frac": np.zeros(6)}, {"ids": np.arange(3)}, {"num_atoms": np.ones(3)},
        {"numbers": np.full(6, "Mg")}, {"split": np.zeros(2, "U1")}, {"property/x": np.zeros((3, 2))},
        {"site/x": np.zeros(5)}, {"property/frac": np.zeros(9)}, {"meta": np.zeros(3, np.uint8)},
        {"meta": np.frombuffer(b"[1]", np.uint8)}, {"meta": np.frombuffer(b'{"format": 1, "provenance": 3}', np.uint8)},
        {"num_atoms": np.zeros(0, np.int32)}, {"num_atoms": np.array([[2, 2, 2]])},
    ],
)  # fmt: skip
def test_arrays_of_another_kind_are_refused(changed, tmp_path):
    path = datasets.save(crystals(), tmp_path / "a.npz")
    with np.load(path) as file:
        np.savez(tmp_path / "b.npz", **dict(file) | changed)
    with pytest.raises(files.Damaged, match=r"b\.npz: not a crysjax data set") as error:
        datasets.load(tmp_path / "b.npz")
    assert len(str(error.value)) < 600


# Numbers for compiled code


@pytest.mark.parametrize("value", [-1.0, 0.0, float("nan"), float("inf"), -float("inf"), 1e300, 2.5])
def test_a_tolerance_that_is_none_never_reaches_spglib(value):
    row = datasets.entries(crystals())[0]
    with pytest.raises(ValueError, match=r"symmetry tolerance: .*; expected a tolerance above 0, at most 2 Å"):
        symmetry_finder.ask("get_symmetry_dataset", (row.lattice, row.frac, row.numbers), value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"frac": np.full((2, 3), np.nan)}, "positions or cell are not finite"),
        ({"frac": np.full((2, 3), 1e300)}, "positions or cell are out of all proportion"),
        ({"lattice": np.full((3, 3), np.inf)}, "positions or cell are not finite"),
        ({"lattice": np.zeros((3, 3))}, "the cell has no volume"),
        ({"lattice": np.eye(2)}, r"2 sites with positions \(2, 3\) and cell \(2, 2\)"),
        ({"frac": np.zeros((3, 3))}, r"2 sites with positions \(3, 3\)"),
        ({"frac": np.zeros((2, 3)), "numbers": np.array([8, 8])}, "spglib: "),
    ],
)
def test_a_cell_that_is_none_never_reaches_spglib(change, said):
    row = datasets.entries(crystals())[0]._replace(**change)
    found, reason = symmetry_finder.ask("get_symmetry_dataset", (row.lattice, row.frac, row.numbers), 0.1)
    assert found is None and re.match(said, reason)
    good = datasets.entries(crystals())[0]
    found, reason = symmetry_finder.ask("get_symmetry_dataset", (good.lattice, good.frac, good.numbers), 0.1)
    assert (found.number, reason) == (221, "")


# The rule


OWN_TABLES = ("chemistry/scattering.py", "chemistry/element_properties.py", "crystallography/wyckoff_tables.py",
              "geometry/symmetry.py", "evaluation/metrics/magpie.py", "evaluation/chemistry.py",
              "reports/page.py")  # fmt: skip
"""Files that read what the package or its dependencies ship."""

READS = re.compile(
    r"\.open\(\s*(\)|\"r|'r|newline)|\.read_text\(\)|\.read_text\(enc|\.read_bytes\(\)|np\.load\(|json\.loads?\(|"
    r"[^.\w]open\(|yaml\.(safe_)?load\(|csv\.(Dict)?[rR]eader\(|getattr\(spglib|spglib\.(get_sy|stand)|urlopen\("
)
ELSEWHERE = {
    "data/readers/reading.py": 2, "data/files.py": 1, "crystallography/symmetry_finder.py": 1,
    "data/readers/hall_settings.py": 1, "config.py": 1,
    "data/readers/tables.py": 3, "data/readers/powder.py": 1,  # rows of a text that was read
    "oracles/calculators.py": 2,  # what our own process prints
    "cli/judge.py": 1, "oracles/opinions.py": 1, "oracles/inputs.py": 1, "campaign/polymorphs.py": 1,
    "training/train.py": 1,  # our own settings, texts that were read, an argument
}  # fmt: skip


def test_there_is_no_other_way_to_read():
    """A reader that opens files by itself blocks on pipes, or believes what they announce."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE).as_posix()
        lines = [line for line in path.read_text().splitlines() if READS.search(line.split("#")[0])]
        if lines and name not in OWN_TABLES:
            found[name] = lines
    assert {name: lines for name, lines in found.items() if len(lines) > ELSEWHERE.get(name, 0)} == {}
