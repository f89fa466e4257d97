"""Readers against pymatgen and ASE, the writers read back by both, and what happens to broken input."""

import csv
import gzip
import json
import re

import numpy as np
import pytest

from crysjax.data.datasets import Entry, entries, from_entries, info, load, take, where_split
from crysjax.data.readers import cif, io
from tests.support import random_entries

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # pymatgen and ASE comment on every small cell


def canonical(numbers, frac) -> list[tuple]:
    """Sites in an order of their own: parsers sort differently."""
    rounded = np.round(np.mod(np.asarray(frac, float) + 1e-5, 1), 3)
    return sorted((int(z), *map(float, row)) for z, row in zip(numbers, rounded))


def test_fast_cif_reader_equals_pymatgen(data_dir):
    from pymatgen.core import Structure

    rng = np.random.default_rng(1)
    for name in ("perov_5/cdvae_perov_5_val.csv.gz", "mpts_52/val.csv.gz"):
        with gzip.open(data_dir / name, "rt", newline="") as file:
            texts = [row["cif"] for row in csv.DictReader(file)]
        for i in rng.choice(len(texts), 25, replace=False):
            fast, slow = cif.parse_p1(cif.blocks(texts[i])[0]), Structure.from_str(texts[i], fmt="cif")
            assert fast is not None
            np.testing.assert_allclose(fast.lattice, slow.lattice.matrix, atol=1e-10)
            distance = slow.lattice.get_all_distances(fast.frac, slow.frac_coords)
            other = fast.numbers[:, None] != np.array(slow.atomic_numbers)[None]
            assert (distance + 100.0 * other).min(1).max() < 1e-7  # each site lies on one of the same element
            assert len(fast.numbers) == len(slow)


def test_lattice_from_parameters_equals_pymatgen():
    from pymatgen.core import Lattice

    rng = np.random.default_rng(2)
    lengths, angles = rng.uniform(2, 15, (40, 3)), rng.uniform(60, 115, (40, 3))
    ours = cif.lattice_from_parameters(lengths, angles)
    theirs = [Lattice.from_parameters(*a, *b).matrix for a, b in zip(lengths, angles)]
    np.testing.assert_allclose(ours, theirs, atol=1e-11)
    back = [cif.parameters(m) for m in ours]
    np.testing.assert_allclose([b[0] for b in back], lengths, rtol=1e-12)
    np.testing.assert_allclose([b[1] for b in back], angles, rtol=1e-9)


