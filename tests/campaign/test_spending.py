"""Validations by round, and what is said of those that are left."""

from crysjax.campaign import spending
from crysjax.evaluation.ledger import Row


def selected(number: int, count: int) -> list[Row]:
    return [Row(f"{number}-{k}", "selected", number, 0, "", None, None, "", True, 0.0) for k in range(count)]


def test_what_a_round_leaves_is_said():
    assert [spending.share(7, 3, number) for number in range(3)] == [3, 2, 2]
    assert spending.unspent(4, 2, selected(0, 2) + selected(1, 9)) == ""
    assert spending.unspent(4, 2, selected(0, 4) + selected(1, 1)) == (
        "1 of 4 validations unspent, for want of candidates: round 2 had 1 for 2; 2 candidates of other rounds "
        "exceeded their share, and none is carried over"
    )
    assert spending.unspent(2, 1, []) == "2 of 2 validations unspent, for want of candidates: round 1 had 0 for 2"
