"""The front door: every verb once, by what a user would type."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from pymatgen.core import Lattice, Structure

import crysjax as cx
from crysjax.data import datasets
from crysjax.potentials.mlip import mlip, save_potential


@pytest.fixture(scope="module")
def salt() -> Structure:
    return Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


def test_what_is_read_is_what_was_given(salt, tmp_path):
    salt.to(str(tmp_path / "salt.cif"))
    for source, atoms in ((salt, 8), (bulk("Si"), 2), (tmp_path / "salt.cif", 8), ([salt, bulk("Cu")], 9)):
        found = cx.read(source)
        assert isinstance(found, cx.Dataset) and found.num_atoms.sum() == atoms
    np.testing.assert_allclose(abs(np.linalg.det(cx.read(salt).lattice[0])), 5.64**3, rtol=1e-6)
    assert cx.read(found) is found and repr(found) == "Dataset(2 crystals, 9 atoms; no properties)"
    mixed = cx.read([tmp_path / "salt.cif", bulk("Si"), found, str(tmp_path / "salt.cif")])
    assert mixed.ids.tolist() == ["salt", "crystal-1", "crystal-0", "crystal-1-2", "salt-2"]
    assert mixed.num_atoms.tolist() == [8, 2, 8, 1, 8] and mixed[-1].ids.tolist() == ["salt-2"] and len(mixed[1:3]) == 2
    with pytest.raises(ValueError, match=r"missing\.cif: no such file"):
        cx.read([bulk("Si"), tmp_path / "missing.cif"])
    with pytest.raises(ValueError, match="int: expected a path, ASE atoms or a pymatgen structure"):
        cx.read(3)


def test_what_is_written_and_taken_apart_is_read_again(salt, tmp_path):
    atoms = bulk("Si")
    atoms.calc = SinglePointCalculator(atoms, energy=-8.0)
    given = cx.read([salt, atoms])
    for again in (cx.to_ase(given), cx.to_pymatgen(given)):
        np.testing.assert_allclose(cx.read(again).lattice, given.lattice, atol=1e-5)
        np.testing.assert_array_equal(cx.read(again).numbers, given.numbers)
    assert cx.to_ase(given)[1].get_potential_energy() == pytest.approx(-8.0)
    assert cx.to_pymatgen(given)[1].properties == {"id": "crystal-1", "energy_ev_per_atom": -4.0}
    for name in ("a.extxyz", "a.npz", "a.cif", "folder"):
        cx.write([salt, atoms], tmp_path / name)
        np.testing.assert_array_equal(cx.read(tmp_path / name).numbers, given.numbers)
    with pytest.raises(ValueError, match=r"a\.foo: \.foo is not written; expected \.npz, .* a folder of CIFs"):
        cx.sample("mp_20_wyckoff", n=1, out=tmp_path / "a.foo")


def test_every_kind_of_model_is_loaded():
    kinds = {name: cx.load(name).kind for name in ("mp_20_wyckoff", "mp_20_heads", "synthesizability", "student")}
    assert kinds == {"mp_20_wyckoff": "generator", "mp_20_heads": "heads", "synthesizability": "synthesizability",
                     "student": "potential"}  # fmt: skip
    with pytest.raises(ValueError, match="'nothing' is neither a file nor a model"):
        cx.load("nothing")


def test_a_name_without_a_model_tells_which_ones_there_are(salt, monkeypatch, tmp_path):
    monkeypatch.setenv("CRYSJAX_MODELS", str(tmp_path))
    with pytest.raises(ValueError, match=r"nequix-mp-1: not here yet; `crysjax models pull nequix-mp-1` fetches it"):
        cx.relax(salt, "nequix-mp-1")
    with pytest.raises(ValueError, match=r"'studant' .* expected a path or one of student \(did you mean student"):
        cx.relax(salt, "studant")


def test_what_is_loaded_is_no_name(salt):
    with pytest.raises(TypeError, match=r"a Model in the place of a model's name or path.*model\.build"):
        cx.predict(salt, cx.load("mp_20_heads"))


def test_samples_keep_their_constraints_and_follow_the_key(tmp_path):
    asked = {"n": 3, "formula": "SrTiO3", "space_group": 221, "max_atoms": 5}
    of_numpy = asked | {"n": np.int32(3), "space_group": np.uint8(221), "max_atoms": np.int64(5)}
    to = tmp_path / "drawn.npz"
    first, other = (cx.sample("mp_20_wyckoff", key, **asked, out=to) for key in (1, jax.random.key(2)))
    np.testing.assert_array_equal(cx.read(to).lattice, other.lattice)
    again = cx.sample("mp_20_wyckoff", np.int64(1), **of_numpy)
    np.testing.assert_array_equal(first.lattice, again.lattice)
    assert len(first) == 3 and not np.array_equal(first.lattice, other.lattice)
    assert all(sorted(entry.numbers.tolist()) == [8, 8, 8, 22, 38] for entry in datasets.entries(first))
    with pytest.raises(ValueError, match=r"^require: Na is not in the formula; expected one of Sr, Ti, O$"):
        cx.sample("mp_20_wyckoff", require=["Na"], **asked)


def test_crystals_are_relaxed_and_predicted(salt):
    strained = salt.copy()
    strained.apply_strain(0.03)
    found = cx.relax([strained, salt])
    assert found.converged.all() and (found.fmax < 0.05).all() and found.reason.tolist() == ["", ""]
    volumes = abs(np.linalg.det(found.crystals.lattice))
    np.testing.assert_allclose(volumes[0], volumes[1], rtol=0.01)  # 0.05 eV/Å against the stiffness of rock salt
    said = cx.predict(salt)
    energy, gap = (said.names.index(name) for name in ("formation_energy_ev_per_atom", "band_gap_ev"))
    assert said.said.value.shape == said.said.std.shape == (1, len(said.names)) and said.novelty[0] < said.limit
    # the Materials Project has -2.1 eV/atom and 5.0 eV
    assert abs(said.said.value[0, energy] + 2.1) < 0.2 and abs(said.said.value[0, gap] - 5.0) < 1.0


@pytest.fixture(scope="module")
def argon(tmp_path_factory) -> dict:
    """Two potentials of argon that differ by their depth, and a crystal of it, slightly stretched."""
    folder = tmp_path_factory.mktemp("argon")
    lj = mlip(network="lennard_jones", numbers=(18,), epsilon_ev=0.0104, sigma_angstrom=3.4, cutoff_angstrom=7.0)
    params = lj.init(jax.random.key(0))
    deeper = params | {"epsilon_ev": 1.4 * params["epsilon_ev"]}
    paths = [str(save_potential(folder / f"{k}.npz", lj, p)) for k, p in enumerate((params, deeper))]
    return {"paths": paths, "crystal": bulk("Ar", "fcc", 5.3)}


def test_several_potentials_tell_how_far_they_are_apart(argon, tmp_path):
    """Both have one minimum, with energies 1 to 1.4: their deviation is 0.4 / sqrt(2) of the first, 1.2 their mean."""
    found = cx.relax(argon["crystal"], argon["paths"], fmax=1e-3, out=tmp_path / "r.npz", trajectory=tmp_path / "steps")
    assert found.converged.all()
    np.testing.assert_allclose(found.energy_std, abs(found.energy) / 1.2 * 0.4 / np.sqrt(2), rtol=1e-4)
    written = cx.read(tmp_path / "r.npz")
    np.testing.assert_allclose(written.properties["potential_std_ev_per_atom"], found.energy_std, rtol=1e-6)
    assert len(cx.read(tmp_path / "steps" / "crystal-0.extxyz")) >= 2
    assert cx.relax(argon["crystal"], argon["paths"][0]).energy_std is None
    with pytest.raises(ValueError, match="an ensemble has potentials of one kind"):
        cx.relax(argon["crystal"], [argon["paths"][0], "student"])


def test_a_minimum_knows_how_it_moves(argon, tmp_path):
    """The slope of the volume by sigma is that of relaxing again, to the third order of a step of 1 % and rounding;
    by the depth of the potential nothing moves. The cutoff stays, so that lengths are not proportional to sigma."""
    found = cx.at_minimum(argon["crystal"], argon["paths"][0], fmax=1e-4)
    volume = lambda params: jnp.abs(jnp.linalg.det(found.crystals(params, found.occupancy).lattice))[0]  # noqa: E731
    slope, lj = jax.grad(volume)(found.params), cx.load(argon["paths"][0]).build
    again = []
    for factor in (0.99, 1.01):
        moved = found.params | {"sigma_angstrom": factor * found.params["sigma_angstrom"]}
        path = save_potential(tmp_path / f"{factor}.npz", lj, moved)
        relaxed = cx.relax(argon["crystal"], str(path), fmax=1e-4, steps=1000)
        again.append(abs(np.linalg.det(relaxed.crystals.lattice[0].astype(float))))
    expected = (again[1] - again[0]) / (0.02 * float(found.params["sigma_angstrom"]))
    assert float(slope["sigma_angstrom"]) == pytest.approx(expected, rel=0.02)
    assert abs(float(slope["epsilon_ev"] * found.params["epsilon_ev"])) < 1e-3 * again[0]
    with pytest.raises(ValueError, match="crystal-0: not relaxed"):
        cx.at_minimum(argon["crystal"], argon["paths"][0], steps=1)


def test_phonons_and_elasticity_are_calls_and_write_when_asked(argon, tmp_path):
    said = cx.phonons(argon["crystal"], argon["paths"][0], length_angstrom=6, mesh_per_angstrom=0.1,
                      temperatures_k=[20.0], out=tmp_path / "phonons")  # fmt: skip
    assert said.bands.shape[1] == 3 and said.phonons.frequencies.min() > -0.1 and said.thermal.entropy.shape == (1,)
    assert {p.name for p in (tmp_path / "phonons").iterdir()} >= {"bands.csv", "summary.json", "phonons.svg"}
    with pytest.raises(ValueError, match="2 crystals; expected one"):
        cx.phonons([argon["crystal"]] * 2, argon["paths"][0])
    found = cx.elasticity(argon["crystal"], argon["paths"][0], eos=False, out=tmp_path / "c.csv")
    c = found.elastic.tensor_gpa[0]
    assert found.rows[0]["born_stable"] and c[0, 1] == pytest.approx(c[3, 3], rel=0.02)  # Cauchy: pair forces
    assert (tmp_path / "c.csv").read_text().startswith("id,") and found.curves is None and found.written == 0


def test_diffraction_and_pair_distributions(salt, tmp_path):
    said = cx.diffraction(salt, profile=True, out=tmp_path / "p.csv")
    peak = said.peaks[0]
    assert peak.hkl[peak.intensity.argmax()].tolist() == [2, 0, 0]  # of the cube that was given
    spacing = 1.54184 / 2 / np.sin(np.radians(peak.two_theta[peak.intensity.argmax()] / 2))
    assert spacing == pytest.approx(2.82, abs=1e-3) and said.profile.shape == (1, len(said.two_theta))
    apart = cx.pair_distribution(salt, 5.0, out=tmp_path / "g.csv")
    r, density = apart.r_angstrom, 8 / 5.64**3
    shells = (apart.value[0] + 4 * np.pi * r * density) * r  # R(r): 6 unlike neighbors, then 12 like ones
    first, second = ((r > low) & (r < high) for low, high in ((2.4, 3.4), (3.5, 4.5)))
    assert apart.reason == [""] and r[first][shells[first].argmax()] == pytest.approx(5.64 / 2, abs=0.02)
    weights = 12 * (11**2 + 17**2) / (2 * 6 * 11 * 17)  # X-rays see atomic numbers
    assert shells[second].sum() / shells[first].sum() == pytest.approx(weights, rel=0.01)
    assert (tmp_path / "g.csv").read_text().startswith("id,r_angstrom,g_per_angstrom2")


def test_sets_are_judged_by_one_call(salt, tmp_path):
    other = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5] * 3, [0.5, 0.5, 0]]
    )
    found = cx.evaluate({"mine": [salt, salt, other]}, train=[salt], ceiling=False, processes=1, out=tmp_path / "out")
    stages = {row["stage"]: row["passed"] for row in found.totals["mine"]["ledger"]}
    assert stages["valid"] == 3 and stages["unique"] == 2 and stages["novel"] == 1
    assert (tmp_path / "out" / "report.html").exists() and found.match == {}
    with pytest.raises(ValueError, match="evaluate: nothing to do"):
        cx.evaluate()


def test_a_target_is_differentiable_back_to_the_noise():
    found = cx.objective("mp_20_generator", {"band_gap_ev": [1, 2]}, formula="SrTiO3", n=2, steps=2)
    total = jax.jit(jax.value_and_grad(lambda noise: (found.value(noise).sum(), found.value(noise)), has_aux=True))
    (_, value), slope = total(found.noise)
    assert value.shape == (2,) and jnp.isfinite(value).all()
    assert jax.eval_shape(found.crystals, found.noise).lattice.shape == (2, 3, 3)
    assert jnp.abs(slope.frac).max() > 0 and jnp.abs(slope.lattice).max() > 0


TARGET = {"band_gap_ev": [1, 2]}
MISTAKES = {
    "no sample": (lambda: cx.sample("mp_20_wyckoff", n=0), r"^n: 0; expected a whole number from 1 to 1000000$"),
    "less than none": (lambda: cx.sample("mp_20_wyckoff", n=-1), r"^n: -1; expected a whole number"),
    "half a sample": (lambda: cx.sample("mp_20_wyckoff", n=np.float64(2.5)), r"^n: 2\.5; expected a whole number"),
    "a seed": (lambda: cx.sample("mp_20_wyckoff", key=-1), r"^key: -1; expected a whole number from 0 to 4294967295$"),
    "no step": (lambda: cx.sample("mp_20_generator", steps=0), r"^steps: 0; expected a whole number"),
    "a density": (lambda: cx.sample("mp_20_wyckoff", n=1, density_g_cm3=5.0), r"^density_g_cm3: 5\.0; expected \[low"),
    "no crystal": (lambda: cx.objective("mp_20_generator", TARGET, formula="SrTiO3", n=0), r"^n: 0; expected a whole"),
    "a sampler": (lambda: cx.objective("mp_20_generator", TARGET, formula="MgO", steps=0), r"^steps: 0; expected a wh"),
    "many atoms": (
        lambda: cx.objective("mp_20_generator", TARGET, formula="Li1999"),
        r"^formula: 'Li1999'; expected one of 1 to 20 atoms, which mp_20_generator knows$"),
    "no atom": (lambda: cx.objective("mp_20_generator", TARGET, formula=""), r"^formula: ''; expected one of 1 to 20"),
    "an element": (lambda: cx.objective("mp_20_generator", TARGET, formula="FmO"), r"^formula: Fm; the model was not"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_is_one_line_that_names_the_argument(case):
    ask, message = MISTAKES[case]
    with pytest.raises(ValueError, match=message) as caught:
        ask()
    assert "\n" not in str(caught.value)


def test_numbers_of_numpy_are_those_of_python(tmp_path):
    asked = {"formula": "SrTiO3", "space_group": np.uint8(227), "max_atoms": np.int64(5)}
    with pytest.raises(ValueError, match=r"^space_group: 227; no positions add up to SrTiO3 in 5 to 5 atoms"):
        cx.sample("mp_20_wyckoff", np.int64(1), np.int32(3), **asked)
    with pytest.raises(ValueError, match=r"^count: 0; expected 1 to"):  # bounds are looked at, which need a number
        cx.polymorphs("MgO", tmp_path / "out", n=np.int64(0))
    assert cx.load("mp_20_generator", generator_steps=np.int64(2)).kind == "generator"


def test_a_campaign_is_one_call_and_resumes(tmp_path):
    config = {"target": {"band_gap_ev": [0.5, 3.0]}, "elements": ["Na", "Mg", "O", "Cl"], "max_atoms": 6, "rounds": 1,
              "candidates": 16, "validations": 2, "guidance": "none", "sample_steps": 4, "relax_steps": 20}  # fmt: skip
    first = cx.design(config, tmp_path / "run")
    assert first["stages"]["sampled"]["entered"] == 16 and (tmp_path / "run" / "report.html").exists()
    again = cx.design(config, tmp_path / "run")
    assert again["stages"] == first["stages"] and again["best"] == first["best"]
    with pytest.raises(ValueError, match="roundz: unknown key"):
        cx.design(config | {"roundz": 2}, tmp_path / "other")


def test_training_is_one_call(tmp_path, salt):
    rows = []
    for k, entry in enumerate(
        datasets.entries(cx.read([salt.copy().apply_strain(0.01 * k, inplace=False) for k in range(12)]))
    ):
        rows.append(entry._replace(properties={"hardness_gpa": float(k)}))
    data = datasets.from_entries(rows, split=["train"] * 9 + ["val"] * 3)
    datasets.save(data, tmp_path / "data.npz")
    settings = {"kind": "heads", "data": str(tmp_path / "data.npz"), "properties": ["hardness_gpa"], "steps": 3,
                "tiles": 1, "pairs": 64, "network": "graph", "network.width": 8, "network.layers": 1}  # fmt: skip
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by integer step counts
        model = cx.train(settings, tmp_path / "run")
    said = cx.predict(salt, str(model))
    assert said.names == ("hardness_gpa",) and np.isfinite(said.said.value).all()


def test_import_needs_nothing_until_a_verb_is_used():
    code = "import sys, crysjax; assert 'jax' not in sys.modules; crysjax.read; assert 'jax' in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=600)
    assert set(cx.__all__) <= set(dir(cx))
    with pytest.raises(AttributeError, match="no attribute 'sampel'"):
        cx.sampel  # noqa: B018


def test_the_module_is_the_command():
    run = subprocess.run([sys.executable, "-m", "crysjax", "--version"], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0 and run.stdout.strip() == cx.__version__


def test_the_first_screen_of_the_readme_runs(capsys):
    text = (Path(__file__).parents[1] / "README.md").read_text().split("## In Python")[1]
    found: dict = {}
    exec(text.split("```python\n")[1].split("```")[0], found)
    assert len(found["crystals"]) == 4 and found["relaxed"].converged.any() and jnp.isfinite(found["slope"].frac).all()
    assert "formation_energy_ev_per_atom" in capsys.readouterr().out


def test_a_folder_of_the_same_name_around_the_clone_does_not_hide_the_package(tmp_path):
    """Python started above the clone finds a folder `crysjax` without `__init__.py` first, and must go on looking.

    It does where the package is on the path, as an editable install puts it with a `package-dir` of the root alone;
    setuptools' import hook would come after the folder.
    """
    import tomllib

    root = Path(__file__).parents[1]
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-dir"] == {"": "."}
    (tmp_path / "crysjax").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(root)}
    for command in (["-c", "import crysjax; print(crysjax.__version__)"], ["-m", "crysjax", "--version"]):
        run = subprocess.run([sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.stdout.strip() == cx.__version__, run.stderr
