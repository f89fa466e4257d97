"""Parquet tables written here, read back: OPTIMADE's columns, columns of structures, and what is refused."""

import builtins
import io as streams
import json

import numpy as np
import pytest

from crysjax.data.datasets import ENERGY, FORCES, Entry
from crysjax.data.readers import io, limits, parquet_files
from crysjax.data.readers.cif import format_p1

CELL = np.array([[0, 2.1, 2.1], [2.1, 0, 2.1], [2.1, 2.1, 0.3]])
FRAC = np.array([[0, 0, 0], [0.25, 0.5, 0.75]])
MGO = Entry("", np.array([12, 8]), FRAC, CELL, {})


@pytest.fixture
def write(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'crysjax[parquet]'")
    parquet = pytest.importorskip("pyarrow.parquet")

    def written(columns: dict, name: str = "t.parquet", **options):
        parquet.write_table(pyarrow.table(columns), tmp_path / name, **options)
        return tmp_path / name

    return written


def optimade(count: int = 3) -> dict:
    """The columns of LeMat-Bulk that matter, and some of the others."""
    return {
        "elements": [["Mg", "O"]] * count, "nsites": [2] * count, "chemical_formula_reduced": ["MgO"] * count,
        "nperiodic_dimensions": [3] * count, "lattice_vectors": [CELL.tolist()] * count,
        "immutable_id": [f"agm{i}" for i in range(count)],
        "cartesian_site_positions": [(FRAC @ CELL).tolist()] * count, "species_at_sites": [["Mg", "O"]] * count,
        "stress_tensor": [np.eye(3).tolist()] * count, "energy": [-12.0, None, -11.0][:count],
        "forces": [[[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]]] * count, "total_magnetization": [0.5, 1.5, None][:count],
        "functional": ["pbe"] * count, "cross_compatibility": [True] * count,
    }  # fmt: skip


def test_the_columns_of_lemat_bulk(write):
    found = io.read(write(optimade()))
    assert found.ids.tolist() == ["agm0", "agm1", "agm2"] and found.numbers.tolist() == [12, 8] * 3
    np.testing.assert_allclose(found.lattice[0], CELL, rtol=1e-6)
    np.testing.assert_allclose(found.frac[:2], FRAC, atol=1e-6)
    np.testing.assert_array_equal(found.properties[ENERGY], np.array([-6, np.nan, -5.5], np.float32))
    np.testing.assert_allclose(found.site_properties[FORCES][1], [-0.1, -0.2, -0.3], rtol=1e-6)
    assert found.properties["total_magnetization"][:2].tolist() == [0.5, 1.5]
    said = {row["column"]: row for row in found.provenance["columns"]}
    assert said["energy"]["known"] == 2 and said["stress_tensor"]["reason"] == parquet_files._STRESS
    assert said["functional"]["reason"] == "text" and said["elements"]["reason"].startswith("a column of type list")


@pytest.mark.parametrize("kind", ["cif", "json", "struct"])
def test_columns_of_structures(write, kind):
    structure = io.to_structure(MGO).as_dict()
    site = lambda s: {"abc": s["abc"], "species": [{"element": s["species"][0]["element"], "occu": 1.0}]}  # noqa: E731
    plain = {"lattice": {"matrix": CELL.tolist()}, "sites": [site(s) for s in structure["sites"]]}
    value = {"cif": format_p1("MgO", MGO.numbers, FRAC, CELL), "json": json.dumps(plain), "struct": plain}[kind]
    found = io.read(write({"material_id": ["a", "b"], "made": [value, value], "band_gap": [1.0, 2.0]}))
    assert found.ids.tolist() == ["a", "b"] and found.properties["band_gap_ev"].tolist() == [1, 2]
    lengths = np.linalg.norm(found.lattice[0], axis=1)
    np.testing.assert_allclose(lengths, np.linalg.norm(CELL, axis=1), rtol=1e-5)
    assert found.numbers.tolist() == [12, 8] * 2
    assert {r["column"]: r["property"] for r in found.provenance["columns"]}["made"] == "structure"


def test_a_bad_row_is_a_reason(write):
    columns = optimade()
    columns["species_at_sites"] = [["Mg", "O"], ["Mg"], ["Mg", "X"]]
    columns["lattice_vectors"] = [np.zeros((3, 3)).tolist(), CELL.tolist(), CELL.tolist()]
    with pytest.raises(ValueError, match=r"t\.parquet: entry agm0: .* \(and 2 more\)"):
        io.read(write(columns))
    columns["species_at_sites"][0], columns["lattice_vectors"][0] = ["Mg", "O"], CELL.tolist()
    assert io.read(write(columns), skip_bad=True).ids.tolist() == ["agm0"]


def test_what_unpacks_to_too_much_is_refused(write, monkeypatch):
    columns = {"cif": ["x" * 4_000_000] * 20, "number": [1.0] * 20}
    with pytest.raises(ValueError, match="no column of structures"):
        io.read(write(columns))
    zeros = write({"x": [np.zeros(2_000_000)], "cif": ["x"]}, "zeros.parquet", compression="zstd")
    monkeypatch.setattr(limits, "SMALL_BYTES", 10_000_000)
    assert zeros.stat().st_size < 80_000
    for path in (zeros, write(columns)):  # numbers and strings that come again and again
        with pytest.raises(ValueError, match="unpacks to more than 200 times"):
            io.read(path)
    monkeypatch.setattr(limits, "ENTRIES", 2)
    with pytest.raises(ValueError, match="3 rows; at most 2 are read"):
        io.read(write(optimade()))


def test_damaged_tables_are_one_line(write):
    path = write(optimade())
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    cuts = [b"", b"PAR1", whole[:100], whole[:-10], whole[len(whole) // 2 :], b"PAR1" + bytes(200) + b"PAR1"]
    flips = [bytearray(whole) for _ in range(60)]
    for data in flips:
        data[rng.integers(len(whole))] ^= int(rng.integers(1, 256))
    for data in [*cuts, *map(bytes, flips)]:
        path.write_bytes(data)
        try:
            found = io.read(path, skip_bad=True)
        except ValueError as error:
            assert "\n" not in str(error) and str(error).startswith(str(path))
        else:
            assert len(found) >= 1


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    (tmp_path / "t.parquet").write_bytes(streams.BytesIO(b"PAR1").getvalue())
    with pytest.raises(ValueError, match=r"not installed: pip install 'crysjax\[parquet\]'$"):
        io.read(tmp_path / "t.parquet")
