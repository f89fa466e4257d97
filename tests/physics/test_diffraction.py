"""Diffraction: extinctions, structure factors by hand, pymatgen's peaks, derivatives, invariances, and refusals."""

import csv
import gzip
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Crystal
from crysjax.chemistry.elements import NUMBERS
from crysjax.chemistry.scattering import WAVELENGTHS, of_species, scattering
from crysjax.data import datasets
from crysjax.physics.diffraction import pattern as diffraction
from crysjax.physics.diffraction import peaks as peak_lists
from crysjax.physics.diffraction.pattern import (
    Indices,
    Shape,
    indices,
    pattern,
    profile,
    reflections,
    reflections_needed,
)

FCC = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
BCC = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
LAMBDA = WAVELENGTHS["CuKa"]
EXACT = scattering(dtype=np.float64)
quick = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
crystal_peaks = peak_lists.crystal_peaks


def crystal(symbols: list[str], frac, lattice, dtype=np.float32):
    """A crystal over the species it has, and the table of those."""
    found, species = np.unique([NUMBERS[s] for s in symbols], return_inverse=True)
    leaves = np.eye(len(found))[species], np.asarray(frac), np.asarray(lattice)
    return Crystal(*(leaf.astype(dtype) for leaf in leaves)), of_species(scattering(dtype=dtype), found)


def cubic(symbols: list[str], frac, edge: float):
    return crystal(symbols, frac, edge * np.eye(3))


def triclinic(seed: int = 0, dtype=np.float32):
    """Five atoms of three elements, one site shared by two of them."""
    rng = np.random.default_rng(seed)
    lattice = np.diag([3.1, 4.2, 5.3]) + rng.normal(0, 0.4, (3, 3))
    given, table = crystal(["Ti", "O", "O", "Sr", "O"], rng.random((5, 3)), lattice, dtype)
    given.occupancy[3] = np.array([0, 0.25, 0.6])
    return given, table


def traced(given: Crystal, table, extra: int = 0, **angle):
    """All reflections up to 90 degrees by the traced function."""
    limit = reflections_needed(given.lattice, wavelength_angstrom=float(table.wavelength), two_theta_max_degree=90)
    found = indices(limit + extra)
    return found, quick(lambda c: reflections(c, table, found, **angle))(given)


# --- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("symbols", "frac", "allowed"),
    [
        (["Po"], [[0, 0, 0]], lambda h: True),
        (["Fe"] * 2, BCC, lambda h: sum(h) % 2 == 0),
        (["Cu"] * 4, FCC, lambda h: len({n % 2 for n in h}) == 1),
        (["C"] * 8, [*FCC, *(FCC + 0.25)], lambda h: len({n % 2 for n in h}) == 1 and sum(h) % 4 != 2),
        (["Cs", "Cl"], BCC, lambda h: True),
    ],
    ids=["simple cubic", "bcc", "fcc", "diamond", "CsCl"],
)
def test_extinctions(symbols, frac, allowed):
    """Reflections that the lattice forbids are 1e-10 of the strongest, rounding squared; the others are there."""
    given, table = cubic(symbols, frac, 3.6)
    found, answer = traced(given, table)
    inside = np.square(found.hkl).sum(-1) < (2 * np.sin(np.pi / 4) / LAMBDA * 3.6) ** 2
    there = np.array([allowed(h) for h in found.hkl.tolist()])
    intensity = np.asarray(answer.intensity) / answer.intensity.max()
    assert bool(answer.valid) and intensity[there & inside].min() > 1e-3
    assert intensity[~there & inside].max(initial=0) < 1e-10
    peaks = crystal_peaks(given, table)
    expected = {int(n) for n in np.square(found.hkl[there & inside]).sum(-1)}
    assert {int(n) for n in np.square(peaks.hkl).sum(-1)} == expected
    counts = {n: 2 * int((np.square(found.hkl[there & inside]).sum(-1) == n).sum()) for n in expected}
    assert {int(n): int(m) for n, m in zip(np.square(peaks.hkl).sum(-1), peaks.multiplicity)} == counts
    angles = 2 * np.degrees(np.arcsin(LAMBDA * np.sqrt(np.square(peaks.hkl).sum(-1)) / 2 / np.float32(3.6)))
    np.testing.assert_allclose(peaks.two_theta, angles, atol=1e-5)


