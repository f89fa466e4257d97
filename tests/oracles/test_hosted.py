"""Real calculators in real processes: right answers, and every way to fail that a program has."""

import importlib.util
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import ase.optimize
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.filters import FrechetCellFilter

from crysjax.base import GPA_PER_EV_A3, NUM_SPECIES, Crystal
from crysjax.data.readers.convert import entry_of_atoms, to_atoms
from crysjax.oracles import supervisor, worker, worker_process
from crysjax.oracles.hosted import HostedRelax, host, hosted

EMT_NAME = "ase.calculators.emt:EMT"
FRAGILE = f"{Path(__file__).with_name('fragile.py')}:Fragile"


def crystal(n: int, seed: int = 0) -> Crystal:
    """Copper atoms at random places of a large enough cell."""
    rng = np.random.default_rng((n, seed))
    cell = np.eye(3) * (14 * n) ** (1 / 3) + rng.uniform(-0.3, 0.3, (3, 3))
    return Crystal(np.eye(NUM_SPECIES)[np.full(n, 28)], rng.random((n, 3)), cell)


def stacked(crystals: list[Crystal], slots: int) -> Crystal:
    """Crystals of different size with empty slots at the end, every leaf (m, ...)."""

    def pad(x: np.ndarray) -> np.ndarray:
        return np.pad(x, ((0, slots - len(x)), (0, 0)))

    leaves = zip(*((pad(c.occupancy), pad(c.frac), c.lattice) for c in crystals))
    return Crystal(*(jnp.asarray(np.stack(leaf), jnp.float32) for leaf in leaves))


def by_hand(crystals, calculator):
    found = []
    for one in crystals:
        atoms = to_atoms(one)
        atoms.calc = calculator
        found.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress(voigt=False)))
    return found


@pytest.fixture(scope="module")
def emt():
    made = host(EMT_NAME, timeout_seconds=300)
    yield made
    made.close()


def alive(pid: int) -> bool:
    return pid in supervisor.table()


# Right answers


def test_a_worker_answers_what_the_calculator_says(emt):
    """To the last bit: the worker computes in double precision on the same machine."""
    crystals = [crystal(n) for n in (1, 3, 4)]
    seen = []
    answers = emt.ask(crystals, lambda index, answer: seen.append((index, answer.single.energy)))
    assert seen == [(k, a.single.energy) for k, a in enumerate(answers)]
    for answer, one, (energy, forces, stress) in zip(answers, crystals, by_hand(crystals, EMT())):
        assert (answer.reason, answer.steps, answer.tries) == ("", 1, 1) and answer.seconds > 0
        assert answer.single.energy == energy
        np.testing.assert_array_equal(answer.single.forces, forces)
        np.testing.assert_array_equal(answer.single.stress, stress)
        np.testing.assert_allclose(answer.crystal.frac, one.frac, atol=1e-12)


def test_an_oracle_gives_the_energy_an_atom_of_any_calculator():
    """Lennard-Jones with settings, made in the worker, in cells of 1, 2 and 4 atoms with empty slots."""
    settings = {"sigma": 2.3, "epsilon": 0.4, "rc": 6.0}
    crystals = [crystal(n) for n in (1, 2, 4)]
    work = host(LennardJones, settings=settings, derivatives=False)
    oracle = hosted(work, name="e", cost=3.0)
    found = oracle.batch(stacked(crystals, 5))
    work.close()
    expected = [e / len(c.frac) for c, (e, _, _) in zip(crystals, by_hand(crystals, LennardJones(**settings)))]
    np.testing.assert_allclose(found.value, expected, rtol=1e-5)  # positions in float32
    assert (oracle.name, oracle.unit, oracle.cost) == ("e", "eV/atom", 3.0)
    assert found.valid.all() and not found.std.any()
    assert found.value.dtype == found.std.dtype == jnp.float32 and found.valid.dtype == bool


def test_other_quantities_follow_from_the_same_answers(emt):
    crystals = [crystal(2, 1), crystal(3, 1)]
    (_, forces, stress), _ = by_hand(crystals, EMT())
    ask = {name: hosted(emt, quantity=name).batch(stacked(crystals, 3)) for name in ("max_force", "pressure")}
    np.testing.assert_allclose(ask["max_force"].value[0], np.linalg.norm(forces, axis=1).max(), rtol=1e-4)
    np.testing.assert_allclose(ask["pressure"].value[0], -GPA_PER_EV_A3 * np.trace(stress) / 3, rtol=1e-4)
    volume = hosted(emt, quantity="volume_per_atom").batch(stacked(crystals, 3))
    np.testing.assert_allclose(volume.value, [np.linalg.det(c.lattice) / len(c.frac) for c in crystals], rtol=1e-6)
    with pytest.raises(ValueError, match="quantity 'color'; expected one of energy_per_atom"):
        hosted(emt, quantity="color")


