"""A crystal in a left-handed cell is the same crystal in every format; lengths and angles alone would mirror it."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from crysjax.data.datasets import Entry, entries, from_entries, save
from crysjax.data.readers import cif, io
from crysjax.data.readers.layouts import read_arrays

beside = runpy.run_path(str(Path(__file__).with_name("quartz.py")))  # this folder is no package
QUARTZ, space_group, turned_round = beside["QUARTZ"], beside["space_group"], beside["turned_round"]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


def written(entry: Entry, path: Path) -> Path:
    if path.suffix in (".cif", ".extxyz", ""):
        return io.write_crystals([entry], path) and path
    if path.suffix == ".npz":
        return save(from_entries([entry]), path)
    if path.suffix == ".json":
        path.write_text(json.dumps(io.to_structure(entry).as_dict()))
    else:
        io.to_atoms(entry).write(path, format={".vasp": "vasp", ".xsf": "xsf"}[path.suffix])
    return path


@pytest.mark.parametrize("name", ["a.cif", "folder", "a.extxyz", "a.npz", "a.vasp", "a.xsf", "a.json"])
def test_every_format_keeps_the_hand_of_quartz(tmp_path, name):
    mirrored = QUARTZ._replace(frac=-QUARTZ.frac % 1)
    assert space_group(QUARTZ) == "P3_121" and space_group(mirrored) == "P3_221"  # the test can tell them apart
    for crystal, group in ((QUARTZ, "P3_121"), (mirrored, "P3_221")):
        for given in (crystal, turned_round(crystal)):
            (found,) = entries(io.read(written(given, tmp_path / f"{group}-{np.linalg.det(given.lattice) > 0}-{name}")))
            assert space_group(found, 1e-2) == group
            np.testing.assert_allclose(abs(np.linalg.det(found.lattice)), abs(np.linalg.det(given.lattice)), rtol=1e-5)


def test_conversions_keep_the_hand_of_quartz():
    left = turned_round(QUARTZ)
    for found in (io.from_structure(io.to_structure(left)), io.from_atoms(io.to_atoms(left))):
        assert space_group(io.as_entry(found)) == "P3_121"


def test_a_right_handed_cell_is_written_as_it_is_and_a_left_handed_one_in_place():
    text = cif.format_p1("q", QUARTZ.numbers, QUARTZ.frac, QUARTZ.lattice)
    np.testing.assert_allclose(cif.parse_p1(text).frac, QUARTZ.frac, atol=1e-8)
    left = turned_round(QUARTZ)
    frac, lattice = cif.right_handed(left.frac, left.lattice)
    off = (frac @ lattice - left.frac @ left.lattice) @ np.linalg.inv(lattice)
    np.testing.assert_allclose(off, np.round(off), atol=1e-9)


def test_samples_with_vectors_and_parameters_keep_the_hand():
    left = turned_round(QUARTZ)
    lengths, angles = cif.parameters(left.lattice)
    arrays = {"num_atoms": np.array([9]), "atom_types": left.numbers, "frac_coords": left.frac,
              "lengths": lengths[None], "angles": angles[None]}  # fmt: skip
    for mirrored, group in ((True, "P3_121"), (False, "P3_221")):  # without vectors a cell is right-handed
        ((_, _, parse),) = read_arrays(arrays | {"left_handed": np.array([mirrored])}, "")
        assert space_group(parse(), 1e-2) == group
