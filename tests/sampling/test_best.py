"""The best of several samples: sound ones first, then the lowest predicted energy; what is no crystal comes last."""

from dataclasses import replace

import numpy as np
import pytest

from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.models import answers
from crysjax.sampling import best, sample
from crysjax.sampling.sample import Request


def rock_salt(edge: float, shift: float = 0.5):
    lattice = edge * (np.ones((3, 3)) - np.eye(3)) / 2
    return datasets.from_entries(
        [Entry(f"{name}", np.array([z, 8]), np.array([[0, 0, 0], [shift] * 3]), lattice, {}) for name, z in OXIDES]
    )


OXIDES = (("MgO", 12), ("CaO", 20))


@pytest.fixture(scope="module")
def heads():
    return best.energies("mp_20_heads")


def test_the_lowest_energy_of_sound_samples_is_kept(heads):
    tries = [rock_salt(5.6), rock_salt(4.3), rock_salt(4.5, 0.05), rock_salt(4.8)]
    tries[0] = replace(tries[0], lattice=np.full_like(tries[0].lattice, np.nan))  # no crystals
    found = best.lowest(tries, heads)
    energy = np.stack([answers.ask(heads, each).said.value[:, 0] for each in tries])
    sound = [1, 3]  # of the others one is no crystal and one has atoms 0.4 Å apart
    chosen = np.array(sound)[energy[sound].argmin(0)]
    assert found.ids.tolist() == ["MgO", "CaO"]
    np.testing.assert_allclose(found.lattice, [tries[k].lattice[i] for i, k in enumerate(chosen)])
    np.testing.assert_allclose(found.properties[f"predicted_{best.ENERGY}"], energy[chosen, [0, 1]])


def test_a_sample_with_atoms_too_close_is_kept_where_there_is_no_other(heads, capsys):
    close = rock_salt(4.5, 0.05)
    found = best.lowest([close, replace(close, frac=np.full_like(close.frac, np.nan))], heads)
    np.testing.assert_array_equal(found.frac, close.frac)
    assert capsys.readouterr().err == "crysjax: 2 of 2 compositions have no sample without atoms too close\n"


def test_wrong_questions():
    with pytest.raises(ValueError, match="--best-of: chooses among samples of one composition; expected --like"):
        sample.sample("mp_20_wyckoff", Request(best_of=5))
    with pytest.raises(ValueError, match="--best-of: 0; expected a number from 1"):
        sample.sample("mp_20_wyckoff", Request(best_of=0, like=rock_salt(4.2)))
    with pytest.raises(ValueError, match="student"):
        best.energies("student")  # a potential
