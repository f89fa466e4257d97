"""A campaign with models that cost nothing and whose answers are known: budgets, ledger, learning, resuming."""

from collections import Counter
from dataclasses import replace

import jax
import numpy as np
import pytest

from crysjax.base import Estimate, Surrogate
from crysjax.campaign import goals as targets
from crysjax.campaign import plan as plans
from crysjax.campaign import round as rounds
from crysjax.campaign import store
from crysjax.campaign.inspect import Inspected
from crysjax.campaign.plan import Goal
from crysjax.campaign.propose import Proposal
from crysjax.campaign.validate import Judged, Relaxed
from crysjax.chemistry.elements import formula
from crysjax.crystallography.contacts import Contact
from crysjax.data import batching, datasets
from crysjax.evaluation import ledger
from crysjax.evaluation.gates import Gated
from crysjax.predictors.predictor import Predictor
from crysjax.sampling import draws as sampling

GOALS = targets.goals({"gap": Goal("window", 1.0, 2.0), "energy": Goal("minimise")}, ("energy", "gap"), (0.5, 2.0))
PLAN = plans.Plan(
    target={"gap": [1, 2], "energy": "minimise"}, elements=["O", "Mg", "Ca", "Ti", "Sr"], max_atoms=3, rounds=3,
    candidates=12, validations=7, relax_steps=9,
)  # fmt: skip


PARTICLES = np.array([1.0, 1.5, 2.0], np.float32)


@pytest.fixture(autouse=True)
def several_packs(monkeypatch):
    """Twelve crystals of two or three atoms in packs of about four, so that packs and rows do not coincide."""
    monkeypatch.setattr(rounds, "PAIRS", 8)


def true_values(crystals) -> np.ndarray:
    """(gap, energy) of relaxed crystals, from what they are made of."""
    heavy = np.array([entry.numbers.mean() / 10 for entry in datasets.entries(crystals)], np.float32)
    return np.stack([heavy, -heavy], -1)


def proposal(rng: np.random.Generator, template) -> Proposal:
    """Random crystals of the allowed elements; those of a short cell fail a gate; worth is 10 minus the cell."""
    occupied = np.asarray(template.occupancy).sum(-1) > 0
    allowed = np.flatnonzero(np.asarray(template.occupancy).max(0) > 0)
    b, n = len(template.lattice), len(occupied)
    occupancy = np.eye(100, dtype=np.float32)[rng.choice(allowed, n)] * occupied[:, None]
    cell = rng.uniform(3.0, 6.0, b).astype(np.float32)
    lattice = cell[:, None, None] * np.eye(3, dtype=np.float32)
    pack = template._replace(occupancy=occupancy, frac=rng.random((n, 3), np.float32), lattice=lattice)
    fine, yes = cell > 3.5, np.ones(b, bool)
    said = Estimate(rng.random((b, 2), np.float32), np.full((b, 2), 0.1, np.float32), yes)
    worth = np.where(fine, 10 - cell, -np.inf).astype(np.float32)
    gated = Gated(Contact(cell / 3, cell, yes, yes, cell), cell**3, fine, yes, yes, fine)
    effective = PARTICLES[np.arange(b) % len(PARTICLES)]
    features = rng.normal(0, 9, (b, 4)).astype(np.float32)
    return Proposal(pack, gated, said, said, features, worth, effective, novelty=cell)


