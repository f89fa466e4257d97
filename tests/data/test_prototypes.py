"""The structure types that need no file: what is known of some of them, and a version of pymatgen without them."""

import numpy as np
import pytest

import crysjax as cx
from crysjax.campaign.assemble import digest_of
from crysjax.chemistry.elements import formula
from crysjax.crystallography import symmetry_finder
from crysjax.data.datasets import entries
from crysjax.data.readers import prototypes


@pytest.fixture(scope="module")
def known():
    return cx.read("aflow-prototypes")


def test_their_labels_say_the_group_that_spglib_finds(known):
    rows = [row for row in entries(known) if row.id.count("_") >= 3][:40]
    found = [
        symmetry_finder.ask("get_symmetry_dataset", (r.lattice.astype(float), r.frac.astype(float), r.numbers), 0.1)[0]
        for r in rows
    ]
    same = [one is not None and one.number == int(row.id.split("_")[2]) for one, row in zip(found, rows)]
    assert np.mean(same) > 0.9


def test_perovskite_and_zircon_are_among_them(known):
    of = {row.id: formula(row.numbers) for row in entries(known)}
    assert of["AB3C_cP5_221_a_c_b"] == "CaTiO3" or sorted(of["AB3C_cP5_221_a_c_b"]) == sorted("CaTiO3")
    assert len(of["A4BC_tI24_141_h_b_a"]) > 4
    assert len(known) == len(set(known.ids)) == 288


def test_a_file_of_that_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cx.write(cx.read("aflow-prototypes")[:3], tmp_path / "a.npz")
    (tmp_path / "a.npz").rename(tmp_path / "aflow-prototypes")
    with pytest.raises(ValueError, match="aflow-prototypes"):
        cx.read("aflow-prototypes")


def test_a_version_without_them_says_so(monkeypatch):
    monkeypatch.setattr(prototypes, "FILE", "another.json.gz")
    with pytest.raises(ValueError, match=r"this version of pymatgen has no another\.json\.gz"):
        prototypes.prototypes()


def test_a_plan_keeps_their_digest():
    assert digest_of("aflow-prototypes") == digest_of("aflow-prototypes")
    assert len(digest_of("aflow-prototypes")) == 64
