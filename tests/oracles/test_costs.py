"""Sums of calls, seconds and cost by hand; levels of theory that do not mix."""

import itertools
import json

import pytest

from crysjax.base import Oracle
from crysjax.chemistry.levels import Level, one_level
from crysjax.oracles import costs
from crysjax.oracles.costs import FIDELITIES, Spent, from_json, spend, to_json
from crysjax.physics.hull import hull

CHEAP, DEAR = (Oracle(name, "eV/atom", cost, lambda crystals: None) for name, cost in (("heads", 0.25), ("dft", 64.0)))


def example() -> costs.SpentByRole:
    ledger = spend((), CHEAP, calls=100, seconds=20.0)
    ledger = spend(ledger, DEAR, calls=2, seconds=150.0)
    return spend(ledger, CHEAP._replace(cost=0.5), calls=10, seconds=4.0)


def test_calls_seconds_and_cost_add_up():
    """Numbers are binary fractions: exact. A new price counts from then on."""
    ledger = example()
    assert ledger == (("heads", Spent("eV/atom", 110, 24.0, 30.0)), ("dft", Spent("eV/atom", 2, 150.0, 128.0)))


def test_a_ledger_never_changes_in_place():
    before = example()
    copy = from_json(to_json(before))
    spend(before, DEAR, calls=1, seconds=1.0)
    assert before == copy == from_json(to_json(copy)) and isinstance(copy[0][1], Spent)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: spend((), CHEAP, calls=-1, seconds=0.0), "-1 calls in 0.0 s of heads"),
        (lambda: spend((), CHEAP, calls=1, seconds=float("nan")), "1 calls in nan s"),
        (lambda: spend(example(), CHEAP._replace(unit="GPa"), calls=1, seconds=1.0), "'eV/atom' before, now in 'GPa'"),
        (lambda: from_json("[1, 2]"), "this is no account"),
        (lambda: from_json('{"heads": {"unit": "eV", "calls": 1}}'), "this is no account"),
        (lambda: from_json(to_json(example()).replace('"calls"', '"cools"')), "this is no account"),
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