def by_hand(symbol: str, s2: np.ndarray) -> np.ndarray:
    z = NUMBERS[symbol] - 1
    a, b = EXACT.amplitude[z], EXACT.width[z]
    return z + 1 - 41.78214 * s2 * (a * np.exp(-b * s2[:, None])).sum(-1)


def test_structure_factors_of_rock_salt_and_caesium_chloride():
    """F = 4 (f_Na ± f_Cl) by parity, f_Cs ± f_Cl by h + k + l; within rounding."""
    salt = cubic(["Na"] * 4 + ["Cl"] * 4, [*FCC, *(FCC + np.array([0.5, 0, 0]))], 5.64)
    for (given, table), pair, factor in ((salt, "Na Cl", 4), (cubic(["Cs", "Cl"], BCC, 4.12), "Cs Cl", 1)):
        found, answer = traced(given, table)
        g2 = np.square(found.hkl).sum(-1) / float(given.lattice[0, 0]) ** 2
        sin2 = g2 * LAMBDA**2 / 4
        f = [by_hand(symbol, g2 / 4) for symbol in pair.split()]
        unmixed = (found.hkl % 2 == found.hkl[:, :1] % 2).all(-1) if factor == 4 else True
        sign = np.where((found.hkl[:, 0] if factor == 4 else found.hkl.sum(-1)) % 2 == 0, 1, -1)
        reached = sin2 < 0.98  # beyond, the root of 1 - sin² magnifies rounding
        lorentz = (1 + (1 - 2 * sin2) ** 2)[reached] / (sin2 * np.sqrt(np.where(reached, 1 - sin2, 1)))[reached]
        expected = 2 * np.where(unmixed, factor * (f[0] + sign * f[1]), 0)[reached] ** 2 * lorentz
        np.testing.assert_allclose(
            np.asarray(answer.intensity)[reached], expected, rtol=2e-4, atol=1e-6 * expected.max()
        )


def test_heat_weakens_a_peak_as_debye_and_waller_say():
    """One element: I falls by exp(-2 B s²)."""
    given, cold = cubic(["Cu"] * 4, FCC, 3.6)
    warm = of_species(scattering(debye_waller_angstrom2={"Cu": 0.8}), np.array([29]))
    found, at_rest = traced(given, cold)
    _, moving = traced(given, warm)
    s2 = np.square(found.hkl).sum(-1) / 3.6**2 / 4
    there = np.asarray(at_rest.intensity) > 1e-3 * float(at_rest.intensity.max())
    np.testing.assert_allclose((moving.intensity / at_rest.intensity)[there], np.exp(-1.6 * s2)[there], rtol=1e-4)


# --- the two ways, and pymatgen's -------------------------------------------------------------------------------------


def test_peaks_are_the_sums_of_the_traced_reflections():
    given, table = triclinic()
    found, answer = traced(given, table)
    peaks = crystal_peaks(given, table, scaled=False)
    rows = {tuple(h): k for k, h in enumerate(found.hkl.tolist())}
    rows = [rows[tuple(h)] for h in peaks.hkl.tolist()]
    assert (peaks.multiplicity == 2).all()  # nothing coincides in a triclinic cell
    np.testing.assert_allclose(np.asarray(answer.two_theta)[rows], peaks.two_theta, atol=1e-4)
    scale = peaks.intensity.max()
    np.testing.assert_allclose(np.asarray(answer.intensity)[rows] / scale, peaks.intensity / scale, atol=2e-6)
    below = np.sort(np.asarray(answer.two_theta)[np.asarray(answer.intensity) > 2e-5 * scale])
    assert (below < 90).sum() == (peaks.intensity > 2e-5 * scale).sum()