@pytest.mark.parametrize("change", ["'P 1'", "x, y, z", "  1\n", "_atom_site_occupancy", "Na0"])
def test_anything_but_plain_p1_is_left_to_the_general_parser(change):
    text = cif.format_p1("NaCl", np.array([11, 17]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.eye(3) * 4.0)
    assert cif.parse_p1(text) is not None
    other = {"x, y, z": "-x, -y, -z", "  1\n": "  0.5\n", "Na0": "Na0 extra"}.get(change, "different")
    assert cif.parse_p1(text.replace(change, other)) is None


def test_symmetry_in_a_cif_is_expanded(tmp_path):
    (tmp_path / "nacl.cif").write_text(
        "data_NaCl\n_symmetry_space_group_name_H-M 'F m -3 m'\n_symmetry_Int_Tables_number 225\n"
        + "".join(f"_cell_length_{a} 5.64\n" for a in "abc")
        + "".join(f"_cell_angle_{a} 90\n" for a in ("alpha", "beta", "gamma"))
        + "loop_\n"
        + "".join(f"_atom_site_{a}\n" for a in ("label", "type_symbol", "fract_x", "fract_y", "fract_z"))
        + "Na1 Na 0 0 0\nCl1 Cl 0.5 0.5 0.5\n"
    )
    dataset = io.read(tmp_path / "nacl.cif", split="train")
    assert sorted(dataset.numbers.tolist()) == [11] * 4 + [17] * 4
    assert dataset.split.tolist() == ["train"]


def test_written_crystals_are_read_back_by_crysjax_pymatgen_and_ase(tmp_path):
    from ase.io import read as ase_read
    from pymatgen.core import Structure

    dataset = from_entries(random_entries(12))
    files = io.write_crystals(dataset, tmp_path / "out")
    (combined,) = io.write_crystals(dataset, tmp_path / "all.cif")
    (frames,) = io.write_crystals(dataset, tmp_path / "all.extxyz")
    for row, file in zip(entries(dataset), files):
        wanted = canonical(row.numbers, row.frac)
        structure, atoms = Structure.from_file(file), ase_read(file)
        assert canonical(structure.atomic_numbers, structure.frac_coords) == wanted
        assert canonical(atoms.numbers, atoms.get_scaled_positions()) == wanted
        np.testing.assert_allclose(structure.lattice.abc, np.linalg.norm(row.lattice, axis=1), atol=1e-5)
    for again in (io.read(tmp_path / "out"), io.read(combined), io.read(frames)):
        np.testing.assert_array_equal(again.num_atoms, dataset.num_atoms)
        for a, b in zip(entries(again), entries(dataset)):
            assert canonical(a.numbers, a.frac) == canonical(b.numbers, b.frac)
    np.testing.assert_array_equal(io.read(frames).properties["band_gap_ev"], dataset.properties["band_gap_ev"])
    np.testing.assert_allclose(io.read(frames).lattice, dataset.lattice, atol=1e-6)
    assert io.read(frames).ids.tolist() == dataset.ids.tolist()


def test_no_id_breaks_an_extxyz_file(tmp_path):
    ids = ["two\nlines", "back\\slash", "ends\\", "\x1b[31m", 'q"uo,te', "a=b c", "é", "{x}"]
    rows = [entry._replace(id=name) for entry, name in zip(random_entries(len(ids)), ids)]
    (path,) = io.write_crystals(rows, tmp_path / "a.extxyz")
    found = io.read(path)
    assert found.ids.tolist() == ["two%0alines", "back%5cslash", "ends%5c", "%1b[31m", 'q"uo,te', "a=b c", "é", "{x}"]
    np.testing.assert_allclose(found.lattice, np.stack([row.lattice for row in rows]), atol=1e-6)


def test_poscar_and_ase_database(tmp_path):
    from ase.db import connect
    from ase.io import write

    dataset = from_entries(random_entries(5))
    rows = entries(dataset)
    write(tmp_path / "POSCAR", io.to_atoms(rows[3]), format="vasp")
    one = entries(io.read(tmp_path / "POSCAR"))[0]
    assert canonical(one.numbers, one.frac) == canonical(rows[3].numbers, rows[3].frac)
    with connect(tmp_path / "some.db") as database:
        for i, row in enumerate(rows):
            database.write(io.to_atoms(row), key_value_pairs={"band_gap": 0.5 * i, "material_id": row.id})
    again = io.read(tmp_path / "some.db")
    assert again.ids.tolist() == dataset.ids.tolist()
    np.testing.assert_allclose(again.properties["band_gap_ev"], 0.5 * np.arange(5))
    np.testing.assert_allclose(again.lattice, dataset.lattice, atol=1e-6)


def test_conversions_are_inverse():
    row = entries(from_entries(random_entries(3)))[2]
    for there, back in ((io.to_structure, io.from_structure), (io.to_atoms, io.from_atoms)):
        crystal = back(there(row))
        assert crystal.occupancy.shape == (len(row.numbers), 100)
        np.testing.assert_array_equal(crystal.occupancy.argmax(-1) + 1, row.numbers)
        np.testing.assert_allclose(crystal.frac, row.frac, atol=1e-6)
        np.testing.assert_allclose(crystal.lattice, row.lattice, atol=1e-6)
        empty = crystal._replace(
            occupancy=np.vstack([crystal.occupancy, np.zeros((1, 100), np.float32)]),
            frac=np.vstack([crystal.frac, np.zeros((1, 3), np.float32)]),
        )
        assert len(there(empty)) == len(row.numbers)


def test_mattergen_cache_and_flat_npz_with_looked_up_properties(tmp_path):
    rows = random_entries(4)
    numbers, frac = np.concatenate([r.numbers for r in rows]), np.concatenate([r.frac for r in rows])
    count, cell = np.array([len(r.numbers) for r in rows]), np.stack([r.lattice for r in rows])
    folder = tmp_path / "train"
    folder.mkdir()
    for name, array in (("num_atoms", count), ("atomic_numbers", numbers), ("cell", cell), ("pos", frac + 1)):
        np.save(folder / f"{name}.npy", array)
    (folder / "dft_bulk_modulus.json").write_text(json.dumps({"values": [1.0, None, float("nan"), 4.0]}))
    cache = io.read(folder, split="train")
    np.testing.assert_array_equal(cache.properties["bulk_modulus_gpa"], np.array([1, np.nan, np.nan, 4], np.float32))
    np.testing.assert_allclose(cache.frac, frac, atol=1e-6)
    lengths, angles = zip(*(cif.parameters(m) for m in cell))
    arrays = {"num_atoms": count, "atom_types": numbers, "frac_coords": frac, "lengths": lengths, "angles": angles}
    np.savez(tmp_path / "flat.npz", train_index=np.array([3, 2, 1, 0]), **arrays)
    flat = io.read(tmp_path / "flat.npz")
    np.testing.assert_array_equal(flat.properties["bulk_modulus_gpa"], np.array([4, np.nan, np.nan, 1], np.float32))
    gram = np.einsum("mij,mkj->mik", flat.lattice, flat.lattice)
    np.testing.assert_allclose(gram, np.einsum("mij,mkj->mik", cell, cell), rtol=1e-4, atol=1e-4)


def test_a_broken_entry_is_an_error_with_its_place_or_a_counted_row(tmp_path):
    good = cif.format_p1("NaCl", np.array([11, 17]), np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.eye(3) * 4.0)
    half = good.replace("0.00000000  1\n", "0.00000000  0.5\n")
    flat = good.replace("_cell_length_a   4.0", "_cell_length_a   0.0")
    lines = ["material_id,cif,band_gap"] + [f'{i},"{t}",{j}' for j, (i, t) in enumerate(
        {"a": good, "b": half, "c": good[:200], "d": flat, "e": good}.items())]  # fmt: skip
    path = tmp_path / "data.csv"
    path.write_text("\n".join(lines))
    with pytest.raises(
        ValueError, match=r"data.csv: entry b: .*partial occupancy.* \(and 2 more\); .data prepare --skip"
    ):
        io.read(path)
    dataset = io.read(path, skip_bad=True)
    assert dataset.ids.tolist() == ["a", "e"]
    assert dataset.properties["band_gap_ev"].tolist() == [0, 4]
    assert [row["entry"] for row in dataset.provenance["skipped"]] == ["b", "c", "d"]
    assert all(row["file"] == "data.csv" and row["reason"] for row in dataset.provenance["skipped"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("no.csv", "a,b\n1,2\n", "no column 'cif'"), ("empty.cif", "", "entry empty"), ("gone.cif", None, "no such file")],
)
def test_unusable_files_are_one_clear_line(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        io.read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_prepare_keeps_splits_provenance_and_refuses_ids_given_twice(tmp_path):
    io.write_crystals(from_entries(random_entries(3)), tmp_path / "a.extxyz")
    io.write_crystals(from_entries(random_entries(2, seed=1)), tmp_path / "b.extxyz")
    inputs = [(tmp_path / "a.extxyz", "train"), (tmp_path / "b.extxyz", "test")]
    made = io.prepare(inputs, tmp_path / "out.npz", note="a note")
    again = load(tmp_path / "out.npz")
    assert made.split.tolist() == again.split.tolist() == ["train"] * 3 + ["test"] * 2
    assert again.provenance["note"] == "a note"
    assert [part["file"] for part in again.provenance["parts"]] == ["a.extxyz", "b.extxyz"]
    assert info(again)["splits"] == {"test": 2, "train": 3}
    with pytest.raises(ValueError, match="'m0' comes 2 times in split 'train'"):
        io.prepare([(tmp_path / "a.extxyz", "train")] * 2)
    np.testing.assert_array_equal(take(again, [3]).frac, where_split(again, "test").frac[: again.num_atoms[3]])


def test_xsf_and_packed_text_equal_ases_reading(tmp_path):
    from ase.io import read as ase_read
    from ase.io import write

    frames = [io.to_atoms(row) for row in random_entries(2)]
    write(tmp_path / "a.xsf", frames)
    for atoms, entry in zip(ase_read(tmp_path / "a.xsf", ":"), entries(io.read(tmp_path / "a.xsf"))):
        assert atoms.numbers.tolist() == entry.numbers.tolist()
        np.testing.assert_allclose(np.mod(atoms.get_scaled_positions(), 1), entry.frac, atol=1e-5)
    io.write_crystals(random_entries(2), tmp_path / "a.extxyz")
    (tmp_path / "b.extxyz.gz").write_bytes(gzip.compress((tmp_path / "a.extxyz").read_bytes()))
    np.testing.assert_array_equal(io.read(tmp_path / "b.extxyz.gz").frac, io.read(tmp_path / "a.extxyz").frac)


def test_energy_forces_and_stress_of_ase_equal_in_extxyz_and_database(tmp_path):
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.db import connect
    from ase.io import write

    rng = np.random.default_rng(5)
    atoms = io.to_atoms(random_entries(4)[3])
    forces, stress = rng.normal(size=(len(atoms), 3)), rng.normal(size=6)
    atoms.calc = SinglePointCalculator(atoms, energy=-7.5, forces=forces, stress=stress)
    write(tmp_path / "a.extxyz", atoms)
    with connect(tmp_path / "a.db") as database:
        database.write(atoms)
    for name in ("a.extxyz", "a.db"):
        found = io.read(tmp_path / name)
        np.testing.assert_allclose(found.properties["energy_ev_per_atom"], -7.5 / len(atoms), rtol=1e-6)
        np.testing.assert_allclose(found.site_properties["forces_ev_per_a"], forces, atol=1e-6)
        for ij, value in zip(("xx", "yy", "zz", "yz", "xz", "xy"), stress):
            np.testing.assert_allclose(found.properties[f"stress_{ij}_ev_per_a3"], value, rtol=1e-6)


def test_two_atoms_in_one_place_are_read_as_written(tmp_path):
    sites = np.array([[0.25, 0, 0], [0.25, 0, 0], [0.5, 0.5, 0.5]])
    (tmp_path / "a.cif").write_text(cif.format_p1("x", np.array([11, 11, 17]), sites, np.eye(3) * 4.0))
    found = io.read(tmp_path / "a.cif")
    assert found.numbers.tolist() == [11, 11, 17]
    np.testing.assert_array_equal(found.frac, sites.astype(np.float32))


def test_impossible_cells_are_not_a_number():
    good, angles = np.full(3, 4.0), np.full(3, 90.0)
    assert np.isfinite(cif.lattice_from_parameters(good, angles)).all()
    for lengths, degrees in (([4, 0, 4], angles), ([4, 4, -1], angles), (good, [90, 180, 90]), (good, [0, 90, 90])):
        assert np.isnan(cif.lattice_from_parameters(np.array(lengths), np.array(degrees))).any()


def test_formats_that_can_execute_code_are_refused_by_name(tmp_path):
    for name in ("a.pkl", "a.traj", "a.py"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(ValueError, match=r"it can execute code when it is opened; expected \.cif, "):
            io.read(tmp_path / name)
    (tmp_path / "OUTCAR").write_bytes(b"x")
    with pytest.raises(ValueError, match="its name stands for no format"):
        io.read(tmp_path / "OUTCAR")


def test_fractions_are_wrapped_below_one():
    frac = np.array([[-1e-12, 1.0, 2.25], [0.999999999, -0.25, 0]])
    dataset = from_entries([Entry("x", np.array([1, 2]), frac, np.eye(3) * 3, {})])
    assert dataset.frac.min() >= 0 and dataset.frac.max() < 1
    np.testing.assert_allclose(dataset.frac, [[0, 0, 0.25], [0, 0.75, 0]], atol=1e-7)


def test_the_layouts_of_the_published_data_sets(data_dir):
    perov = io.read(data_dir / "perov_5/perov_5.npz")
    assert dict(zip(*np.unique(perov.split, return_counts=True))) == {"train": 11356, "val": 3787, "test": 3785}
    small = io.read(data_dir / "supercon/supercon.npz")
    assert len(small) == 1056
    phonons = io.read(data_dir / "phonons/matbench_phonons.json.gz")
    assert len(phonons) == 1265 and phonons.properties["last_phdos_peak_per_cm"][0] == np.float32(98.58577014)


def test_an_id_that_is_too_long_is_refused_in_every_format_and_its_row_is_named(tmp_path):
    long = "x" * 257
    structure = {
        "lattice": {"matrix": (4 * np.eye(3)).tolist()},
        "sites": [{"species": [{"element": "O", "occu": 1}], "abc": [0, 0, 0]}],
    }
    text = cif.format_p1("x", np.array([8]), np.zeros((1, 3)), 4 * np.eye(3))
    frame = '1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:3 id={}\nO 0 0 0\n'
    files = {
        "a.extxyz": "".join(map(frame.format, ("ok", long))),
        "a.csv": f'id,cif\nok,"{text}"\n{long},"{text}"\n',
        "a.json": json.dumps([{"id": name, "structure": structure} for name in ("ok", long)]),
        "a.jsonl": "".join(json.dumps({"id": name, "structure": structure}) + "\n" for name in ("ok", long)),
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    np.savez(
        tmp_path / "a.npz", num_atoms=np.array([1, 1]), atomic_numbers=np.array([8, 8]), frac_coords=np.zeros((2, 3)),
        cell=np.stack([4 * np.eye(3)] * 2), id=np.array(["ok", long]),
    )  # fmt: skip
    rows = {"a.extxyz": "a-1", "a.json": "1", "a.jsonl": "1"}
    for name in (*files, "a.npz"):
        row = rows.get(name, f"{'x' * 40}... (row 2)")
        message = f"{name}: entry {row}: an id of 257 characters; at most 256 are kept; `data prepare --skip-bad`"
        with pytest.raises(ValueError, match=re.escape(message)):
            io.read(tmp_path / name)
        assert io.read(tmp_path / name, skip_bad=True).ids.tolist() == ["ok"]
