"""The table of keys is made of the signatures, and holds every key that a plan may have."""

from dataclasses import fields

import pytest

from crysjax.campaign import choices, screens
from crysjax.campaign.keys import described, keys, table
from crysjax.campaign.plan import Plan


def test_every_key_and_every_setting_of_every_choice_is_there_with_a_meaning():
    found = keys()
    names = {key.name for key in found}
    assert {one.name for one in fields(Plan)} - {"settings"} <= names
    for key in (*choices.CHOICES, *choices.SECTIONS):
        for factory in choices.factories(key):
            assert {f"{key}.{inner}" for inner in choices.defaults(factory)} <= names
    assert all(key.meaning.endswith(".") and key.type and key.default for key in found)


@pytest.mark.parametrize("key", [*choices.CHOICES, *choices.SECTIONS])
def test_docstrings_speak_of_what_the_signature_has(key):
    for factory in choices.factories(key):
        assert described(factory).keys() == choices.defaults(factory).keys()
    assert described(Plan).keys() == {one.name for one in fields(Plan)}


def test_defaults_and_types_are_those_of_the_signature():
    rows = {key.name: key for key in keys() if key.name != "surrogate.steps"}
    assert rows["target"].default == "required" and rows["max_atoms"][1:3] == ("a whole number", "12")
    assert rows["gates"].default == "[apart, dense, neutral]"
    assert rows["guidance"].type == "one of " + ", ".join(choices.CHOICES["guidance"])
    assert rows["gates"].type == "some of " + ", ".join(screens.NAMES)
    assert rows["surrogate.kernel"][1:3] == ("one of matern52, rbf", "matern52")
    assert rows["density_g_cm3"].type == "a list of numbers, null for none"
    steps = [key.meaning.split(":")[0] for key in keys() if key.name == "surrogate.steps"]
    assert steps == ["gp", "deep_ensemble"]
    assert "\nguidance.rate: 0.02   (a number)\n    gradient, sgld, psgld: step size of the search." in table()