def assert_equal_to_pymatgen(structure, given, calculator, table, angles=(0, 90)):
    theirs = calculator.get_pattern(structure, two_theta_range=angles)
    ours = crystal_peaks(given, table, angles)
    assert ours.reason == "" and len(ours.two_theta) == len(theirs.x)
    np.testing.assert_allclose(ours.two_theta, theirs.x, rtol=0, atol=1e-9)
    # a peak's reflections share one form factor here: over 1e-5 degrees it changes by less than 1e-6 of itself
    np.testing.assert_allclose(ours.intensity, theirs.y, rtol=0, atol=2e-4)
    np.testing.assert_allclose(ours.d_angstrom, theirs.d_hkls, rtol=1e-6)
    assert ours.multiplicity.tolist() == [sum(f["multiplicity"] for f in peak) for peak in theirs.hkls]


def test_equal_to_pymatgen_on_shared_sites_other_lines_and_angles():
    from pymatgen.analysis.diffraction.neutron import NDCalculator
    from pymatgen.analysis.diffraction.xrd import WAVELENGTHS as THEIRS
    from pymatgen.analysis.diffraction.xrd import XRDCalculator
    from pymatgen.core import Structure

    assert WAVELENGTHS == THEIRS
    given, _ = triclinic(1, np.float64)
    species = [{"Ti": 1}, {"O": 1}, {"O": 1}, {"Ti": 0.25, "Sr": 0.6}, {"O": 1}]
    structure, z = Structure(given.lattice, species, given.frac), np.array([8, 22, 38])
    heat = {"O": 0.9, "Sr": 0.4}
    columns = partial(scattering, debye_waller_angstrom2=heat, dtype=np.float64)
    for name, angles in (("CuKa", (0, 90)), ("CoKa1", (20, 160)), ("MoKa", (5, 60))):
        theirs = XRDCalculator(name, debye_waller_factors=heat)
        assert_equal_to_pymatgen(structure, given, theirs, of_species(columns(name), z), angles)
    neutrons = of_species(columns("neutron", wavelength_angstrom=1.8), z)
    assert_equal_to_pymatgen(structure, given, NDCalculator(1.8, debye_waller_factors=heat), neutrons)


def test_equal_to_pymatgen_on_real_crystals(data_dir):
    """The first two crystals of each crystal system among MP-20's binaries and ternaries, X-rays and neutrons."""
    from pymatgen.analysis.diffraction.neutron import NDCalculator
    from pymatgen.analysis.diffraction.xrd import XRDCalculator
    from pymatgen.core import Structure

    from crysjax.data.readers.convert import entry_of_structure, to_structure

    with gzip.open(data_dir / "mp_20_small/val.csv.gz", "rt") as file:
        rows = [(int(row["spacegroup.number"]), row["cif"]) for row in csv.DictReader(file)]
    systems = [(1, 2), (3, 15), (16, 74), (75, 142), (143, 167), (168, 194), (195, 230)]
    chosen = [cif for low, high in systems for cif in [c for n, c in rows if low <= n <= high][:2]]
    assert len(chosen) == 14
    entries = [entry_of_structure(Structure.from_str(cif, "cif"), "", {}) for cif in chosen]
    for radiation, calculator in (("CuKa", XRDCalculator()), ("neutron", NDCalculator())):
        found = peak_lists.peaks(datasets.from_entries(entries), scattering(radiation, dtype=np.float64))
        for entry, ours in zip(datasets.entries(datasets.from_entries(entries)), found):
            if ours.reason:
                with pytest.raises(ValueError, match="no scattering coefficients"):
                    calculator.get_pattern(to_structure(entry))
                continue
            theirs = calculator.get_pattern(to_structure(entry))
            assert len(ours.two_theta) == len(theirs.x)
            np.testing.assert_allclose(ours.two_theta, theirs.x, rtol=0, atol=1e-9)
            np.testing.assert_allclose(ours.intensity, theirs.y, rtol=0, atol=2e-4)


