"""Standard paths: lengths that can be written down, and that the choice of cell and orientation does not matter."""

import numpy as np
import pytest

from crysjax.crystallography.band_paths import band_path
from crysjax.data.datasets import Entry

EDGE = 5.43
SILICON = Entry(
    "Si",
    np.array([14, 14]),
    np.array([[0, 0, 0], [0.25] * 3]),
    EDGE * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) / 2,
    {},
)


def test_face_centered_cubic():
    """Γ-X-W-K-Γ-L-U-W-L-K|U-X, in units of 1/a: |ΓX| = 1, |XW| = 1/2, |WK| = √2/4, |KΓ| = 3√2/4, |ΓL| = √3/2."""
    path = band_path(SILICON)
    names = [name for _, name in path.ticks]
    assert names == ["Γ", "X", "W", "K", "Γ", "L", "U", "W", "L", "K|U", "X"]
    steps = np.diff([d for d, _ in path.ticks]) * EDGE
    np.testing.assert_allclose(steps[:5], [1, 0.5, 2**0.5 / 4, 3 * 2**0.5 / 4, 3**0.5 / 2], rtol=1e-6)
    reciprocal = np.linalg.inv(SILICON.lattice).T
    within = np.diff(path.part) == 0
    walked = np.linalg.norm(np.diff(path.q @ reciprocal, axis=0), axis=-1)
    np.testing.assert_allclose(walked[within], np.diff(path.distance)[within], atol=1e-12)
    assert walked[within].max() <= 0.01 + 1e-12


def test_another_cell_in_another_orientation():
    """The same points of the same crystal: equal lengths, and equal phases between atoms up to its symmetry."""
    change, angle = np.array([[1, 1, 0], [0, 1, 0], [0, 2, 1]]), 0.8
    turn = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    other = SILICON._replace(frac=SILICON.frac @ np.linalg.inv(change) + 0.1, lattice=change @ SILICON.lattice @ turn)
    here, there = band_path(SILICON), band_path(other)
    np.testing.assert_allclose(here.distance, there.distance, atol=1e-9)
    lengths = [np.linalg.norm(p.q @ np.linalg.inv(c.lattice).T, axis=-1) for p, c in ((here, SILICON), (there, other))]
    np.testing.assert_allclose(*lengths, atol=1e-9)


def test_hexagonal_points():
    """M lies on an edge's middle, K on a corner: |ΓM| = 1/(a√3), |ΓK| = 2/(3a), |ΓA| = 1/2c."""
    a, c = 3.2, 5.2
    magnesium = Entry(
        "Mg", np.array([12, 12]), np.array([[1 / 3, 2 / 3, 0.25], [2 / 3, 1 / 3, 0.75]]),
        np.array([[a, 0, 0], [-a / 2, a * 3**0.5 / 2, 0], [0, 0, c]]), {},
    )  # fmt: skip
    path = band_path(magnesium)
    at = {name: np.linalg.norm(path.q[np.abs(path.distance - d).argmin()] @ np.linalg.inv(magnesium.lattice).T)
          for d, name in path.ticks}  # fmt: skip
    np.testing.assert_allclose([at["M"], at["K"]], [1 / (a * 3**0.5), 2 / (3 * a)], rtol=1e-6)
    assert at["A"] == pytest.approx(1 / (2 * c), rel=1e-6)


def test_what_has_no_path():
    cube = SILICON._replace(numbers=np.full(8, 14), lattice=EDGE * np.eye(3))
    corners = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    with pytest.raises(ValueError, match="8 atoms, its primitive cell 2"):
        band_path(cube._replace(frac=np.concatenate([corners, corners + 0.25])))
    with pytest.raises(ValueError, match="spacing_per_angstrom"):
        band_path(SILICON, spacing_per_angstrom=0.0)