class World:
    """Tools with a memory of what was asked of them."""

    def __init__(self, *, fresh: bool = True, known: frozenset[str] = frozenset(), interrupt_at: int = 99):
        self.learned, self.fitted, self.asked_to_relax = [], [], []
        self.fresh, self.interrupt_at = fresh, interrupt_at
        predictor = Predictor(("energy", "gap"), (-1.0, 1.5), (0.5, 2.0), None, None, 4, None, limit=4.0)
        self.tools = rounds.Tools(
            GOALS, self.propose, None, predictor, Surrogate(self.fit, None), {2: 1, 3: 2}, np.zeros(0, np.float32),
            self.relax, self.inspect, self.judge, known, 2,
        )  # fmt: skip

    def fit(self, key, features, change):
        self.fitted.append(np.asarray(change))
        return {"nothing": np.zeros(1, np.float32)}

    def propose(self, params, heads, key, template, condition, learned) -> Proposal:
        self.learned.append(learned)
        seed = np.asarray(jax.random.key_data(key)) if self.fresh else 0
        return proposal(np.random.default_rng(seed), template)

    def relax(self, crystals, progress) -> Relaxed:
        self.asked_to_relax.append(len(crystals))
        if len(self.asked_to_relax) > self.interrupt_at:
            raise KeyboardInterrupt
        m = len(crystals)
        reason = np.array(["atoms too close" if i % 4 == 3 else "" for i in range(m)], "<U80")
        smaller = replace(crystals, lattice=crystals.lattice * np.float32(0.98))
        force = np.full(m, 0.01, np.float32)
        return Relaxed(smaller, np.arange(m, dtype=np.float32) - 5, force, np.full(m, 7), reason)

    def inspect(self, crystals) -> Inspected:
        """Crystals of magnesium alone fall in on themselves."""
        fused = np.array([set(entry.numbers.tolist()) == {12} for entry in datasets.entries(crystals)], bool)
        return Inspected(
            np.where(fused, "sites too close after relaxation", ""), {"closeness": np.where(fused, 0.4, 1)}
        )

    def judge(self, crystals, energy) -> Judged:
        value = true_values(crystals)
        return Judged(value, np.full_like(value, 0.2), value[:, 0] < 2.5, novelty=2 * value[:, 0])

    def run(self, folder, plan=PLAN, resume=True):
        return rounds.run(plan, self.tools, folder, resume=resume, progress=lambda *_: None)


def at(rows, stage: str, number: int | None = None) -> list:
    return [row for row in rows if row.stage == stage and number in (None, row.round)]


def test_the_budget_is_spread_over_the_rounds(tmp_path):
    world = World()
    outcomes = world.run(tmp_path)
    rows = ledger.read(tmp_path / "ledger.jsonl")
    assert world.asked_to_relax == [3, 2, 2]
    for number, share in enumerate((3, 2, 2)):
        assert len(at(rows, "sampled", number)) == 12
        assert sum(row.valid for row in at(rows, "selected", number)) == share == len(at(rows, "relaxed", number))
    assert {row.reason for row in at(rows, "selected") if not row.valid} == {"outside the budget"}
    assert outcomes.rounds == 3 and outcomes.calls["potential"] == 7 * 7
    assert outcomes.calls["generator"] == 3 * 12 * 2 and outcomes.calls["heads"] == 72 + len(at(rows, "validated"))


def test_how_far_each_candidate_is_stands_in_its_rows(tmp_path):
    """Scored: the novelty is the cell's edge, which is 10 less the worth. Validated: twice the gap. The limit is 4."""
    World().run(tmp_path)
    rows = ledger.read(tmp_path / "ledger.jsonl")
    worth = {row.candidate: row.value for row in at(rows, "selected")}
    for row in at(rows, "scored"):
        assert row.notes["novelty"] == pytest.approx(10 - worth[row.candidate], abs=1e-5)
    for row in at(rows, "validated"):
        assert row.notes["novelty"] == pytest.approx(2 * row.properties["gap"][0], abs=1e-5)
    both = at(rows, "scored") + at(rows, "validated")
    assert all(row.notes["outside"] == (row.notes["novelty"] > 4) for row in both)
    assert len({row.notes["outside"] for row in both}) == 2


def test_what_is_worth_most_is_chosen(tmp_path):
    World().run(tmp_path)
    rows = ledger.read(tmp_path / "ledger.jsonl")
    for number in range(3):
        ranked = sorted(at(rows, "selected", number), key=lambda row: -row.value)
        chosen = [row.valid for row in ranked]
        assert chosen == sorted(chosen, reverse=True)  # features lie far apart, so diversity has no say
    assert {row.reason for row in at(rows, "screened") if row.value < 3.5} == {"sites too close"}
    assert {row.reason[:7] for row in at(rows, "screened") if row.value > 3.5} <= {"", "equals "}


def test_what_looks_alike_is_not_chosen_twice():
    features = np.array([[0, 0], [0, 0], [5, 0], [0, 5]], np.float32)
    said = proposal(np.random.default_rng(0), _template(4))._replace(
        worth=np.array([4.0, 3.9, 2.0, 1.0], np.float32), features=features
    )
    plan = replace(PLAN, validations=6)
    assert sorted(rounds.select(plan, 0, said, np.arange(4)).tolist()) == [0, 2]  # two per round
    assert rounds.select(plan, 0, said, np.array([3])).tolist() == [3]
    assert rounds.select(plan, 0, said, np.zeros(0, int)).tolist() == []


