"""Sums of calls, seconds and cost by hand; levels of theory that do not mix."""

import itertools
import json

import pytest

from crysjax.base import Oracle
from crysjax.chemistry.levels import Level, one_level
from crysjax.oracles import costs
from crysjax.oracles.costs import FIDELITIES, Spent, affordable, from_json, merged, spend, to_json, total
from crysjax.physics.hull import hull

CHEAP, DEAR = (Oracle(name, "eV/atom", cost, lambda crystals: None) for name, cost in (("heads", 0.25), ("dft", 64.0)))


def example() -> costs.Ledger:
    ledger = spend((), CHEAP, calls=100, seconds=20.0)
    ledger = spend(ledger, DEAR, calls=2, seconds=150.0)
    return spend(ledger, CHEAP._replace(cost=0.5), calls=10, seconds=4.0)


def test_calls_seconds_and_cost_add_up():
    """Numbers are binary fractions: exact. A new price counts from then on."""
    ledger = example()
    assert ledger == (("heads", Spent("eV/atom", 110, 24.0, 30.0)), ("dft", Spent("eV/atom", 2, 150.0, 128.0)))
    assert total(ledger) == Spent("", 112, 174.0, 158.0) and total(()) == Spent("", 0, 0, 0)


def test_a_ledger_never_changes_in_place():
    before = example()
    copy = from_json(to_json(before))
    spend(before, DEAR, calls=1, seconds=1.0)
    assert before == copy == from_json(to_json(copy)) and isinstance(copy[0][1], Spent)


def test_the_order_of_spending_and_merging_does_not_matter():
    parts = [spend((), CHEAP, calls=3, seconds=1.0), spend((), DEAR, calls=1, seconds=70.0), example()]
    sums = [dict(merged(order)) for order in itertools.permutations(parts)]
    assert all(found == sums[0] for found in sums)
    assert sums[0] == {"heads": Spent("eV/atom", 113, 25.0, 30.75), "dft": Spent("eV/atom", 3, 220.0, 192.0)}


def test_what_a_budget_still_affords():
    ledger = example()  # 158 s of cost
    assert affordable(ledger, DEAR, budget_seconds=158.0) == 0 == affordable(ledger, DEAR, budget_seconds=100.0)
    assert affordable(ledger, DEAR, budget_seconds=158.0 + 128.0) == 2
    assert affordable(ledger, DEAR, budget_seconds=158.0 + 127.9) == 1
    assert affordable((), CHEAP._replace(cost=0.1), budget_seconds=0.3) == 3  # 0.3 / 0.1 is 2.99... in floats
    assert affordable(ledger, CHEAP._replace(cost=0.0), budget_seconds=200.0) > 10**9
    assert affordable(ledger, CHEAP._replace(cost=0.0), budget_seconds=100.0) == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: spend((), CHEAP, calls=-1, seconds=0.0), "-1 calls in 0.0 s of heads"),
        (lambda: spend((), CHEAP, calls=1, seconds=float("nan")), "1 calls in nan s"),
        (lambda: spend(example(), CHEAP._replace(unit="GPa"), calls=1, seconds=1.0), "'eV/atom' before, now in 'GPa'"),
        (lambda: merged([example(), spend((), CHEAP._replace(unit="GPa"), calls=1, seconds=1.0)]), "in 'GPa'"),
        (lambda: from_json("[1, 2]"), "this is no ledger"),
        (lambda: from_json('{"heads": {"unit": "eV", "calls": 1}}'), "this is no ledger"),
        (lambda: from_json(to_json(example()).replace('"calls"', '"cools"')), "this is no ledger"),
    ],
)
def test_what_is_no_ledger_is_said(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()


def test_levels_of_theory_do_not_mix():
    pbe, r2scan = Level("PBE", "none"), Level("r2SCAN", "none")
    assert one_level([pbe, ("PBE", "none")]) == pbe
    with pytest.raises(ValueError, match="hull: theory 'PBE' and 'r2SCAN' do not compare"):
        one_level([pbe, pbe, r2scan], "hull")
    with pytest.raises(ValueError, match="corrections 'none' and 'MP2020' do not compare"):
        one_level([pbe, pbe._replace(corrections="MP2020")])
    with pytest.raises(ValueError, match="no level of theory"):
        one_level([])
    assert one_level([hull.MATERIALS_PROJECT_2021]) == hull.MATERIALS_PROJECT_2021  # those of a hull are the same pairs


def test_fidelities_run_from_cheap_to_dear_and_none_compares_with_another():
    prices = [rung.seconds for rung in FIDELITIES]
    assert prices == sorted(prices) and prices[0] > 0
    for one, other in itertools.combinations(FIDELITIES, 2):
        with pytest.raises(ValueError, match="do not compare"):
            one_level([one.level, other.level], f"{one.name} and {other.name}")
    assert json.loads(json.dumps([rung._asdict() for rung in FIDELITIES]))[0]["name"] == "heads"
