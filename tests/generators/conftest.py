"""Two known prototypes in known shares: what an autoencoder can recover, and how a test trains it."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from crysjax.base import Condition, Pack, one_hot
from crysjax.data import batching
from crysjax.generators import processes
from crysjax.nets.dense import dense

CRYSTALS, SHARE = 64, 0.3
EDGES, OFFSETS = (4.0, 4.8), (0.5, 0.25)  # Å, and the second site along (1, 1, 1)
OWNER, PAIRS, MASK = map(
    jnp.asarray, batching.topology(np.full(CRYSTALS, 2), batching.Capacity(2 * CRYSTALS, CRYSTALS, CRYSTALS))
)
NETWORK = dense(width=24, layers=1, frequencies=4, geometry=4)
SETTINGS = dict(
    frac=processes.torus_flow(),
    lattice=processes.euclidean_flow(),
    species=processes.discrete_flow(),
    steps=16,
    known_fraction=1.0,
    lattice_center=(0.0, 0.0, 0.0, 0.0, 0.0, 1.9),
    lattice_scale=(0.2,) * 6,
)
# compiling is most of the time here
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False})


def crystals(key: jax.Array, second: jax.Array) -> Pack:
    """Cubic cells of Na and Cl, of the second prototype where `second` (b,), shifted at random."""
    edge, offset = jnp.where(second, EDGES[1], EDGES[0]), jnp.where(second, OFFSETS[1], OFFSETS[0])
    first = jax.random.uniform(key, (CRYSTALS, 3))
    frac = jnp.stack([first, (first + offset[:, None]) % 1], 1).reshape(-1, 3)
    lattice = edge[:, None, None] * jnp.eye(3)[None]
    return Pack(one_hot(jnp.tile(jnp.array([11, 17]), CRYSTALS)), frac, lattice, OWNER, PAIRS, MASK)


def draw(key: jax.Array) -> tuple[Pack, jax.Array]:
    """Crystals in their shares, and which are of the second prototype."""
    key_kind, key_place = jax.random.split(key)
    second = jax.random.bernoulli(key_kind, SHARE, (CRYSTALS,))
    return crystals(key_place, second), second


def edges(pack: Pack) -> np.ndarray:
    """Cell edges in Å."""
    return np.cbrt(np.linalg.det(np.asarray(pack.lattice)))


def is_second(pack: Pack) -> np.ndarray:
    """Which prototype a crystal is nearer to, by its cell."""
    return edges(pack) > sum(EDGES) / 2


def offset_error(pack: Pack) -> float:
    """Mean distance of the second site's fractions from the prototype that the cell belongs to."""
    pair = np.asarray(pack.frac).reshape(-1, 2, 3)
    found = np.abs((pair[:, 1] - pair[:, 0] + 0.5) % 1 - 0.5)
    return float(np.abs(found - np.where(is_second(pack), OFFSETS[1], OFFSETS[0])[:, None]).mean())


def nothing(k: int = 0) -> Condition:
    """No property given."""
    return Condition(jnp.full((CRYSTALS, k), jnp.nan), jnp.zeros(CRYSTALS, jnp.int32))


def train(generator, condition_of, steps: int, rate: float = 1e-2):
    """Parameters after `steps` of Adam on fresh packs; `condition_of(pack)` labels them."""
    optimizer = optax.adam(optax.cosine_decay_schedule(rate, steps))

    def step(carry, key):
        params, state = carry
        key_data, key_loss = jax.random.split(key)
        pack = draw(key_data)[0]
        gradient, metrics = jax.grad(generator.loss, has_aux=True)(params, key_loss, pack, condition_of(pack))
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), metrics

    def run(key):
        pack = draw(key)[0]
        params = generator.init(key, pack, condition_of(pack))
        return jax.lax.scan(step, (params, optimizer.init(params)), jax.random.split(key, steps))

    with jax.numpy_dtype_promotion("standard"):  # optax promotes its count of steps
        (params, _), metrics = jit(run)(jax.random.key(0))
    return params, jax.tree.map(lambda m: float(m[-20:].mean()), metrics)


@pytest.fixture(scope="session")
def prototypes() -> SimpleNamespace:
    """Everything above, for the tests of this folder."""
    return SimpleNamespace(**{k: v for k, v in globals().items() if not k.startswith("_")})