def _template(crystals: int):
    shape = batching.capacity(np.full(crystals, 2), 8)
    return batching.pack_rows(sampling.blank(np.full(crystals, 2)), np.arange(crystals), shape)


def test_failures_after_relaxation_are_in_the_ledger_and_nowhere_else(tmp_path):
    plan = replace(PLAN, validations=12, rounds=1)
    outcomes = World().run(tmp_path, plan)
    rows = ledger.read(tmp_path / "ledger.jsonl")
    relaxed, validated = at(rows, "relaxed"), at(rows, "validated")
    assert [row.reason for row in relaxed if not row.valid] == ["atoms too close"] * (len(relaxed) // 4) != []
    assert {row.reason for row in validated if not row.valid} == {"no value"}
    assert outcomes.crystals.ids.tolist() == [row.candidate for row in validated if row.valid]
    np.testing.assert_allclose(outcomes.validated, true_values(outcomes.crystals), rtol=1e-6)
    known = {row.candidate: row for row in relaxed}
    assert [known[i].value for i in outcomes.crystals.ids] == outcomes.energy.tolist()
    for row in validated:
        assert row.value == pytest.approx(sum(targets.misses(GOALS, values(row))) + values(row)[1] / 0.5, rel=1e-5)


def test_what_a_relaxation_broke_is_named_and_is_no_candidate(tmp_path):
    plan = replace(PLAN, validations=36, rounds=3, elements=("O", "Mg"))
    outcomes = World().run(tmp_path, plan)
    rows = ledger.read(tmp_path / "ledger.jsonl")
    fused = [row for row in at(rows, "validated") if row.reason == "sites too close after relaxation"]
    assert fused and all(row.p_hit is None and row.notes["closeness"] == 0.4 for row in fused)
    assert not {row.candidate for row in fused} & set(outcomes.crystals.ids.tolist())
    assert all(set(entry.numbers.tolist()) != {12} for entry in datasets.entries(outcomes.crystals))


def test_rows_carry_the_probability_of_a_hit(tmp_path):
    World().run(tmp_path)
    rows = ledger.read(tmp_path / "ledger.jsonl")
    for row in at(rows, "scored") + at(rows, "validated"):
        if row.valid:
            found = targets.hit_probability(GOALS, values(row), np.array([row.properties[n][1] for n in GOALS.names]))
            assert row.p_hit == pytest.approx(float(found), abs=1e-5)
    assert all(0 <= row.notes["p_hit_by_heads"] <= 1 for row in at(rows, "scored"))
    assert {row.notes["effective_particles"] for row in at(rows, "sampled")} <= {float(f"{n:.7g}") for n in PARTICLES}
    assert all(row.p_hit is None for row in rows if row.stage not in ("scored", "validated"))


def values(row) -> np.ndarray:
    return np.array([row.properties[name][0] for name in GOALS.names], np.float32)


def test_the_surrogate_learns_what_validation_changed(tmp_path):
    world = World()
    outcomes = world.run(tmp_path)
    rows = ledger.read(tmp_path / "ledger.jsonl")
    known = np.array([sum(row.valid for row in at(rows, "validated") if row.round < k) for k in range(3)])
    assert known[-1] >= 4 > known[1]
    fitted = np.stack(world.fitted).reshape(3, 2, 7)  # a round, a target, a row of the budget
    for k, m in enumerate(known):
        expected = ((outcomes.validated - outcomes.raw) / np.float32(0.1))[:m].T  # in units of what the heads said
        np.testing.assert_array_equal(fitted[k, :, :m], expected)
        assert np.isnan(fitted[k, :, m:]).all()
    learned = list({id(one): one for one in world.learned}.values())  # one per round, shared by its packs
    assert [float(one.trust) for one in learned] == [0, 0, 1]
    gap, energy = outcomes.validated.T
    for k, m in enumerate(known):
        inside = energy[:m][(gap[:m] >= 1) & (gap[:m] <= 2)] / 0.5
        best = inside.min() if len(inside) else -1.0 / 0.5  # without one, the mean of the training data
        assert float(learned[k].best) == pytest.approx(best)


def test_nothing_is_validated_twice(tmp_path):
    """The same twelve crystals again and again: those that were not validated yet may come back, the others not."""
    World(fresh=False).run(tmp_path)
    rows = ledger.read(tmp_path / "ledger.jsonl")
    passed, validated = set(), set()
    for row in rows:
        if row.stage == "screened" and row.reason.startswith("equals "):
            first = row.reason.removeprefix("equals ")
            assert first in validated or (first in passed and first.startswith(f"{row.round}-"))
        passed |= {row.candidate} if row.stage == "screened" and row.valid else set()
        validated |= {row.candidate} if row.stage == "validated" and row.valid else set()
    again = [row.reason.removeprefix("equals ") for row in at(rows, "screened") if "equals" in row.reason]
    assert set(again) & {i for i in validated if i.startswith("0-")}


def test_known_compositions_are_left_out(tmp_path):
    World().run(tmp_path / "a", replace(PLAN, rounds=1))
    drawn = World()
    said = rounds.draw(PLAN, drawn.tools, _draw_key(), 0, None, lambda *_: None)
    of = {i: formula(e.numbers) for i, e in zip(said.crystals.ids, datasets.entries(said.crystals))}
    good = [row.candidate for row in at(ledger.read(tmp_path / "a" / "ledger.jsonl"), "screened") if row.valid]
    known = frozenset({of[good[0]]})
    World(known=known).run(tmp_path / "b", replace(PLAN, rounds=1))
    rows = {row.candidate: row for row in at(ledger.read(tmp_path / "b" / "ledger.jsonl"), "screened")}
    assert rows[good[0]].reason == "composition is known already"
    assert all(rows[i].valid == (of[i] not in known) for i in good)


def _draw_key():
    """The key that the first round draws with."""
    return jax.random.split(jax.random.fold_in(jax.random.key(PLAN.seed), 0))[1]


def test_ids_sizes_and_elements_are_those_that_were_asked_for(tmp_path):
    drawn = rounds.draw(PLAN, World().tools, _draw_key(), 5, None, lambda *_: None)
    assert drawn.crystals.ids.tolist() == [f"5-{i:04d}" for i in range(12)]
    assert set(drawn.crystals.num_atoms.tolist()) == {2, 3}
    assert set(drawn.crystals.numbers.tolist()) <= set(PLAN.numbers)
    cell = drawn.crystals.lattice[:, 0, 0]
    np.testing.assert_array_equal(cell, drawn.proposal.gated.distance_angstrom)  # rows of one crystal stay together
    assert len(set(cell.tolist())) == 12
    small = rounds.draw(replace(PLAN, max_atoms=2), World().tools, _draw_key(), 0, None, lambda *_: None)
    assert set(small.crystals.num_atoms.tolist()) == {2}


def everything(folder) -> tuple:
    arrays, meta = store.load_state(folder / "state.npz")
    return (folder / "ledger.jsonl").read_bytes(), {k: v.tobytes() for k, v in arrays.items()}, meta["calls"]


@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_interrupted_campaign_goes_on_exactly(after, tmp_path):
    World().run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        World(interrupt_at=after).run(tmp_path / "parts")
    half = ledger.read(tmp_path / "parts" / "ledger.jsonl")
    assert Counter(row.stage for row in half if row.round == after)["selected"] > 0  # the round had begun
    world = World()
    world.run(tmp_path / "parts")
    assert len(world.asked_to_relax) == 3 - after
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")


def test_beginning_again_forgets_the_former_state_first(tmp_path):
    World().run(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        World(interrupt_at=0).run(tmp_path, resume=False)
    assert not (tmp_path / "state.npz").exists()
    assert {row.round for row in ledger.read(tmp_path / "ledger.jsonl")} == {0}


def test_another_plan_is_refused_and_nothing_is_touched(tmp_path):
    World().run(tmp_path)
    before = everything(tmp_path)
    with pytest.raises(ValueError, match="this campaign began with candidates = 12, the plan now says 13"):
        World().run(tmp_path, replace(PLAN, candidates=13))
    assert everything(tmp_path) == before


def test_a_campaign_without_survivors_ends(tmp_path):
    world = World(known=frozenset({"O"}))
    outcomes = world.run(tmp_path, replace(PLAN, elements=("O",)))
    rows = ledger.read(tmp_path / "ledger.jsonl")
    assert outcomes.rounds == 3 and outcomes.crystals is None and len(outcomes.energy) == 0
    assert not at(rows, "scored") and world.asked_to_relax == [0, 0, 0]
    assert {row.reason for row in at(rows, "screened")} == {"sites too close", "composition is known already"}
