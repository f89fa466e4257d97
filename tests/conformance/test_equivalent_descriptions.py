"""The table of equivalent descriptions: what is said of a crystal does not change with the cell that describes it.

A line of `FUNCTIONS` per function of a crystal. Networks have random weights of a size that makes every wrong feature
visible; the shipped models are asked about real crystals in `experiments/equivalence`. What turns and moves with the
crystal is in `test_equivalent_answers.py`.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import Crystal, Pack
from crysjax.data import batching
from crysjax.models import registry
from crysjax.nets.equivariant import equivariant
from crysjax.nets.graph import graph
from crysjax.predictors import novelty, synthesizability
from crysjax.predictors.ensembles import ensemble
from crysjax.predictors.heads import aware, heads
from tests.support import EQUIVALENT, crystal

SHAPE = batching.Capacity(sites=40, pairs=800, crystals=2)
NETWORKS = {
    "graph": graph(width=16, layers=2, angular=4, radial_basis=8),
    "equivariant": equivariant(
        hidden_irreps="8x0e + 4x1o + 2x2e", layers=1, neighbors=12.0, max_neighbors=30, radial_width=8
    ),
}
KNOWN = {"names": ("band_gap_ev", "formation_energy_ev_per_atom"), "center": (1.0, -1.0), "scale": (1.5, 1.0)}
TOLERANCE = 1e-4  # of the std over crystals, for float32


def crystals() -> list[Crystal]:
    """Real structure types (rock salt, wurtzite, perovskite) and two without any symmetry."""
    rng = np.random.default_rng(0)
    face = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
    wurtzite = [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.375], [2 / 3, 1 / 3, 0.875]]
    hexagonal = [[3.25, 0, 0], [-1.625, 2.8146, 0], [0, 0, 5.2]]
    cubic = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    cells = {n: 3.2 * np.cbrt(n) * np.eye(3) + rng.normal(0, 0.4, (3, 3)) for n in (3, 6)}
    drawn = [crystal(rng.integers(1, 90, n), rng.random((n, 3)), cell) for n, cell in cells.items()]
    return [
        crystal([12, 8], [[0, 0, 0], [0.5, 0.5, 0.5]], 4.21 * face),
        crystal([30, 30, 8, 8], wurtzite, hexagonal),
        crystal([38, 22, 8, 8, 8], cubic, 3.9 * np.eye(3)),
        *drawn,
    ]


def pack_of(c: Crystal) -> Pack:
    n = len(c.frac)
    occupancy, frac = np.zeros((SHAPE.sites, c.occupancy.shape[1]), np.float32), np.zeros((SHAPE.sites, 3), np.float32)
    occupancy[:n], frac[:n] = c.occupancy, c.frac
    lattice = np.stack([c.lattice, np.eye(3, dtype=np.float32)])
    return jax.tree.map(jnp.asarray, Pack(occupancy, frac, lattice, *batching.topology(np.array([n]), SHAPE)))


def random_like(init: Callable, scale: float = 0.4):
    shapes = jax.eval_shape(init, jax.random.key(0), pack_of(crystals()[0]))
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda x: jnp.asarray(scale * rng.normal(size=x.shape), x.dtype), shapes)


def _of_heads(network: str) -> Callable[[Pack], jax.Array]:
    model = heads(NETWORKS[network], **KNOWN, least=(0.0, None), hidden=8)
    params = random_like(model.init)
    return lambda pack: model.predict(params, pack).value[0]


def _of_aware_ensemble() -> Callable[[Pack], jax.Array]:
    """Value, std and novelty; every element but two is unseen, and the features are measured on other crystals."""
    one = heads(NETWORKS["graph"], **KNOWN, least=(0.0, None), hidden=8)
    many = ensemble(one, members=2)
    params = random_like(many.init)
    rng = np.random.default_rng(3)
    seen = novelty.known(rng.normal(size=(200, 16)), rng.random((200, 100)) < 0.02)
    params = params | {"known": {k: jnp.asarray(np.stack([v] * 2), jnp.float32) for k, v in seen.items()}}
    model = aware(many, slope=(0.5, 0.7), usual=0.0, limit=2.0)

    def ask(pack: Pack) -> jax.Array:
        said = model.predict(params, pack)
        return jnp.concatenate([said.value[0], said.std[0], model.novelty(params, pack)[:1]])

    return ask


def _of_classifier() -> Callable[[Pack], jax.Array]:
    model = synthesizability.classifier(NETWORKS["graph"], prior=0.3, hidden=8)
    params = random_like(model.init)
    return lambda pack: model.predict(params, pack).value[0]


def _of_shipped_novelty() -> Callable[[Pack], jax.Array]:
    """How far a crystal is from the training data of the shipped heads, with their own weights."""
    model = registry.load_model("mp_20_heads", "heads")
    return lambda pack: model.build.novelty(model.params, pack)[:1]


FUNCTIONS = {
    "heads on graph": lambda: _of_heads("graph"),
    "heads on equivariant": lambda: _of_heads("equivariant"),
    "ensemble aware of its data: value, std, novelty": _of_aware_ensemble,
    "synthesizability": _of_classifier,
    "novelty of the shipped heads": _of_shipped_novelty,
}


@pytest.fixture(scope="module", params=list(FUNCTIONS))
def asked(request) -> tuple[Callable, np.ndarray]:
    ask = jax.jit(FUNCTIONS[request.param](), compiler_options={"xla_backend_optimization_level": 0})
    said = np.stack([np.asarray(ask(pack_of(c))) for c in crystals()])
    assert np.isfinite(said).all() and (said.std(0) > 1e-3).all(), "too small to show anything"
    return ask, said


@pytest.mark.parametrize("kind", list(EQUIVALENT))
def test_description_changes_nothing(asked, kind):
    ask, said = asked
    found = np.stack([np.asarray(ask(pack_of(EQUIVALENT[kind](c)))) for c in crystals()])
    assert (np.abs(found - said).max(0) / said.std(0)).max() < TOLERANCE
