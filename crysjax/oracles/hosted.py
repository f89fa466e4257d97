"""Any ASE calculator as an oracle: in a process of its own, with limits of time and memory, and reasons for failures.

    workplace = host("ase.calculators.emt:EMT", timeout_seconds=60, memory_gb=4)
    answers = workplace.ask(crystals)        # energies, forces, stresses, and why not
    oracle = hosted(workplace)               # the same as an `Oracle`

A crystal on which the calculator hangs, grows too large, crashes, raises or answers what is no number costs itself and
nobody else: a fresh worker goes on with the next one. Nothing here is traced; one crystal is asked after another.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from crysjax.base import GPA_PER_EV_A3, Crystal, Estimate, Oracle
from crysjax.data.datasets import Entry, checked
from crysjax.data.readers import reading
from crysjax.data.readers.convert import as_entry
from crysjax.oracles import worker, worker_process

QUANTITIES: dict[str, tuple[str, Callable[[Answer], float]]] = {
    "energy_per_atom": ("eV/atom", lambda answer: answer.single.energy / len(answer.crystal.numbers)),
    "volume_per_atom": (
        "Å³/atom",
        lambda answer: abs(np.linalg.det(answer.crystal.lattice)) / len(answer.crystal.frac),
    ),
    "max_force": ("eV/Å", lambda answer: np.linalg.norm(answer.single.forces, axis=-1).max()),
    "pressure": ("GPa", lambda answer: -GPA_PER_EV_A3 * np.trace(answer.single.stress) / 3),
}
"""What an oracle can be asked for: its unit, and how it follows from an answer."""


class Single(NamedTuple):
    """What a calculator says of one crystal as it stands."""

    energy: float  # eV
    forces: np.ndarray | None  # (n, 3) eV/Å; None where they were not asked for
    stress: np.ndarray | None  # (3, 3) eV/Å³, dE/dstrain per volume


class HostedRelax(NamedTuple):
    """Relaxation by FIRE before the answer."""

    fmax_ev_angstrom: float = 0.05
    steps: int = 200
    move_cell: bool = True


class Answer(NamedTuple):
    """One crystal's answer. A relaxation that did not converge has a reason, and keeps what it reached."""

    single: Single | None  # None: there is none
    crystal: Entry | None  # what it is about: the given crystal, or the relaxed one
    reason: str  # "" where it worked
    steps: int  # evaluations of the calculator that led to it
    tries: int  # times that the worker was asked; 0: the crystal is none
    seconds: float  # wall time, starts of workers included
    died: bool = False  # the worker ended instead of answering, by the calculator or by a kill


class Host(NamedTuple):
    """A calculator at work. `ask(crystals, done)` calls `done(index, answer)` as soon as each is known."""

    ask: Callable[..., list[Answer]]
    close: Callable[[], None]


class _Limits(NamedTuple):
    timeout_seconds: float
    start_seconds: float
    memory_gb: float | None
    disk_gb: float
    retries: int


def host(
    make: str | Callable[..., Any], *, settings: Mapping[str, Any] | None = None, relax: HostedRelax | None = None,
    derivatives: bool = True, timeout_seconds: float = 600.0, start_seconds: float = 180.0,
    memory_gb: float | None = None, disk_gb: float = worker_process.DISK_GB, retries: int = 0,
) -> Host:  # fmt: skip
    """A worker process that makes the calculator by `make(**settings)` when it is first asked, and then stays.

    `make` is `module:name`, `file.py:name` or a picklable function. With `derivatives` forces and stress are asked
    for too. `timeout_seconds` is for one crystal (a whole relaxation), `start_seconds` for making the calculator,
    `memory_gb` and `disk_gb` for the worker with its children. A crystal on which the calculator raises, crashes or
    answers what is no number is asked again up to `retries` times; what ran out of a limit would do so again and is
    not. Most failures repeat, so there are none unless asked for.

    Raises:
        ValueError: a limit that is none; or, when first asked, a calculator that cannot be made.
    """
    limits = _checked_limits(_Limits(timeout_seconds, start_seconds, memory_gb, disk_gb, retries))
    first = pickle.dumps((absolute(make), dict(settings or {})))
    how = {"derivatives": derivatives, "relax": relax and dict(zip(("fmax", "steps", "move_cell"), relax))}
    working: list[worker_process.Worker] = []
    was_made: list[bool] = []

    def ready() -> worker_process.Worker:
        if not working:
            working.append(worker_process.start(disk_gb=limits.disk_gb))
            said = worker_process.ask(working[0], first, seconds=limits.start_seconds, memory_gb=limits.memory_gb)
            if said["reason"]:
                raise worker_process.Failed(said["reason"])
            was_made.append(True)
        return working[0]

    def close() -> None:
        while working:
            worker_process.stop(working.pop())

    def once(request: dict) -> dict:
        try:
            limit = {"seconds": limits.timeout_seconds, "memory_gb": limits.memory_gb}
            return worker_process.ask(ready(), request, **limit)
        except worker_process.Failed as error:
            close()
            if not was_made:
                raise ValueError(f"the calculator {_name(make)} cannot be made: {error}") from None
            final = isinstance(error, worker_process.OutOfLimits)
            return {"reason": str(error), "final": final, "died": not final}
        except BaseException:  # Ctrl-C: the worker is busy with what nobody waits for
            close()
            raise

    def ask(crystals: Iterable[Crystal | Entry], done: Callable[[int, Answer], None] | None = None) -> list[Answer]:
        answers = []
        for index, crystal in enumerate(crystals):
            answers.append(_answer(once, crystal, how, limits.retries))
            if done is not None:
                done(index, answers[-1])
        return answers

    return Host(ask, close)


