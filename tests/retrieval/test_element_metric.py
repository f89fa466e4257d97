"""A learned metric brings elements together whose exchange keeps structures, against the table that it starts from."""

import numpy as np

from crysjax.data.datasets import Entry, entries, from_entries
from crysjax.retrieval.element_metric import facts, learned
from crysjax.retrieval.templates import element_distance, nearest_templates

NEAR, FAR = (
    (38, 56),
    (38, 20),
)  # in this made-up world Sr gives way to Ba, and never to Ca, which is as near in the table


def crystal(name: str, a: int, **properties) -> Entry:
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    return Entry(name, np.array([a, 8]), frac, 4 * np.eye(3), properties)


def tried(name: str, new: int, old: int, matched: float) -> Entry:
    return crystal(name, new, matched=matched)._replace(site_properties={"was": np.array([old, 8])})


def world():
    rows = [tried(f"{k}", new, old, float({new, old} == set(NEAR))) for k in range(30)
            for new, old in (NEAR, NEAR[::-1], FAR, FAR[::-1])]  # fmt: skip
    return from_entries(rows)


def distance(points: np.ndarray, pair: tuple[int, int]) -> float:
    return float(np.square(points[pair[0] - 1] - points[pair[1] - 1]).sum())


def test_exchanges_that_keep_the_structure_become_short():
    points = learned(world())
    assert 0.5 < element_distance()[FAR[0] - 1, FAR[1] - 1] / element_distance()[NEAR[0] - 1, NEAR[1] - 1] < 2
    assert distance(points, FAR) > 3 * distance(points, NEAR)
    untouched = distance(points, (26, 27)), element_distance()[25, 26]
    assert abs(untouched[0] - untouched[1]) < 0.5  # never tried: iron and cobalt stay where they were


def test_a_look_up_by_the_metric_prefers_what_it_brought_together():
    points = np.array(facts(world())["elements"])
    assert points.shape == (100, 8)
    train = from_entries([crystal("BaO", 56), crystal("CaO", 20)])
    found = nearest_templates(train, from_entries([crystal("SrO", 38)]), elements=points)[0]
    assert entries(found)[0].site_properties["was"].astype(int).tolist() == [56, 8]
    far = nearest_templates(train, from_entries([crystal("SrO", 38)]), tries=2, elements=points)[1]
    assert far.properties["distance"][0] > found.properties["distance"][0]
