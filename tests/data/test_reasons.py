"""Codes of reasons: every sentence that the package says has one of its own, whatever its numbers and names."""

import ast
import inspect
from dataclasses import replace

import numpy as np
import pytest

from crysjax.campaign import round as rounds
from crysjax.data import datasets, reasons
from crysjax.evaluation import gates, stability, stages
from crysjax.physics.elasticity import mechanics
from crysjax.potentials import mlip
from crysjax.potentials.pool import Pool
from crysjax.potentials.relax import Relax

FOUND = [
    ("equals 0-0017", "repeated"),
    ("equals a crystal of train, reference", "known"),
    ("sites too close: Na 1 and Cl 2 at 0.8 Å", "too_close"),
    ("atoms closer than 0.7 Å", "too_close"),
    ("volume per atom out of range (after relaxation)", "volume_out_of_range"),
    ("not relaxed in 200 steps: a force of 0.3 eV/Å is left", "not_converged"),
    ("not at rest after 400 steps, 0.1 eV/Å left", "not_converged"),
    ("ions in a position that is no minimum (soft internal modes); none of 6 displaced cells relaxed", "soft_modes"),
    ("no answer within 600 s", "out_of_limits"),
    ("band_gap_ev outside 1 to 2", "off_target"),
    ("the known crystal with Na to K, RMS 0.010", "substitution"),
    ("it is the known crystal in 4 cells with displaced sites, its symmetry a part of the other's", "distortion"),
    ("", ""),
    ("something that nobody has said before", reasons.OTHER),
    ("equalsx", reasons.OTHER),
]


@pytest.mark.parametrize(("said", "code"), FOUND)
def test_a_sentence_has_its_code(said, code):
    assert reasons.code(said) == code


def test_no_code_takes_the_sentences_of_another():
    for code, sentences in reasons.SENTENCES.items():
        for sentence in sentences:
            assert reasons.code(sentence.format(*"4567")) == code, sentence


def test_codes_of_many_are_text():
    found = reasons.codes(np.array(["", "no value", "equals a"]))
    assert found.tolist() == ["", "no_value", "repeated"] and found.dtype.kind == "U"
    assert reasons.codes([]).shape == (0,)


def test_gates_potentials_and_elasticity_say_what_is_known():
    said = [*gates.SAID.values(), mlip.unknown((8,), (11, 17)), *filter(None, mechanics.REASONS)]
    assert reasons.OTHER not in reasons.codes(said)


@pytest.mark.parametrize(
    ("above", "why", "believed", "alone", "sure", "code"),
    [
        (0.5, "", True, False, True, "above_hull"),
        (-0.5, "", False, False, True, "not_believed"),
        (0.01, "", True, False, False, "error_exceeds_margin"),
        (np.nan, "no entry of Po in the hull", False, False, False, "no_hull_entry"),
        (np.nan, "the energy is not finite", False, False, False, "no_energy"),
        (0.0, "", False, True, True, "no_hull_compound"),
    ],
)
def test_what_the_hull_says(above, why, believed, alone, sure, code):
    assert reasons.code(stability._reason(above, why, 0.5, believed, alone, sure)) == code


def test_every_fault_of_a_geometry_has_its_code():
    def cube(edge: float, count: int = 1, z: int = 14) -> datasets.Entry:
        frac = np.linspace(0, 0.5, count)[:, None] * np.ones(3)
        return datasets.Entry("x", np.full(count, z, np.uint8), frac, np.eye(3) * edge, {}, {})

    flat = cube(4)._replace(lattice=np.diag([30, 30, 0.1]))
    long = cube(4)._replace(lattice=np.diag([0.6, 0.6, 80]))
    rows = [cube(9), flat, long, cube(4, 2)._replace(frac=np.array([[0, 0, 0], [0.05, 0, 0]]))]
    said = stages.valid(datasets.from_entries([row._replace(id=str(i)) for i, row in enumerate(rows)]))
    assert said.code.tolist() == ["volume_out_of_range", "flat_cell", "long_cell", "too_close"]


def test_every_way_in_which_a_relaxation_breaks_has_its_code():
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    one = datasets.from_entries([datasets.Entry("x", np.array([14, 14], np.uint8), frac, np.eye(3) * 4.0, {}, {})])
    pool = Pool(one, Relax(), 5.0)
    given, nan = pool.crystals, np.full((1, 3, 3), np.nan, np.float32)
    close = np.array([[0, 0, 0], [0.05, 0, 0]], np.float32)
    states = {
        "not_finite": replace(given, lattice=nan),
        "volume_ran_away": replace(given, lattice=given.lattice * 30),
        "too_close": replace(given, frac=close),
        "no_energy": given,
    }
    for code, state in states.items():
        pool.crystals = state
        assert reasons.code(pool._why(0)) == code


def test_every_sentence_of_a_round_is_known():
    """Constants that stand where "" is a pass: `np.where(good, "", "...")` and `why[...] = "..."`."""
    said = []
    for node in ast.walk(ast.parse(inspect.getsource(rounds))):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.where" and ast.unparse(node.args[1]) == "''":
            said.append(node.args[2].value)
        if isinstance(node, ast.Assign) and "why[" in ast.unparse(node.targets[0]):
            said += [node.value.value] if isinstance(node.value, ast.Constant) else []
    assert len(said) >= 4 and reasons.OTHER not in reasons.codes(said)