def test_a_relaxation_finds_the_minimum_that_another_optimizer_finds():
    """Strained copper by EMT; forces of 0.005 eV/Å against a stiffness of some 5 eV/Å² leave 0.001 Å, 1e-5 eV."""
    atoms = bulk("Cu", cubic=True) * (1, 1, 1)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + np.random.default_rng(0).uniform(-0.03, 0.03, (3, 3))), True)
    atoms.rattle(0.05, seed=2)
    start = entry_of_atoms(atoms, "cu")
    work = host(EMT_NAME, relax=HostedRelax(fmax_ev_angstrom=0.005, steps=300))
    (answer,) = work.ask([start])
    work.close()
    atoms.calc = EMT()
    assert ase.optimize.BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4, steps=200)
    assert answer.reason == "" and 1 < answer.steps <= 301 and answer.crystal.id == "cu"
    np.testing.assert_allclose(answer.single.energy, atoms.get_potential_energy(), atol=1e-4)
    np.testing.assert_allclose(np.linalg.det(answer.crystal.lattice), atoms.get_volume(), rtol=1e-3)
    assert np.linalg.norm(answer.single.forces, axis=1).max() < 0.005


def test_a_relaxation_that_runs_out_of_steps_keeps_what_it_reached():
    start = crystal(4)
    work = host(EMT_NAME, relax=HostedRelax(steps=3, move_cell=False))
    (answer,) = work.ask([start])
    estimate = hosted(work).batch(stacked([start], 4))
    work.close()
    assert answer.reason.startswith("not relaxed in 3 steps: a force of ") and answer.tries == 1
    assert answer.single.energy < by_hand([start], EMT())[0][0] and not estimate.valid.any()
    np.testing.assert_array_equal(answer.crystal.lattice, start.lattice)


# Every way to fail


def test_each_failure_costs_itself_and_nobody_else(tmp_path):
    """Six kinds of failure among good crystals: reasons, a bounded time, and nothing left running."""
    crystals = [crystal(n) for n in (1, 2, 1, 3, 4, 5, 6, 7, 9, 1)]
    note = tmp_path / "pids"
    work = host(
        FRAGILE, settings={"note": str(note)}, derivatives=False, timeout_seconds=6, memory_gb=0.4
    )  # fmt: skip
    begin, oracle = time.monotonic(), hosted(work)
    answers = work.ask(crystals)
    assert time.monotonic() - begin < 90  # 6 s of time-out, 6 starts of about a second, and a busy machine
    reasons = [answer.reason for answer in answers]
    assert [reasons[k] for k in (0, 2, 8, 9)] == [""] * 4
    assert reasons[1] == "no answer within 6 s"
    assert reasons[3] == "needs more than 0.4 GB of memory"
    assert reasons[4] == "the worker was killed by SIGSEGV: somebody else's words"
    assert reasons[5] == "the worker ended with exit code 7: somebody else's words"
    assert reasons[6] == "ZeroDivisionError: no such element"
    assert reasons[7] == "energy not finite"
    assert [a.single.energy for a in answers if not a.reason] == [-3.0] * 4
    assert not any(alive(int(pid)) for pid in note.read_text().split())
    found = oracle.batch(stacked([crystals[k] for k in (0, 4, 8)], 9))
    work.close()
    assert found.valid.tolist() == [True, False, True]
    np.testing.assert_array_equal(found.value, np.float32([-3, 0, -3 / 9]))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc on this system")
