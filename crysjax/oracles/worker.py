"""What runs inside a worker process: one ASE calculator, asked about one crystal after another.

It imports neither JAX nor the package's types, so that a worker starts quickly and its memory is the calculator's.
Messages are plain dicts of numbers, text and NumPy arrays. Whatever a calculator prints goes to a pipe.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ase import Atoms


def main(descriptor: int) -> None:
    """Make the calculator that the first message asks for, say whether that worked, and answer until the end."""
    os.set_inheritable(descriptor, False)  # the calculator's own programs must not hold the channel open
    channel = Connection(descriptor)
    requests: SimpleQueue = SimpleQueue()
    threading.Thread(target=_listen, args=(channel, requests, Path.cwd().parent), daemon=True).start()
    calculator, reason = _made(requests.get())
    channel.send({"reason": reason})
    while not reason:
        channel.send(_in_own_folder(calculator, requests.get()))


def _listen(channel: Connection, requests: SimpleQueue, scratch: Path) -> None:
    """Hand on what the parent says; when it is gone, nobody waits for this process, its children and its files."""
    try:
        while True:
            requests.put(channel.recv())
    except (EOFError, OSError):
        shutil.rmtree(scratch, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGKILL)  # the supervisor ends what this process started


def _made(request: bytes) -> tuple[Any, str]:
    try:
        make, settings = pickle.loads(request)  # the parent's own words
        return resolved(make)(**settings), ""
    except BaseException as error:
        return None, said(error)


def resolved(make: str | Callable) -> Callable:
    """The factory itself: a callable, `module:name`, or `file.py:name`."""
    if callable(make):
        return make
    place, _, name = make.rpartition(":")
    if place.endswith(".py"):
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    return getattr(module, name)


def said(error: BaseException) -> str:
    """An exception as one short line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}"[:300] if words else type(error).__name__


def _in_own_folder(calculator: Any, request: dict) -> dict:
    """The answer, with every file that the calculator writes where it is cleared away; an exception is an answer."""
    home = Path.cwd()
    with tempfile.TemporaryDirectory(dir=home, ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        try:
            return answer(calculator, **request)
        except BaseException as error:  # it is somebody else's program
            return {"reason": said(error)}
        finally:
            os.chdir(home)


def answer(
    calculator: Any, numbers: np.ndarray, frac: np.ndarray, lattice: np.ndarray, derivatives: bool, relax: dict | None
) -> dict:
    """Energy (eV) of one periodic crystal; with `derivatives` forces (eV/Å) and stress (eV/Å³); relaxed if asked.

    The calculator begins afresh, so that an answer does not depend on which crystals came before.
    """
    from ase import Atoms

    getattr(calculator, "reset", lambda: None)()
    atoms = Atoms(numbers, scaled_positions=frac, cell=lattice, pbc=True, calculator=calculator)
    if relax and (reason := wrong({"forces": atoms.get_forces()}, len(numbers))):
        return {"reason": reason}  # one row for all atoms would move them all, and nobody would notice
    motion = relaxed(atoms, **relax) if relax else {"reason": "", "steps": 1}
    found = {"energy": float(atoms.get_potential_energy())}
    if derivatives:
        found |= {"forces": np.array(atoms.get_forces()), "stress": np.array(atoms.get_stress(voigt=False))}
    found |= motion | {"frac": atoms.get_scaled_positions(wrap=False), "lattice": atoms.cell.array.copy()}
    reason = wrong(found, len(numbers))
    return {"reason": reason} if reason else found


def wrong(found: dict, sites: int) -> str:
    """Why an answer about so many sites is none, "" where all its numbers are real, finite and of the right shape."""
    shapes = {"energy": (), "forces": (sites, 3), "stress": (3, 3), "frac": (sites, 3), "lattice": (3, 3)}
    arrays = {name: np.asarray(found[name]) for name in shapes if name in found}
    for name, array in arrays.items():
        if array.dtype.kind not in "iuf" or array.shape != shapes[name]:
            return f"{name} of shape {array.shape} and type {array.dtype}, expected {shapes[name]} real numbers"
    strange = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    return f"{' and '.join(strange)} not finite" if strange else ""


def relaxed(atoms: Atoms, fmax: float, steps: int, move_cell: bool) -> dict:
    """Move positions, and the cell, downhill by FIRE (Bitzek et al. 2006) on ASE's Frechet cell filter."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import FIRE

    moving = FrechetCellFilter(atoms) if move_cell else atoms
    optimizer = FIRE(moving, logfile=None)
    done = optimizer.run(fmax=fmax, steps=steps)
    left = float(np.linalg.norm(moving.get_forces(), axis=1).max())
    reason = "" if done else f"not relaxed in {steps} steps: a force of {left:.3g} eV/Å is left"
    return {"reason": reason, "steps": int(optimizer.nsteps) + 1}
