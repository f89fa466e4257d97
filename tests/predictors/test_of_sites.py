"""A model that speaks of sites: what it is trained on, and what it answers, one row for each atom."""

import csv
import io

import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Estimate
from crysjax.data import batching, datasets
from crysjax.models import answers, registry
from crysjax.predictors.heads import Heads
from crysjax.training import tasks

SIZES = (2, 1, 3)


@pytest.fixture
def data() -> datasets.Dataset:
    rng = np.random.default_rng(0)
    rows = [datasets.Entry(f"c{n}", np.full(n, 8), rng.random((n, 3)), 4 * np.eye(3), {}, {"charge_e": rng.random(n)})
            for n in SIZES]  # fmt: skip
    return datasets.from_entries(rows)


def test_answers_have_a_row_for_each_site(data):
    """It says the first coordinate, and knows nothing of sites beyond 0.9."""

    def predict(params, pack):
        x = pack.frac[:, :1]
        return Estimate(x, 0 * x + 0.5, x < 0.9)

    far = lambda params, pack: jnp.zeros(len(pack.lattice))  # noqa: E731
    model = registry.Model(
        Heads(("x",), None, None, predict, None, far, of_sites=True), {}, {"settings": {}, "properties": ["x"]}
    )
    data.frac[:, 0] = [0.1, 0.2, 0.95, 0.3, 0.95, 0.4]  # nothing of the second crystal is known, a part of the third
    found = answers.ask(model, data)
    known = data.frac[:, 0] < 0.9
    np.testing.assert_array_equal(found.said.value[:, 0], np.where(known, data.frac[:, 0], np.nan))
    assert np.isnan(found.novelty).tolist() == [False, True, True]
    rows = list(csv.DictReader(io.StringIO(answers.table(data.ids, found))))
    assert [row["id"] for row in rows] == ["c2:1", "c2:2", "c1:1", "c3:1", "c3:2", "c3:3"]
    assert rows[2]["x"] == "" and float(rows[0]["x_std"]) == 0.5


def test_columns_of_sites_are_labels_of_sites(data):
    shape = batching.capacity(data.num_atoms)
    _, labels = tasks.labeled(data, [[2, 0], [1]], shape, ("charge_e",))
    assert labels.properties.shape == (2, shape.crystals, 0) and labels.sites.shape == (2, shape.sites, 1)
    charge = data.site_properties["charge_e"]
    np.testing.assert_array_equal(labels.sites[0, :5, 0], np.concatenate([charge[3:], charge[:2]]))
    assert np.isnan(labels.sites[0, 5:]).all()
    center, scale = tasks.property_statistics(data, ("charge_e",), of_sites=True)
    np.testing.assert_allclose([*center, *scale], [charge.mean(), charge.std()], rtol=1e-6)
    with pytest.raises(ValueError, match="no crystal has a value; the data set has"):
        tasks.property_statistics(data, ("charge_e",))