def test_a_process_lives_as_long_as_its_last_thread():
    """Its first thread ends and it looks like a zombie, yet its child is still its own, and found."""
    code = (
        "import ctypes, subprocess, threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
        "print(subprocess.Popen(['sleep', '60'], start_new_session=True).pid, flush=True)\n"
        "ctypes.PyDLL(None).pthread_exit(None)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    child, stat = int(process.stdout.readline()), Path(f"/proc/{process.pid}/stat")
    try:
        while stat.read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        assert supervisor.members({process.pid}, supervisor.table(), sessions=False) == {process.pid, child}
        supervisor.kill_below(process.pid)
        assert alive(process.pid) and not alive(child)
    finally:
        process.kill()
        process.wait()
    assert not alive(process.pid)


def test_what_crashed_is_asked_again(tmp_path):
    for retries, reason, tries in ((0, "the worker was killed by SIGSEGV: somebody else's words", 1), (1, "", 2)):
        note = tmp_path / f"{retries}"
        work = host(FRAGILE, settings={"note": str(note)}, derivatives=False, retries=retries)
        (answer,) = work.ask([crystal(8)])
        work.close()
        assert (answer.reason, answer.tries) == (reason, tries)


def test_what_is_no_crystal_is_never_asked_about(emt):
    """And the rows around it keep their bits."""
    good = [crystal(3, k) for k in range(2)]
    bad = [
        crystal(3)._replace(lattice=np.zeros((3, 3))),
        crystal(3)._replace(frac=crystal(3).frac * np.nan),
        crystal(3)._replace(occupancy=0 * crystal(3).occupancy),
        crystal(3)._replace(occupancy=0.5 * (crystal(3).occupancy + np.roll(crystal(3).occupancy, 1, axis=-1))),
    ]
    answers = emt.ask([good[0], *bad, good[1]])
    assert [a.reason for a in answers[1:-1]] == [
        "the cell has no volume: 0 Å³ per atom; expected at least 0.1 Å³ in all",
        "positions or cell are not finite", "0 sites with positions (0, 3) and cell (3, 3)",
        "slot 0 names no single element",
    ]  # fmt: skip
    assert all(a.tries == 0 and a.single is None for a in answers[1:-1])
    assert [a.single.energy for a in (answers[0], answers[-1])] == [e for e, _, _ in by_hand(good, EMT())]


def test_an_element_that_it_does_not_know_is_a_reason(emt):
    strange = crystal(2)._replace(occupancy=np.roll(crystal(2).occupancy, 40, axis=-1))
    answers = emt.ask([strange, crystal(2)])
    assert answers[0].reason.startswith("NotImplementedError: No EMT-potential for Tm") and answers[0].tries == 1
    assert answers[1].reason == ""


def test_a_calculator_that_cannot_be_made_is_one_clear_error():
    for make, settings, said in (
        (FRAGILE.replace(":Fragile", ":unmakeable"), {"hint": "install it"}, "cannot be made: ImportError: install it"),
        ("ase.calculators.emt:NOTHING", {}, "cannot be made: AttributeError"),
        ("os:getpid", {"color": 3}, "cannot be made: TypeError"),
    ):
        work = host(make, settings=settings)
        with pytest.raises(ValueError, match=said):
            work.ask([crystal(1)])


@pytest.mark.parametrize(
    ("make", "limits", "said"),
    [
        ("EMT", {}, "expected module:name or file.py:name"),
        ("nowhere.py:EMT", {}, "no such file nowhere.py"),
        (EMT_NAME, {"timeout_seconds": 0.0}, "timeout_seconds = 0.0, expected more than 0"),
        (EMT_NAME, {"memory_gb": -1.0}, "memory_gb = -1.0"),
        (EMT_NAME, {"retries": -1}, "retries = -1"),
    ],
)
def test_impossible_settings_are_named(make, limits, said):
    with pytest.raises(ValueError, match=said):
        host(make, **limits)


def asking(crystals: int, make: str, note: Path, folder: Path) -> str:
    """A program that asks a calculator about copper, to be killed."""
    return (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "import numpy as np\nfrom crysjax.base import Crystal\nfrom crysjax.oracles.hosted import host\n"
        f"n = {crystals}; rows = np.eye(100)[[28] * n]; crystal = Crystal(rows, np.random.rand(n, 3), 6 * np.eye(3))\n"
        f"import tempfile; tempfile.tempdir = {str(folder)!r}\n"
        f"host({make!r}, settings={{'note': {str(note)!r}}}).ask([crystal])"
    )


@pytest.mark.parametrize(("make", "count"), [("Fragile", 2), ("Busy", 3)])
def test_workers_end_with_the_process_that_asked(make, count, tmp_path):
    """Even if that is killed in the middle of a crystal, the worker hears nothing, and it has started other programs:
    one with a session of its own, and one in the background."""
    note, end = tmp_path / "pids", time.monotonic() + 120
    code = asking(2, FRAGILE.replace("Fragile", make), note, tmp_path)
    parent = subprocess.Popen([sys.executable, "-c", code])
    while not (note.exists() and len(note.read_text().split()) == count):
        assert time.monotonic() < end and parent.poll() is None
        time.sleep(0.05)
    pids = list(map(int, note.read_text().split()))
    assert all(map(alive, pids))
    parent.kill()
    parent.wait()
    while any(map(alive, pids)) or list(tmp_path.glob("crysjax-oracle-*")):
        assert time.monotonic() < end, [pid for pid in pids if alive(pid)]
        time.sleep(0.05)


def test_a_worker_ends_with_its_supervisor(tmp_path):
    worker = worker_process.start()
    assert worker_process.ask(worker, FIRST, seconds=60, memory_gb=None) == {"reason": ""}
    (pid,) = supervisor.members({worker.process.pid}, supervisor.table()) - {worker.process.pid}
    os.kill(worker.process.pid, signal.SIGKILL)
    end = time.monotonic() + 30
    while alive(pid):
        assert time.monotonic() < end
        time.sleep(0.05)
    worker_process.stop(worker)
    assert not Path(worker.scratch.name).exists()


def test_a_worker_outlives_the_thread_that_started_it():
    """The kernel tells of the death of a thread as it does of that of the process."""
    made = []
    thread = threading.Thread(target=lambda: made.append(worker_process.start()))
    thread.start()
    thread.join()
    time.sleep(0.5)
    assert worker_process.ask(made[0], FIRST, seconds=60, memory_gb=None) == {"reason": ""}
    worker_process.stop(made[0])


FIRST = pickle.dumps((FRAGILE, {}))


def test_what_is_printed_or_written_does_not_fill_the_disk(tmp_path):
    """Two gigabytes each, of which the disk sees a tenth at most; then a program in the background, which ends too."""
    note = tmp_path / "pid"
    work = host(FRAGILE, settings={"note": str(note)}, derivatives=False, timeout_seconds=60, disk_gb=0.1)
    free = shutil.disk_usage("/tmp").free
    flooded, written, after = work.ask([crystal(10), crystal(11), crystal(1)])
    assert free - shutil.disk_usage("/tmp").free < 1e9  # others write there too
    assert (flooded.reason, after.reason) == ("", "")
    assert written.reason.startswith(("OSError: [Errno 27] File too large", "needs more than 0.1 GB of disk"))
    (left,) = work.ask([crystal(12)])
    assert left.reason == "the worker ended with exit code 7: somebody else's words"
    assert not alive(int(note.read_text()))
    note.unlink()
    assert work.ask([crystal(13)])[0].reason == "" and alive(int(note.read_text()))
    work.close()
    assert not alive(int(note.read_text()))


@pytest.mark.parametrize(
    ("wrong", "relax", "said"),
    [
        ({"forces": [[0.1, 0, 0]]}, None, "forces of shape (1, 3)"),
        ({"forces": [[0.1, 0, 0]]}, HostedRelax(), "forces of shape (1, 3)"),
        ({"forces": [0.1, 0, 0]}, None, "forces of shape (3,)"),
        (
            {"forces": [[1j, 0, 0]] * 2},
            None,
            "forces of shape (2, 3) and type complex128",
        ),
        ({"forces": [[np.inf, 0, 0]] * 2}, None, "forces not finite"),
        ({"energy": [1.0, 2.0]}, None, "TypeError: only"),
    ],
)
def test_answers_of_a_wrong_shape_are_reasons(wrong, relax, said):
    """In the process of the test, where no worker has to start."""
    calculator = fragile().Misshapen(**wrong)
    request = {"derivatives": True, "relax": relax and {"fmax": 0.05, "steps": 2, "move_cell": False}}
    try:
        found = worker.answer(
            calculator, np.array([29, 29]), np.array([[0, 0, 0], [0.5] * 3]), 3 * np.eye(3), **request
        )
    except TypeError as error:
        found = {"reason": worker.said(error)}
    assert found["reason"].startswith(said) and "energy" not in found


def fragile():
    spec = importlib.util.spec_from_file_location("fragile", FRAGILE.partition(":")[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (3, "no answer but a int"),
        ({}, "no answer but a dict"),
        ({"reason": "", "energy": 1.0}, "an answer that is not whole"),
        (
            {"reason": "", "energy": 1.0, "steps": 1, "frac": np.zeros((2, 3)), "lattice": np.eye(3)},
            "frac of shape (2, 3)",
        ),
    ],
)
def test_what_a_worker_says_is_not_believed(said, reason, monkeypatch):
    monkeypatch.setattr(worker_process, "start", lambda **_: None)
    monkeypatch.setattr(worker_process, "stop", lambda _: None)
    monkeypatch.setattr(
        worker_process, "ask", lambda _, message, **__: said if isinstance(message, dict) else {"reason": ""}
    )
    (found,) = host(EMT_NAME).ask([crystal(1)])
    assert found.reason.startswith(reason) and found.single is None