# --- invariances ------------------------------------------------------------------------------------------------------


def test_the_choice_of_cell_and_origin_does_not_matter():
    """Translation, rotation, another basis, a supercell."""
    given, table = triclinic(2, np.float64)
    rng = np.random.default_rng(5)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    basis = np.array([[1, 1, 0], [0, 1, -1], [0, 0, 1]])
    doubled = np.concatenate([given.frac, given.frac + np.array([1, 0, 0])]) / np.array([2, 1, 1])
    others = [
        given._replace(frac=given.frac + rng.random(3)),
        given._replace(lattice=given.lattice @ rotation),
        given._replace(lattice=basis @ given.lattice, frac=given.frac @ np.linalg.inv(basis)),
        Crystal(np.tile(given.occupancy, (2, 1)), doubled, given.lattice * np.array([[2], [1], [1]])),
    ]
    first = crystal_peaks(given, table)
    for other in others:
        peaks = crystal_peaks(other, table)
        np.testing.assert_allclose(peaks.two_theta, first.two_theta, atol=1e-9)
        np.testing.assert_allclose(peaks.intensity, first.intensity, atol=1e-8)


def test_half_of_the_reflections_and_which_are_needed():
    found = indices((2, 1, 3))
    everything = {(h, k, m) for h in range(-2, 3) for k in (-1, 0, 1) for m in range(-3, 4)} - {(0, 0, 0)}
    half = set(map(tuple, found.hkl.tolist()))
    assert len(found.hkl) == len(half) == len(everything) // 2
    assert half | {tuple(-n for n in h) for h in half} == everything
    for seed in range(5):  # brute force over a larger range finds none beyond the limits
        lattice = triclinic(seed)[0].lattice @ np.diag([1, 1.5, 0.7])
        limit = reflections_needed(lattice, wavelength_angstrom=LAMBDA, two_theta_max_degree=90)
        inside = diffraction.within(indices(limit + 4), lattice, wavelength_angstrom=LAMBDA, two_theta_max_degree=90)
        assert (np.abs(inside.hkl).max(0) <= limit).all() and len(inside.hkl)


# --- the profile ------------------------------------------------------------------------------------------------------


def test_peaks_of_a_profile_have_their_area_and_width():
    """One reflection: half the height at half the width, by Caglioti's formula; the area within the Lorentz tails."""
    grid, shape = jnp.linspace(20, 60, 8001), Shape(u=0.04, v=-0.01, w=0.02, eta=0.3)
    one = diffraction.Reflections(jnp.array([40.0]), jnp.array([7.0]), jnp.array(True))
    value = np.asarray(profile(one, grid, shape), float)
    tan = np.tan(np.radians(20))
    fwhm = np.sqrt(0.04 * tan**2 - 0.01 * tan + 0.02)
    assert np.ptp(np.asarray(grid)[value >= value.max() / 2]) == pytest.approx(fwhm, abs=0.01)  # two steps of the grid
    tails = 2 / np.pi * np.arctan(fwhm / 2 / 20)  # of a Lorentzian, 20 degrees away on both sides
    assert np.trapezoid(value, grid) == pytest.approx(7 * (1 - 0.3 * tails), rel=1e-4)


