"""Calculators that misbehave for real; a worker reads this file, so it imports nothing that is slow."""

import ctypes
import os
import signal
import subprocess
import time

import numpy as np
from ase.calculators.calculator import Calculator, all_changes


class Fragile(Calculator):
    """Somebody else's program: what it does depends on the number of atoms. Like EMT it prints."""

    implemented_properties = ["energy"]  # noqa: RUF012 (ASE's own convention)

    def __init__(self, note: str = ""):
        super().__init__()
        self.note = note

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": -3.0}
        print("somebody else's words", flush=True)
        {2: self.hang, 3: self.eat, 4: self.crash, 5: self.leave, 6: self.object, 7: self.guess, 8: self.flaky}.get(
            len(self.atoms), lambda: None
        )()

    def hang(self):
        """With a child in a session of its own, as launchers of parallel programs have."""
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        with open(self.note, "w") as file:
            file.write(f"{os.getpid()} {child.pid}")
        time.sleep(600)

    def eat(self):
        held = []
        while len(held) < 40:  # of 50 MB, at most 2 GB
            held.append(np.ones(50_000_000 // 8))
            time.sleep(0.02)

    def crash(self):
        ctypes.string_at(0)

    def leave(self):
        os._exit(7)

    def object(self):
        raise ZeroDivisionError("no such\nelement")

    def guess(self):
        self.results["energy"] = np.nan

    def flaky(self):
        """Fails the first time that anybody asks."""
        if not os.path.exists(self.note):
            open(self.note, "w").close()
            os.kill(os.getpid(), signal.SIGSEGV)


def unmakeable(hint: str):
    raise ImportError(hint)