def _answer(once: Callable[[dict], dict], crystal: Crystal | Entry, how: dict, retries: int) -> Answer:
    """Ask until there is an answer, or the tries are over."""
    began, tries, said = time.monotonic(), 0, {"reason": ""}
    try:
        entry = _sound(crystal)
    except ValueError as error:
        return Answer(None, None, str(error), 0, 0, 0.0)
    while tries <= retries and not said.get("final"):
        said = _believed(once({"numbers": entry.numbers, "frac": entry.frac, "lattice": entry.lattice} | how), entry)
        tries += 1
        if "energy" in said:
            break
    single = Single(said["energy"], said.get("forces"), said.get("stress")) if "energy" in said else None
    about = None if single is None else Entry(entry.id, entry.numbers, said["frac"], said["lattice"], {})
    took, died = time.monotonic() - began, bool(said.get("died"))
    return Answer(single, about, said["reason"], said.get("steps", 0), tries, took, died)


def _believed(said: Any, entry: Entry) -> dict:
    """What a worker said, if it is an answer about this crystal; else a reason."""
    if not isinstance(said, dict) or not isinstance(said.get("reason"), str):
        return {"reason": f"no answer but a {type(said).__name__}"}
    if "energy" in said and not {"frac", "lattice", "steps"} <= said.keys():
        return {"reason": "an answer that is not whole"}
    reason = worker.wrong(said, len(entry.numbers))
    return {"reason": reason} if reason else said


def _sound(crystal: Crystal | Entry) -> Entry:
    """The crystal as a host entry; one that no calculator could answer for is a ValueError that says why."""
    if isinstance(crystal, Crystal):
        rows = np.asarray(crystal.occupancy)
        vague = (rows.sum(-1) > 0) & (rows.max(-1) <= 0.999 * rows.sum(-1))
        if vague.any():
            raise ValueError(f"slot {int(vague.argmax())} names no single element")
    entry = as_entry(crystal)
    checked(entry)
    return entry


def hosted(
    host: Host, *, name: str = "energy_ev_per_atom", cost: float = 1.0, quantity: str = "energy_per_atom"
) -> Oracle:
    """A host as an `Oracle` of one quantity. `valid` is False where there is a reason; `std` is 0: none is known."""
    if quantity not in QUANTITIES:
        raise ValueError(f"oracle {name}: quantity {quantity!r}; expected one of {', '.join(QUANTITIES)}")
    unit, read = QUANTITIES[quantity]

    def batch(crystals: Crystal) -> Estimate:
        leaves = [np.asarray(leaf) for leaf in crystals]
        answers = host.ask([Crystal(*row) for row in zip(*leaves)])
        values = np.array([0.0 if a.reason else read(a) for a in answers], leaves[-1].dtype)
        return Estimate(jnp.asarray(values), jnp.zeros_like(values), jnp.array([not a.reason for a in answers], bool))

    return Oracle(name, unit, cost, batch)


def _checked_limits(limits: _Limits) -> _Limits:
    for name in ("timeout_seconds", "start_seconds", "memory_gb", "disk_gb"):
        value = getattr(limits, name)
        if value is not None and not 0 < value < 1e9:
            raise ValueError(f"oracle: {name} = {value}, expected more than 0")
    if limits.retries < 0:
        raise ValueError(f"oracle: retries = {limits.retries}, expected 0 or more")
    if limits.memory_gb is not None and not worker_process.can_weigh():
        raise ValueError("oracle: memory_gb needs /proc, which this system does not have; leave it out")
    return limits


def absolute(make: str | Callable[..., Any]) -> str | Callable[..., Any]:
    """`file.py:name` with the file's full path: the worker works in another folder."""
    if not isinstance(make, str):
        return make
    place, colon, name = make.rpartition(":")
    if not (colon and place and name):
        raise ValueError(f"calculator {make!r}: expected module:name or file.py:name")
    if not place.endswith(".py"):
        return make
    if not Path(place).is_file():
        if kind := reading.other_kind(place):
            raise ValueError(f"calculator {make!r}: {place} {kind}; expected a file of Python")
        raise ValueError(f"calculator {make!r}: no such file {place}")
    return f"{Path(place).absolute()}:{name}"


def _name(make: str | Callable[..., Any]) -> str:
    return make if isinstance(make, str) else getattr(make, "__qualname__", repr(make))