def test_derivatives_are_those_of_finite_differences():
    """Positions, cell and occupancies, along random directions: h² = 1e-12 of truncation, 1e-16 / 1e-6 of rounding."""
    with jax.enable_x64(True):
        given, table = triclinic(3, np.float64)
        given = Crystal(*map(jnp.asarray, given))
        grid, found = jnp.linspace(15, 80, 120), indices((4, 5, 6))
        probe = jnp.asarray(np.random.default_rng(0).normal(size=120))

        def total(c):
            return pattern(c, table, found, grid, Shape(w=1.0)).value @ probe

        run, slope = quick(total), quick(jax.grad(total))(given)
        for name in Crystal._fields:
            way = np.random.default_rng(1).normal(size=getattr(given, name).shape)
            ends = [run(given._replace(**{name: getattr(given, name) + h * way})) for h in (1e-6, -1e-6)]
            exact = float((getattr(slope, name) * way).sum())
            assert exact == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-6)


# --- what is not valid ------------------------------------------------------------------------------------------------


def test_what_cannot_be_answered_is_not_valid_and_harms_nobody():
    given, table = triclinic()
    few = Indices(indices((4, 5, 6)).hkl, np.array([4, 5, 6]))
    assert (reflections_needed(given.lattice, wavelength_angstrom=LAMBDA, two_theta_max_degree=90) <= few.limit).all()
    bad = [
        given._replace(lattice=given.lattice * np.float32(3)),  # needs more reflections than are listed
        given._replace(lattice=given.lattice * np.float32([1, 1, 0])),
        given._replace(lattice=given.lattice * np.float32(np.nan)),
        given._replace(frac=given.frac * np.float32(np.inf)),
        given._replace(occupancy=given.occupancy * np.float32(0)),
    ]
    together = jax.tree.map(lambda *a: jnp.stack(a), given, *bad)
    grid = jnp.linspace(10, 80, 50)
    one = lambda c: pattern(c, table, few, grid)  # noqa: E731
    total = lambda c: jax.vmap(one)(c).value.sum()  # noqa: E731
    found, slope = quick(lambda c: (jax.vmap(one)(c), jax.grad(total)(c)))(together)
    assert found.valid.tolist() == [True] + [False] * 5
    assert float(found.value[0].max()) > 0 and not np.asarray(found.value[1:]).any()
    assert all(np.isfinite(leaf).all() for leaf in slope) and np.asarray(slope.frac[0]).any()
    for crystal_, reason in ((bad[1], "volume"), (bad[2], "finite"), (bad[3], "finite")):
        peaks = crystal_peaks(crystal_, table)
        assert reason in peaks.reason and not len(peaks.two_theta)


def test_elements_without_factors():
    """Radon has X-ray factors and no neutron length."""
    radon, x_rays = cubic(["Rn"], [[0, 0, 0]], 5.0)
    neutrons = of_species(scattering("neutron"), np.array([86]))
    assert traced(radon, x_rays)[1].valid and not traced(radon, neutrons)[1].valid
    assert "scattering factors" in crystal_peaks(radon, neutrons).reason
    whole = Crystal(np.eye(100, dtype=np.float32)[[85]], radon.frac, radon.lattice)
    assert traced(whole, scattering())[1].valid and not traced(whole, scattering("neutron"))[1].valid


def test_a_cell_too_small_for_the_wavelength_has_no_peaks():
    given, _ = cubic(["H"], [[0, 0, 0]], 1.0)
    assert not len(crystal_peaks(given, of_species(scattering("CrKa"), np.array([1]))).two_theta)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: scattering("gamma"), "radiation: 'gamma'"),
        (lambda: scattering(wavelength_angstrom=0.0), "wavelength_angstrom"),
        (lambda: scattering(debye_waller_angstrom2={"Xx": 1.0}), "debye_waller_angstrom2: Xx"),
        (lambda: indices((-1, 2, 2)), "indices: limits -1"),
        (lambda: indices((999, 999, 999)), "indices: limits 999"),
        (
            lambda: reflections_needed(np.eye(3), wavelength_angstrom=1, two_theta_max_degree=190),
            "two_theta_max_degree",
        ),
        (lambda: reflections(triclinic()[0], scattering(), indices((1, 1, 1))), "100 species"),
    ],
)
def test_mistakes_are_told(call, message):
    with pytest.raises(ValueError, match=message):
        call()
