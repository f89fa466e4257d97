"""The ledger: one JSON line per candidate and stage, failures included, appended while a campaign runs.

A candidate enters a stage only after it passed the one before, which `append` checks: the numbers of candidates
therefore never grow along the stages. A crash may cut the last line short; reading leaves such a line out, and only
such a line.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from crysjax.data import files
from crysjax.data.readers import reading
from crysjax.data.reasons import code

STAGES = ("sampled", "screened", "scored", "selected", "relaxed", "validated")
"""In the order of a round: drawn, passed the gates, predicted, within the budget, relaxed, judged after relaxation."""

TWIN = "equals another candidate"
"""What reasons "equals ID" count as."""


COST = "cost_seconds"
"""What a ledger calls `Row.cost`."""


class Row(NamedTuple):
    """What one stage said of one candidate."""

    candidate: str
    stage: str
    round: int
    seed: int
    quantity: str  # what `value` is
    value: float | None  # None: the stage gave none
    std: float | None  # None: the stage knows no uncertainty
    unit: str
    valid: bool  # passed this stage
    cost: float  # seconds of the oracle asked, by its price
    reason: str = ""  # why not valid
    properties: dict[str, list] = {}  # noqa: RUF012  # further quantities: name -> [value, std]; never written to
    p_hit: float | None = None  # probability of lying in every window, by value and std; None: not asked, or no window
    notes: dict[str, float | bool | str | None] = {}  # noqa: RUF012  # what else was found; never written to
    code: str = ""  # of the reason, see `data.reasons`


def line(row: Row) -> str:
    """The JSON line of a row; what is not finite becomes null."""
    said = {COST if name == "cost" else name: _plain(value) for name, value in row._asdict().items()}
    return json.dumps(said, allow_nan=False) + "\n"


def _row(text: bytes) -> Row:
    """The row of a line; older ledgers name the cost without its unit."""
    found = reading.parse_json(text)
    return Row(**{"cost" if name == COST else name: value for name, value in found.items()})


def _plain(value):
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def append(path: str | Path, rows: Iterable[Row], passed: dict[str, int]) -> dict[str, int]:
    """Write rows and make sure that they are on the disk.

    `passed` maps each candidate to the number of stages it has passed (see `passed_stages`; start with an empty one);
    the updated map is returned. A row out of turn is an error and nothing is written.
    """
    rows, passed = list(rows), dict(passed)
    for row in rows:
        _advance(passed, row)
    with files.naming(path), Path(path).open("a", encoding="utf-8") as file:
        file.writelines(map(line, rows))
        file.flush()
        os.fsync(file.fileno())
    return passed


def _advance(passed: dict[str, int], row: Row) -> None:
    if row.stage not in STAGES:
        raise ValueError(f"ledger: stage {row.stage!r} is not one of {', '.join(STAGES)}")
    done = passed.get(row.candidate, 0)
    if done != STAGES.index(row.stage):
        said = f"has passed {done} stages" if done >= 0 else "failed an earlier stage"
        raise ValueError(f"ledger: candidate {row.candidate} {said} and cannot enter {row.stage!r}")
    passed[row.candidate] = done + 1 if row.valid else -1


def passed_stages(rows: Iterable[Row]) -> dict[str, int]:
    """How many stages each candidate has passed, -1 for those that failed one."""
    passed: dict[str, int] = {}
    for row in rows:
        _advance(passed, row)
    return passed


def read(path: str | Path) -> list[Row]:
    """All complete rows of a ledger; none if there is no file."""
    path = Path(path)
    if not path.exists():
        return []
    *complete, _ = reading.read_bytes(path).split(b"\n")  # a line without its end was cut short by a crash
    rows = []
    for number, text in enumerate(complete, start=1):
        try:
            rows.append(_row(text))
        except (AttributeError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: line {number} is not a row of a ledger ({error})") from None
    return rows


def seal(path: str | Path) -> dict[str, int | str]:
    """Size and SHA-256 of a ledger as it is, for `check`."""
    written = reading.read_bytes(path)
    return {"bytes": len(written), "sha256": hashlib.sha256(written).hexdigest()}


def check(path: str | Path, rounds: int, sealed: dict | None) -> None:
    """An error unless the ledger holds these finished rounds as they were when it was sealed; more may follow.

    Without a seal, of a campaign of an older version, there must be rows of each round.
    """
    found = {row.round for row in read(path)}
    written = reading.read_bytes(path) if Path(path).exists() else b""
    said = sealed and hashlib.sha256(written[: sealed["bytes"]]).hexdigest()
    if not set(range(rounds)) <= found or (sealed and said != sealed["sha256"]):
        raise ValueError(
            f"{path}: cut short, changed or missing since round {rounds} was finished; put the former one back, or "
            "start again with --no-resume"
        )


def keep_rounds(path: str | Path, rounds: int) -> list[Row]:
    """Leave out the rows of rounds that did not finish, `rounds` and later; a crash leaves the old file whole.

    Lines stay as they were written, by whatever version: the state knows their digest.
    """
    rows, written = read(path), reading.read_bytes(path) if Path(path).exists() else b""
    lines = [text for text, row in zip(written.split(b"\n"), rows) if row.round < rounds]
    files.write(path, b"".join(text + b"\n" for text in lines))
    return [row for row in rows if row.round < rounds]


def counts(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """Stage -> candidates that entered and that passed, in the order of the stages."""
    found = {stage: {"entered": 0, "passed": 0} for stage in STAGES}
    for row in rows:
        found[row.stage]["entered"] += 1
        found[row.stage]["passed"] += bool(row.valid)
    return found


def reasons(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """Stage -> reason -> how many candidates failed for it, the most frequent first."""
    found: dict[str, dict[str, int]] = {stage: {} for stage in STAGES}
    for row in rows:
        if not row.valid:
            why = TWIN if row.reason.startswith("equals ") else row.reason
            found[row.stage][why] = found[row.stage].get(why, 0) + 1
    return {stage: dict(sorted(why.items(), key=lambda item: -item[1])) for stage, why in found.items()}


def codes(rows: Iterable[Row]) -> dict[str, dict[str, int]]:
    """Stage -> code of the reason -> how many candidates failed for it, the most frequent first."""
    found = {stage: Counter() for stage in STAGES}
    for row in rows:
        if not row.valid:
            found[row.stage][row.code or code(row.reason)] += 1
    return {stage: dict(counted.most_common()) for stage, counted in found.items()}
