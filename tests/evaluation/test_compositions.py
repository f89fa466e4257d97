"""Element mover's distance and Magpie's distance against their own programs and closed forms."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import NUM_SPECIES
from crysjax.chemistry.elements import NUMBERS
from crysjax.crystallography.distances import nearest, pairwise
from crysjax.evaluation.metrics.compositions import PETTIFOR, elmd, elmd_coordinates, magpie_distance, magpie_features

REFERENCE = Path(__file__).parent / "composition_reference.npz"


def composition(**amounts: float) -> np.ndarray:
    row = np.zeros(NUM_SPECIES)
    for symbol, amount in amounts.items():
        row[NUMBERS[symbol] - 1] = amount
    return row


@pytest.fixture(scope="module")
def mp_20_compositions(data_dir):
    """Atoms of each element in each crystal of MP-20's validation part."""
    folder = data_dir / "mp_20" / "val"
    num_atoms, numbers = np.load(folder / "num_atoms.npy"), np.load(folder / "atomic_numbers.npy")
    counts = np.zeros((len(num_atoms), NUM_SPECIES))
    np.add.at(counts, (np.repeat(np.arange(len(num_atoms)), num_atoms), numbers - 1), 1)
    return counts


def test_the_scale_is_a_permutation_with_three_places_left_for_md_no_lr():
    assert sorted(set(range(103)) - set(PETTIFOR.tolist())) == [44, 45, 46]


def test_every_element_lies_where_the_elmd_package_has_it():
    pure = np.eye(NUM_SPECIES)
    ours = elmd_coordinates(pure) - elmd_coordinates(pure[:1])
    np.testing.assert_allclose(np.abs(ours).sum(1), np.load(REFERENCE)["to_hydrogen"], atol=1e-9)


def test_elmd_of_400_pairs_of_mp_20(mp_20_compositions):
    reference = np.load(REFERENCE)
    a, b = (mp_20_compositions[reference["pairs"][:, i]] for i in (0, 1))
    with jax.enable_x64(True):
        np.testing.assert_allclose(elmd(a, b), reference["elmd"], atol=1e-9)
    single = elmd(jnp.asarray(a, jnp.float32), jnp.asarray(b, jnp.float32))
    np.testing.assert_allclose(single, reference["elmd"], atol=1e-3)


def test_pairwise_and_nearest_of_coordinates_are_elmd(mp_20_compositions):
    rows = mp_20_compositions[:60]
    vectors = elmd_coordinates(rows)
    with jax.enable_x64(True):
        table = np.asarray(elmd(rows[:20, None], rows[None, 20:]))
    np.testing.assert_allclose(pairwise(vectors[:20], vectors[20:], metric="cityblock"), table, atol=1e-9)
    np.testing.assert_allclose(nearest(vectors[:20], vectors[20:], metric="cityblock")[0], table.min(1), atol=1e-9)


def test_closed_forms_of_elmd():
    sodium, chlorine = PETTIFOR[NUMBERS["Na"] - 1], PETTIFOR[NUMBERS["Cl"] - 1]
    with jax.enable_x64(True):
        assert float(elmd(composition(Na=1), composition(Cl=1))) == pytest.approx(chlorine - sodium)
        assert float(elmd(composition(Na=1, Cl=1), composition(Cl=3))) == pytest.approx((chlorine - sodium) / 2)
        assert float(elmd(composition(Na=1, Cl=1), composition(Na=4, Cl=4))) == 0
        slope = jax.grad(elmd)(jnp.asarray(composition(Na=1, Cl=1)), jnp.asarray(composition(Cl=1)))
    # share of Na is x / (x + 1): its derivative at 1 is 1/4
    assert float(slope[NUMBERS["Na"] - 1]) == pytest.approx((chlorine - sodium) / 4)


def test_a_composition_of_another_width_is_an_error():
    with pytest.raises(ValueError, match=r"expected .*100"):
        elmd_coordinates(np.ones((2, 7)))


def test_magpie_distance_of_100_pairs_equals_matminer(mp_20_compositions):
    reference = np.load(REFERENCE)
    a, b = (mp_20_compositions[reference["pairs"][:100, i]] for i in (0, 1))
    np.testing.assert_allclose(magpie_distance(a, b), reference["magpie"], rtol=1e-9)
    assert magpie_features(np.concatenate([a, a])).shape == (200, 132)


def test_magpie_distance_of_one_composition_in_two_cells_is_zero():
    assert magpie_distance(composition(Ca=1, Ti=1, O=3)[None], composition(Ca=2, Ti=2, O=6)[None]) == pytest.approx(
        0, abs=1e-9
    )
