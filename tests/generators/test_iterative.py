"""The iterative generator: what a template fixes is kept, an exact network is inverted, gradients are right."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crysjax.base import UNKNOWN, Condition, Network, Pack, Prediction, numbers, one_hot
from crysjax.data import batching
from crysjax.generators import processes
from crysjax.generators.coordinates import SPACE_GROUPS
from crysjax.generators.iterative import iterative
from crysjax.geometry import lattice as lattices
from crysjax.geometry import torus
from crysjax.nets.dense import dense

# compiling is most of the time here
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False})
NETWORK = dense(width=16, layers=2, frequencies=4, geometry=4, scan_layers=True)
FIELDS = {
    "flow": dict(frac=processes.torus_flow(), lattice=processes.euclidean_flow(), species=processes.simplex_flow()),
    "diffusion": dict(
        frac=processes.torus_diffusion(), lattice=processes.euclidean_diffusion(), species=processes.discrete_flow()
    ),
    "uniform": dict(
        frac=processes.torus_flow(),
        lattice=processes.euclidean_flow(),
        species=processes.discrete_flow(noise="uniform"),
    ),
}


def template(rows: list[list[int]], shape: batching.Capacity) -> Pack:
    """Atomic numbers of each crystal, 0 = any element."""
    sizes = np.array([len(r) for r in rows])
    owner, pairs, mask = batching.topology(sizes, shape)
    z = jnp.asarray([z for r in rows for z in r] + [0] * (shape.sites - sizes.sum()))
    real = (jnp.arange(shape.sites) < sizes.sum())[:, None]
    occupancy = jnp.where((z == 0)[:, None] & real, UNKNOWN, one_hot(z))
    unit = jnp.tile(jnp.eye(3)[None], (shape.crystals, 1, 1))
    return Pack(occupancy, jnp.zeros((shape.sites, 3)), unit, jnp.asarray(owner), jnp.asarray(pairs), jnp.asarray(mask))


def nothing(crystals: int, k: int = 0) -> Condition:
    return Condition(jnp.full((crystals, k), jnp.nan), jnp.zeros(crystals, jnp.int32))


def shaken(params, size: float = 0.3):
    """Parameters away from the zero read-outs of the start."""
    rng = np.random.default_rng(5)  # NumPy: every leaf has its own shape, and would be compiled for
    return jax.tree.map(lambda v: jnp.asarray(v + size * rng.normal(size=v.shape), v.dtype), jax.device_get(params))


SHAPE = batching.Capacity(sites=12, pairs=32, crystals=4)


@pytest.mark.parametrize("kind", list(FIELDS))
def test_known_species_are_held_and_free_ones_stay_allowed(kind):
    generator = iterative(NETWORK, **FIELDS[kind], steps=8)
    pack = template([[22, 8, 8], [0, 0, 0, 31]], SHAPE)
    allowed = jnp.zeros(100).at[jnp.array([13, 33]) - 1].set(0.5)
    free = pack.occupancy.max(-1, keepdims=True) == UNKNOWN
    pack = pack._replace(occupancy=jnp.where(free, allowed[None], pack.occupancy))
    params = shaken(jit(generator.init)(jax.random.key(0), pack, nothing(4)))
    sample = jit(generator.sample)
    seen = set()
    for seed in range(20):
        found = numbers(sample(params, jax.random.key(seed), pack, nothing(4)).occupancy).tolist()
        assert found[:3] == [22, 8, 8] and found[6] == 31 and found[7:] == [0] * 5
        seen |= set(found[3:6])
    assert seen <= {13, 33}
    again = sample(params, jax.random.key(19), pack, nothing(4))
    np.testing.assert_array_equal(numbers(again.occupancy), found)


def exact_network(target: Pack, coordinates: jax.Array) -> Network:
    """A network that knows the one crystal there is, and answers what flow matching asks for exactly."""

    def apply(params, pack: Pack, context: jax.Array) -> Prediction:
        t = context[:, -(SPACE_GROUPS + 1)][pack.owner][:, None]
        velocity = torus.log(pack.frac - target.frac) / t
        logits = jnp.log(jnp.maximum(target.occupancy, 1e-6))
        return Prediction(velocity, coordinates, logits, pack.frac, pack.lattice[:, 0])

    return Network(lambda *_: {}, apply)


@pytest.mark.parametrize("sampler", ["euler", "heun", "multistep"])
def test_sampling_with_an_exact_network_returns_the_crystal(sampler):
    rng = np.random.default_rng(0)
    pack = template([[22, 8, 8, 3], [6, 7]], SHAPE)
    lattice = jnp.asarray(5 * np.eye(3)[None] + rng.normal(size=(4, 3, 3)), jnp.float32)
    target = pack._replace(frac=jnp.asarray(rng.random((12, 3)), jnp.float32), lattice=lattice)
    atoms = jnp.array([4.0, 2.0, 0.0, 0.0])
    generator = iterative(
        exact_network(target, (lattices.encode(lattice, atoms) - jnp.array([[0, 0, 0, 0, 0, 1.6]])) / 0.2),
        **FIELDS["uniform"],
        steps=40,
        sampler=sampler,
        lattice_scale=(0.2,) * 6,
    )
    free = pack._replace(occupancy=pack.occupancy * 0 + UNKNOWN * pack.occupancy.sum(-1, keepdims=True))
    found = jit(generator.sample)({}, jax.random.key(0), free, nothing(4))
    np.testing.assert_array_equal(numbers(found.occupancy), numbers(pack.occupancy))
    for k, sites in enumerate([slice(0, 4), slice(4, 6)]):
        shift = torus.log(found.frac - target.frac)[sites]
        np.testing.assert_allclose(torus.log(shift - shift[:1]), 0, atol=1e-4)  # equal up to a translation
        metric = lattices.metric(lattice[k])
        np.testing.assert_allclose(lattices.metric(found.lattice[k]) / metric.max(), metric / metric.max(), atol=2e-4)


def double(tree):
    """Every float leaf in float64, on the host."""
    return jax.tree.map(lambda x: x.astype(np.float64) if x.dtype.kind == "f" else x, jax.device_get(tree))


def test_the_default_sampler_is_the_plain_loop_of_steps():
    """What version 0.1 did, key by key: a seed of then is the same crystal now. The network amplifies nothing."""

    def apply(params, pack: Pack, context: jax.Array) -> Prediction:
        logits = jnp.broadcast_to(jnp.cos(jnp.arange(100.0))[None], pack.occupancy.shape)
        coordinates = jnp.full((4, 6), 0.4)
        return Prediction(0.3 * jnp.sin(2 * jnp.pi * pack.frac), coordinates, logits, pack.frac, pack.lattice[:, 0])

    fields = processes.torus_diffusion(), processes.euclidean_flow(), processes.discrete_flow()
    generator = iterative(Network(lambda *_: {}, apply), **dict(zip(("frac", "lattice", "species"), fields)), steps=6)
    pack, dt = template([[22, 8, 8], [0, 0, 0, 31]], SHAPE), jnp.asarray(1 / 6, jnp.float32)
    noise = generator.noise(jax.random.key(0), pack)
    x, known = list(noise), (pack.occupancy.max(-1) > 0.5)[:, None]
    x[2] = jnp.where(known, pack.occupancy, x[2])
    for key, t in zip(jax.random.split(jax.random.key(1), 6), jnp.linspace(1, 1 / 6, 6)):
        said = apply({}, pack._replace(frac=x[0]), x[0])
        said = said.frac, said.lattice, jnp.where(pack.occupancy > 0, said.species, -1e9)
        times = [jnp.full((len(v), 1), t) for v in x]
        x = [p.step(k, v, y, s, dt, pack) for p, k, v, y, s in zip(fields, jax.random.split(key, 3), x, said, times)]
        x[2] = jnp.where(known, pack.occupancy, x[2])
    found = jit(generator.decode)({}, jax.random.key(1), noise, pack, nothing(4))
    np.testing.assert_allclose(torus.log(found.frac - x[0]), 0, atol=1e-5)
    np.testing.assert_array_equal(found.occupancy.argmax(-1)[:7], x[2].argmax(-1)[:7])
    coordinates = x[1] * jnp.array([[0.2] * 5 + [0.3]]) + jnp.array([[0.0] * 5 + [1.6]])
    expected = lattices.decode(coordinates, jnp.array([3.0, 4.0, 0.0, 0.0]))
    np.testing.assert_allclose(found.lattice, expected, rtol=1e-5, atol=1e-5)


def test_guidance_zero_is_the_conditional_model_and_minus_one_the_free_one():
    settings = dict(property_center=(0.0,), property_scale=(1.0,), steps=3)
    pack = template([[22, 8, 8]], SHAPE)
    asked = nothing(4, 1)._replace(properties=jnp.full((4, 1), 2.0))
    made = {w: iterative(NETWORK, **FIELDS["flow"], **settings, guidance=w) for w in (0.0, -1.0)}
    params = shaken(jit(made[0.0].init)(jax.random.key(0), pack, asked))
    free = jit(made[0.0].sample)(params, jax.random.key(1), pack, nothing(4, 1))
    guided = jit(made[-1.0].sample)(params, jax.random.key(1), pack, asked)
    np.testing.assert_allclose(free.lattice, guided.lattice, rtol=1e-5)
    given = jit(made[0.0].sample)(params, jax.random.key(1), pack, asked)
    assert not np.allclose(free.lattice[0], given.lattice[0], rtol=1e-3)


def test_loss_asks_about_species_only_where_they_are_free():
    pack = template([[22, 8, 8], [6, 7, 8, 9]], SHAPE)
    pack = pack._replace(frac=jax.random.uniform(jax.random.key(1), pack.frac.shape))
    for fraction, expected in ((1.0, 0.0), (0.0, None)):
        generator = iterative(NETWORK, **FIELDS["flow"], known_fraction=fraction)
        params = jit(generator.init)(jax.random.key(0), pack, nothing(4))
        _, metrics = jit(generator.loss)(params, jax.random.key(2), pack, nothing(4))
        # an untrained network (zero read-outs) gives every element the same probability
        np.testing.assert_allclose(metrics["species"], np.log(100) if expected is None else expected, rtol=1e-5)


def test_the_gradient_through_the_sampler_is_that_of_finite_differences():
    """d(sample)/d(noise, condition) in float64, relative error below 1e-3 (it is about 1e-8)."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):  # flax promotes inside LayerNorm
        network = dense(width=8, layers=1, frequencies=3, geometry=3, scan_layers=True, dtype="float64")
        generator = iterative(network, **FIELDS["flow"], property_center=(0.0,), property_scale=(1.0,), steps=5)
        pack = double(template([[22, 0, 8]], SHAPE))
        asked = Condition(jnp.full((4, 1), 0.7), jnp.zeros(4, jnp.int32))
        params = shaken(double(jit(generator.init)(jax.random.key(0), pack, asked)), 0.2)
        noise = jit(generator.noise)(jax.random.key(3), pack)

        def value(noise, properties):
            out = generator.decode(params, jax.random.key(4), noise, pack, asked._replace(properties=properties))
            positions = jnp.sum(jnp.sin(2 * jnp.pi * out.frac[:3]) * jnp.arange(9.0).reshape(3, 3))
            return positions + jnp.sum(out.lattice[0] * jnp.arange(9.0).reshape(3, 3))

        evaluate = jit(value)
        gradient = jit(jax.grad(value, argnums=(0, 1)))(noise, asked.properties)
        gradient, point = jax.device_get((gradient, (noise, asked.properties)))
        rng = np.random.default_rng(6)
        direction = jax.tree.map(lambda x: rng.normal(size=x.shape), point)

        def moved(move, size: float):
            return evaluate(*jax.tree.map(lambda x, d: x + size * d, point, move))

        for part in ("frac", "lattice", "species", "condition"):
            zero = jax.tree.map(np.zeros_like, direction)
            if part == "condition":
                move = (zero[0], direction[1])
            else:
                move = (zero[0]._replace(**{part: getattr(direction[0], part)}), zero[1])
            plus, minus, h = moved(move, 1e-5), moved(move, -1e-5), 1e-5
            expected = (plus - minus) / (2 * h)
            found = sum(np.sum(a * b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(move)))
            assert abs(found - expected) < 1e-3 * max(abs(expected), 1e-3), part
            assert abs(expected) > 1e-6, part
