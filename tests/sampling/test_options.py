"""Options of every crystal: values of a wrong type are one line that names the option, NumPy's are as Python's."""

import numpy as np
import pytest

from crysjax.data.readers import limits
from crysjax.sampling.options import Options, as_keys, formula_counts, unified

ALL = {"elements": ["all"]}
WRONG = {
    "no text for a switch": ({"neutral": "no"}, r"^neutral: 'no'; expected true or false$"),
    "a switch for a group": ({"space_group": True}, r"^space_group: True; expected a whole number$"),
    "a group with a point": ({"space_group": 225.0}, r"^space_group: 225\.0; expected a whole number$"),
    "a group as text": ({"space_group": "225"}, r"^space_group: '225'; expected a whole number$"),
    "a distance of none": ({"min_distance": np.nan}, r"^min_distance: nan; expected a finite number$"),
    "a system of several": ({"crystal_system": ["cubic"]}, r"^crystal_system: \['cubic'\]; expected text$"),
    "no formula": ({"formula": None}, r"^formula: None; expected text$"),
    "no elements": ({"elements": None}, r"^elements: None; expected symbols such as Li,Fe, or a list of them$"),
    "a number of elements": ({"require": 3}, r"^require: 3; expected symbols"),
    "a switch for a number": ({"num_elements": True}, r"^num_elements: True; expected a number from 1 to 20"),
    "a switch in a range": ({"num_elements": (1, np.True_)}, r"^num_elements: \[1, True\]; expected a number"),
    "half an element": ({"num_elements": np.float64(2.5)}, r"^num_elements: 2\.5; expected a number"),
    "a density": ({"density_g_cm3": 5.0}, r"^density_g_cm3: 5\.0; expected \[low, high\] in g/cm³"),
    "no density at all": ({"density_g_cm3": (None, 0)}, r"^density_g_cm3: \[None, 0\]; expected \[low, high\]"),
    "upside down": ({"density_g_cm3": (5, 3)}, r"^density_g_cm3: \[5, 3\]; low is not below high; expected \[low"),
    "a switch in a window": ({"density_g_cm3": (True, 5)}, r"^density_g_cm3: \[True, 5\]; expected \[low, high\]"),
    "text in a window": ({"density_g_cm3": ("3", "5")}, r"^density_g_cm3: \['3', '5'\]; expected \[low, high\]"),
    "beyond any float": ({"density_g_cm3": (10**400, None)}, r"^density_g_cm3: \[1000.*; expected \[low, high\]"),
    "5,000 digits": ({"density_g_cm3": (10**5000, None)}, r"^density_g_cm3: a value of more than \d+ digits; expected"),
    "a formula of 5,000 digits": (
        {"formula": "Li" + "9" * 5000}, r"^formula: 'Li9{97}\.\.\.; expected at most \d+ atoms in a unit$"),
    "forbidden and required": (
        ALL | {"forbid": ["O"], "require": ["O"]}, r"^require: O is not .* may occur; expected fewer in forbid$"),
    "in a forbidden list": (
        ALL | {"forbid": ["non-toxic"], "require": ["O"]}, r"^require: O is not .*; expected fewer in forbid$"),
    "in no list": ({"elements": "Li", "require": "O"}, r"^require: O is not .*; expected it in elements$"),
    "in no list and forbidden": (
        {"elements": ["Li", "Pb"], "forbid": ["non-toxic"], "require": ["O"]},
        r"^require: O is not .*; expected it in elements and fewer in forbid$"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_one_line_that_names_its_key(case):
    given, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as caught, as_keys():
        unified(Options(**given))
    assert len(str(caught.value)) < 300


def test_numbers_of_numpy_are_those_of_python():
    given = Options(
        elements=np.array(["Li", "O"]), num_elements=(np.int64(1), np.int32(2)), neutral=np.True_,
        min_distance=np.float32(1.5), density_g_cm3=np.array([3.0, 5.0]),
    )  # fmt: skip
    found = unified(given)
    plain = unified(
        Options(elements="Li,O", num_elements="1:2", neutral=True, min_distance=1.5, density_g_cm3=(3.0, 5.0))
    )
    assert found == plain and repr(found) == repr(plain)
    assert unified(Options(num_elements=np.int64(2))).num_elements == 2
    assert unified(Options(space_group=np.uint8(225))).space_group == 225


def test_a_formula_is_no_larger_than_crystals_that_are_read():
    assert formula_counts(f"Li{limits.SITES}", None) == {3: limits.SITES}
    with pytest.raises(ValueError, match=rf"Li{limits.SITES}O'; expected at most {limits.SITES} atoms in a unit"):
        formula_counts(f"Li{limits.SITES}O", None)
