"""Calculators that misbehave for real; a worker reads this file, so it imports nothing that is slow."""

import ctypes
import os
import signal
import subprocess
import sys
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
        {
            2: self.hang, 3: self.eat, 4: self.crash, 5: self.leave, 6: self.object, 7: self.guess, 8: self.flaky,
            10: self.flood, 11: self.write, 12: self.daemon, 13: self.background,
        }.get(len(self.atoms), lambda: None)()  # fmt: skip

    def hang(self):
        """With a child in a session of its own, as launchers of parallel programs have."""
        child = subprocess.Popen(["sleep", "600"], start_new_session=True)
        with open(self.note, "w") as file:
            file.write(f"{os.getpid()} {child.pid}")
        time.sleep(600)

    def flood(self):
        """Two seconds of printing as fast as it goes; whoever prints in full gets 2 GB."""
        end, piece = time.monotonic() + 2, b"x" * 1_000_000 + b"\n"
        while time.monotonic() < end:
            os.write(1, piece)
        print("the last words", flush=True)

    def write(self):
        with open("wavefunctions", "wb") as file:
            for _ in range(2_000):
                file.write(b"x" * 1_000_000)
                file.flush()

    def daemon(self):
        """A program that puts itself into the background: two forks, a session of its own, nobody's child."""
        self.background()
        self.leave()

    def background(self):
        code = (
            "import os, sys, time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n"
            f"open({self.note!r}, 'w').write(str(os.getpid()))\nwhile True: time.sleep(600)"
        )
        subprocess.Popen([sys.executable, "-c", code]).wait()
        while not (os.path.exists(self.note) and os.path.getsize(self.note)):
            time.sleep(0.02)

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


class Misshapen(Calculator):
    """Forces of one row, complex ones, or a stress of text: whatever the settings say."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 (ASE's own convention)

    def __init__(self, **wrong):
        super().__init__()
        self.wrong = wrong

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        good = {"energy": -1.0, "forces": np.zeros((len(self.atoms), 3)), "stress": np.zeros(6)}
        self.results = good | {name: np.array(value) for name, value in self.wrong.items()}


class Busy(Fragile):
    """Holds the interpreter in C, so that no thread of the worker hears anything, with a program in the background."""

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        Calculator.calculate(self, atoms, properties, system_changes)
        mine, self.note = self.note, f"{self.note}.background"
        self.background()
        with open(mine, "w") as file, open(self.note) as other:
            file.write(f"{os.getpid()} {os.getppid()} {other.read()}")
        ctypes.PyDLL(None).sleep(600)  # PyDLL keeps the lock


def unmakeable(hint: str):
    raise ImportError(hint)
