"""How `crysjax sample` draws: temperatures, defaults of shipped models, crowded samples, groups that a size lacks."""

import json
import shutil

import numpy as np
import pytest

from crysjax.campaign.assemble import assemble
from crysjax.campaign.plan import read_plan
from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.models import registry
from crysjax.sampling import defaults as drawing
from crysjax.sampling import space_groups

WYCKOFF = {"settings": {"family": "wyckoff"}}
FLOW = {"settings": {"species": "discrete"}}


def test_a_temperature_goes_to_what_the_family_draws(tmp_path):
    assert drawing.settings(tmp_path, WYCKOFF, "m", 0.25, True) == {"generator.temperature": 0.25}
    assert drawing.settings(tmp_path, FLOW, "m", 0.5, False) == {"species.temperature": 0.5}
    with pytest.raises(ValueError, match="--temperature: m draws nothing"):
        drawing.settings(tmp_path, {"settings": {"species": "simplex"}}, "m", 0.5, False)


def test_shipped_models_have_the_defaults_that_were_measured():
    """The retrieval of the README's match rate at 0.25, and three elements per crystal in free samples."""
    found = {}
    for name in ("mp_20_wyckoff", "mp_20_generator"):
        path = registry.model_path(name)
        config = registry.read_config(path, "generator")
        found[name] = [drawing.settings(path, config, name, None, like) for like in (False, True)]
        for given in found[name]:
            assert set(given) <= {drawing.temperature_key(config, name)}
    assert found["mp_20_wyckoff"] == [{}, {"generator.temperature": 0.25}]
    assert found["mp_20_generator"] == [{"species.temperature": 0.35}, {}]


def test_a_default_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "sampling.json").write_text(json.dumps({"free": 3}))
    with pytest.raises(ValueError, match=r"sampling\.json: expected free and like"):
        drawing.settings(tmp_path / "m.npz", FLOW, "m", None, False)


def test_every_command_draws_by_the_same_defaults(crysjax, world, write, tmp_path, monkeypatch):
    """The real builder, asked what it was given."""
    model, given = tmp_path / "m.npz", []
    shutil.copy(world.generator, model)
    (tmp_path / "sampling.json").write_text(
        json.dumps({"free": {"species.temperature": 0.5}, "like": {"species.temperature": 0.25}})
    )
    build = registry.BUILDERS["generator"]
    monkeypatch.setitem(
        registry.BUILDERS, "generator", lambda s: given.append(s.get("species.temperature")) or build(s)
    )
    assert crysjax("sample", model, "-n", 2, "--steps", 1, "--out", tmp_path / "s.npz").code == 0
    plan = {"data": str(world.data), "models": {"m": str(model)}, "rows": 2, "steps": [1], "floors": []}
    answer = crysjax("compare", write(tmp_path / "plan.yaml", plan), "--out", tmp_path / "compared")
    assert answer.code == 0, answer.err
    assemble(read_plan(write(tmp_path / "design.yaml", world.plan(generator=str(model)))))
    drawing.load(str(model), False, {"species.temperature": 2.0})
    assert given == [0.5, 0.25, 0.25, 0.5, 2.0]
    assert f"crysjax: species.temperature 0.25, as measured for {model}\n" in answer.err


def crystals(kinds):
    """Crystals of so many elements each."""
    rows = [
        Entry(f"c{k}", 1 + np.arange(n), np.random.default_rng(k).random((n, 3)), 9 * np.eye(3), {})
        for k, n in enumerate(kinds)
    ]
    return datasets.from_entries(rows)


def test_samples_that_mix_too_many_elements_are_told(capsys):
    drawing.warn_of_crowds(crystals([3] * 9 + [8]))
    assert capsys.readouterr().err == ""
    drawing.warn_of_crowds(crystals([3] * 8 + [8, 9]))
    said = capsys.readouterr().err
    assert "2 of 10 samples have more than 5 elements (median 3)" in said and said.count("\n") == 1


def box(name, edges, atoms):
    """`atoms` equal atoms in a row along c in a box: 221 for one in a cube, 123 for a box that is longer."""
    frac = np.stack([np.zeros(atoms), np.zeros(atoms), np.arange(atoms) / atoms], 1)
    return Entry(name, np.array([11] + [17] * (atoms - 1)), frac, np.diag(np.array(edges, float)), {})


def none(drawn):
    return np.zeros(len(drawn), bool)


def test_a_group_that_a_size_lacks_is_drawn_in_another_size(capsys):
    asked = []

    def draw(rows, again):
        asked.append(len(rows))
        return datasets.from_entries([box(f"s{k}", [4, 4, 4] if k < 3 else [4, 4, 6], 1) for k in rows])

    def resize(rows, again):
        return datasets.from_entries([box(f"r{k}", [4, 4, 7], 2) for k in rows])

    found = space_groups.drawn_again(draw, resize, np.arange(5), (123,), none)
    assert asked == [5, 3, 3, 3, 3]
    assert found.ids.tolist() == [f"s{k}" for k in range(5)] and found.num_atoms.tolist() == [2, 2, 2, 1, 1]
    said = capsys.readouterr().err
    assert said == "crysjax: 3 of 5 samples have other sizes than drawn first, for group 123\n"


def test_what_no_size_has_is_told(capsys):
    cubes = lambda rows, again: datasets.from_entries([box(f"s{k}", [4, 4, 4], 1) for k in rows])  # noqa: E731
    space_groups.drawn_again(cubes, cubes, np.arange(2), (123,), none)
    assert "2 of 2 samples have a larger group than group 123" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf"])
def test_temperatures_are_positive_numbers(one_line, crysjax, world, tmp_path, value):
    answer = crysjax("sample", world.generator, "--out", tmp_path / "s.npz", "--temperature", value)
    one_line(answer, "--temperature .*: expected a (finite number|number above 0)")
