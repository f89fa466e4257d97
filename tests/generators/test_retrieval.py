"""The retrieval-based flow: an exact network leads from start to truth, the judge chooses, absent starts never win."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from crysjax.base import Condition, Network, Prediction, one_hot
from crysjax.data import batching
from crysjax.data.batching import Capacity
from crysjax.data.datasets import Entry, from_entries
from crysjax.generators.retrieval import retrieval
from crysjax.geometry import lattice as lattices
from crysjax.geometry import torus
from crysjax.nets.dense import dense
from crysjax.retrieval.start_view import start_view

SHAPE = Capacity(sites=4, pairs=4, crystals=3)
# compiling is most of the time here
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False})


def crystal(name: str, numbers: list[int], second: float, edge: float, **properties) -> Entry:
    frac = np.array([[0.1, 0.1, 0.1], [0.1 + second] * 3])
    sites = {"was": np.array(numbers)}
    return Entry(name, np.array(numbers), frac, edge * np.eye(3), {"found": 1.0} | properties, sites)


TRUTH = from_entries([crystal("a", [11, 17], 0.5, 4.0), crystal("b", [19, 35], 0.25, 5.0)])
NEAR = from_entries([crystal("a", [17, 11], -0.45, 4.2, matched=1.0), crystal("b", [19, 35], 0.3, 4.9, matched=1.0)])
FAR = from_entries([crystal("a", [11, 17], 0.2, 4.0, distance=1.0), crystal("b", [19, 35], 0.5, 5.0, distance=1.0)])


def asked(start=None) -> Condition:
    return Condition(jnp.zeros((SHAPE.crystals, 0)), jnp.zeros(SHAPE.crystals, jnp.int32), start=start)


def pack_of(dataset):
    return jax.tree.map(jnp.asarray, batching.pack_rows(dataset, np.arange(2), SHAPE))


def view_of(*candidates):
    return jax.tree.map(jnp.asarray, start_view(TRUTH, candidates)(np.arange(2), SHAPE).start)


def exact(target, **settings):
    """A network that knows the way from any start to the target, in units of the two spreads."""

    def apply(params, pack, context):
        t = jnp.arccos(jnp.clip(context[:, 0], -1, 1)) / jnp.pi  # the first time feature is cos(pi t)
        left = jnp.maximum(t, 1e-3)
        gap = torus.log((pack.frac - target.frac)[1::2] - (pack.frac - target.frac)[::2])  # two sites per crystal
        way = jnp.stack([-gap / 2, gap / 2], 1).reshape(-1, 3) / left[pack.owner][:, None]
        atoms = jnp.array([2.0, 2.0, 0.0])
        change = lattices.encode(pack.lattice, atoms) - lattices.encode(target.lattice, atoms)
        scale = jnp.asarray(settings["lattice_scale"])[None]
        zeros = jnp.zeros((len(pack.frac), 100))
        features = jnp.zeros((len(atoms), 4))
        spread = settings["lattice_spread"] * scale * left[:, None]
        return Prediction(way / settings["frac_spread"], change / spread, zeros, zeros[:, :4], features)

    return retrieval(Network(lambda key, pack, context: {}, apply), **settings)


def test_an_exact_network_leads_from_the_start_to_the_truth():
    settings = dict(steps=3, frac_spread=0.02, lattice_spread=0.2, lattice_scale=(0.2,) * 6)
    truth, condition = pack_of(TRUTH), asked(view_of(NEAR))
    generator = exact(truth, **settings)
    params = jit(generator.init)(jax.random.key(0), truth, condition)
    metrics = jit(generator.loss)(params, jax.random.key(1), truth, condition)[1]
    assert float(metrics["frac"]) < 0.11 and float(metrics["lattice"]) < 0.11  # 0.1 is what no error reads
    drawn = jit(generator.sample)(params, jax.random.key(2), truth._replace(frac=0 * truth.frac), condition)
    assert np.abs(np.cbrt(np.linalg.det(drawn.lattice[:2])) - [4.0, 5.0]).max() < 1e-3
    gap = np.asarray(drawn.frac[1::2] - drawn.frac[::2]) % 1
    assert np.abs(gap - np.array([[0.5], [0.25]])).max() < 1e-4


def test_the_start_has_the_species_of_what_is_asked():
    """NEAR lists Cl before Na: its sites change places."""
    view = view_of(NEAR)
    assert np.allclose(view.frac[0, :2, 0], [0.65, 0.1])
    assert view.was[0, :2].tolist() == [11, 17]
    assert view.found.tolist() == [[1, 1, 0]]


def test_the_judge_learns_which_candidates_to_reject_and_absent_ones_never_win():
    """Right candidates differ from wrong ones in their distance: separable, so a short training finds it."""
    generator = retrieval(dense(width=16, layers=1, frequencies=4, geometry=4), steps=1)
    truth = pack_of(TRUTH)
    views = [asked(view_of(NEAR)), asked(view_of(FAR))]
    params = jit(generator.init)(jax.random.key(0), truth, views[0])
    optimizer = optax.adam(1e-2)

    def step(carry, key):
        params, state = carry
        gradients = [jax.grad(generator.loss, has_aux=True)(params, key, truth, v)[0] for v in views]
        updates, state = optimizer.update(jax.tree.map(jnp.add, *gradients), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(1), 60)
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by integer step counts
        (params, _), _ = jit(lambda p, k: jax.lax.scan(step, (p, optimizer.init(p)), k))(params, keys)
    sample = jit(generator.sample)
    chosen = sample(params, jax.random.key(2), truth, asked(view_of(FAR, NEAR)))
    alone = sample(params, jax.random.key(2), truth, asked(view_of(NEAR)))
    assert np.allclose(chosen.frac, alone.frac, atol=1e-6)
    absent = view_of(FAR, NEAR)
    absent = absent._replace(found=absent.found.at[1].set(0))
    left = sample(params, jax.random.key(2), truth, asked(absent))
    assert np.allclose(left.frac, sample(params, jax.random.key(2), truth, asked(view_of(FAR))).frac, atol=1e-6)


def test_without_a_view_the_template_itself_is_the_start():
    settings = dict(steps=2, frac_spread=0.02, lattice_spread=0.2, lattice_scale=(0.2,) * 6)
    truth = pack_of(TRUTH)
    generator = exact(truth, **settings)
    params = jit(generator.init)(jax.random.key(0), truth, asked(view_of(NEAR)))
    drawn = jit(generator.sample)(params, jax.random.key(2), truth, asked())
    assert np.allclose(drawn.frac[:4], truth.frac[:4], atol=1e-5)
    assert np.allclose(drawn.occupancy, one_hot(jnp.array([11, 17, 19, 35])))
