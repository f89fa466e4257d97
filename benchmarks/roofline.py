"""The floor of each hot path: its operations and bytes, and how near this machine comes to it.

    python benchmarks/roofline.py --out benchmarks/roofline.json [--nequix PATH/TO/nequix-mp-1.nqx]

Operations of matrix products (two per multiply-add) are counted in the traced program, loops by their length, so they
are those of the algorithm, whatever a compiler makes of it. Bytes are what cannot be avoided: arguments and results,
each once; what lies between may stay in cache. The floor on this machine is the operations over the rate of a product
of 2048 x 2048 matrices in single precision, measured beside them. `H200` is the larger of operations over 67 TFLOP/s
(single precision without tensor cores, NVIDIA's data sheet) and bytes over 4.8 TB/s: a bound, not a forecast.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from crysjax.base import Condition
from crysjax.crystallography.wyckoff_view import wyckoff_view
from crysjax.data import batching, datasets
from crysjax.data.readers.part import read_part
from crysjax.geometry.neighbors import radius_graph_host
from crysjax.models import registry
from crysjax.potentials import mlip
from crysjax.reports import record
from crysjax.training import tasks

H200_FLOPS, H200_BYTES = 67e12, 4.8e12
PAIRS, REPEATS = 2048, 5
SAMPLING = {"mp_20_generator": "one step of sampling", "mp_20_wyckoff": "sampling"}


class Path(NamedTuple):
    """A hot path as a function of arrays, and the crystals of one call."""

    name: str
    call: Callable
    arguments: tuple
    crystals: int


def products(jaxpr: Any) -> float:
    """Operations of all matrix products of a jaxpr; the longest branch of a `cond`, one turn of a `while`."""
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2.0 * prod(equation.outvars[0].aval.shape) * prod(shape[axis] for axis in contracted)
    inner = [products(each) for each in _programs(equation.params)]
    if equation.primitive.name == "cond":
        return max(inner, default=0.0)
    return equation.params.get("length", 1) * sum(inner) if equation.primitive.name == "scan" else sum(inner)


def _programs(parameters: dict) -> list:
    """The jaxprs within an equation."""
    found = [v for value in parameters.values() for v in (value if isinstance(value, tuple | list) else (value,))]
    return [getattr(each, "jaxpr", each) for each in found if hasattr(getattr(each, "jaxpr", each), "eqns")]


def size(tree: Any) -> int:
    """Bytes of all arrays."""
    return sum(prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def row(path: Path, rate: float) -> dict[str, Any]:
    """Operations, bytes, times and the share of this machine's rate for one path."""
    traced, shape = jax.make_jaxpr(path.call, return_shape=True)(*path.arguments)
    flops, moved = products(traced.jaxpr), size(path.arguments) + size(shape)
    call = jax.jit(path.call)
    begun = time.perf_counter()
    jax.block_until_ready(call(*path.arguments))
    first, seconds = time.perf_counter() - begun, []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        jax.block_until_ready(call(*path.arguments))
        seconds.append(time.perf_counter() - begun)
    best = min(seconds)
    return {
        "path": path.name, "crystals": path.crystals, "gflop": flops / 1e9, "mb": moved / 1e6,
        "flop_per_byte": flops / moved, "ms": 1e3 * best, "floor_ms": 1e3 * flops / rate,
        "share_of_floor": flops / rate / best, "first_call_s": first - best,
        "h200_bound_ms": 1e3 * max(flops / H200_FLOPS, moved / H200_BYTES),
    }  # fmt: skip


def matmul_rate() -> float:
    """Operations per second of a product of 2048 x 2048 matrices, the best of five."""
    a = jnp.ones((2048, 2048))
    call = jax.jit(lambda a: a @ a)
    jax.block_until_ready(call(a))
    seconds = []
    for _ in range(5):
        begun = time.perf_counter()
        jax.block_until_ready(call(a))
        seconds.append(time.perf_counter() - begun)
    return 2 * 2048**3 / min(seconds)


def paths(nequix: str) -> list[Path]:
    """The hot paths on packs of real structure types (`aflow-prototypes`, up to 20 atoms)."""
    every = read_part("aflow-prototypes")
    every = datasets.take(every, np.flatnonzero(every.num_atoms <= 20))
    shape = batching.capacity(every.num_atoms, PAIRS)
    rows = batching.assign(every.num_atoms, shape)[0]
    pack, labels = jax.tree.map(
        lambda leaf: jnp.asarray(leaf[0]), tasks.labeled(every, [rows], shape, (), wyckoff_view(every))
    )
    found = [*generators(pack, labels, len(rows)), predictor(pack, len(rows))]
    potentials = {"student": mlip.STUDENT} | ({"nequix-mp-1": nequix} if nequix else {})
    return found + [forces(name, path, pack, len(rows)) for name, path in potentials.items()]


def generators(pack: Any, labels: batching.Labels, crystals: int) -> list[Path]:
    """Sampling, and the loss with its gradient, of each shipped generator that draws from noise or from nothing."""
    found = []
    for name in SAMPLING:
        model = registry.load_model(name, "generator", {"generator.steps": 1} if name == "mp_20_generator" else {})
        unknown = jnp.full((len(pack.lattice), len(model.config["properties"])), jnp.nan)
        condition = Condition(unknown, jnp.zeros(len(pack.lattice), jnp.int32), *labels.views)
        key, loss = jax.random.key_data(jax.random.key(0)), tasks.generator_loss(model.build)
        drawn = partial(_drawn, model.build.sample)
        found.append(Path(f"{name}: {SAMPLING[name]}", drawn, (model.params, key, pack, condition), crystals))
        slope = partial(_slope, loss)
        known = labels._replace(properties=unknown)
        found.append(Path(f"{name}: loss and gradient", slope, (model.params, key, pack, known), crystals))
    return found


def _drawn(sample: Callable, params: Any, key: jax.Array, pack: Any, condition: Condition) -> Any:
    return sample(params, jax.random.wrap_key_data(key), pack, condition)


def _slope(loss: Callable, params: Any, key: jax.Array, pack: Any, labels: batching.Labels) -> Any:
    return jax.value_and_grad(loss, has_aux=True)(params, jax.random.wrap_key_data(key), pack, labels)


def predictor(pack: Any, crystals: int) -> Path:
    """Property heads with their uncertainty."""
    model = registry.load_model("mp_20_heads", "heads")
    return Path("mp_20_heads: predictions", model.build.predict, (model.params, pack), crystals)


def forces(name: str, path: Any, pack: Any, crystals: int) -> Path:
    """Energies, forces and stresses, which a relaxation repeats."""
    potential, params = mlip.load_potential(path)
    graph = radius_graph_host(jax.tree.map(np.asarray, pack), potential.cutoff_angstrom)
    return Path(f"{name}: energies, forces, stresses", potential.energy_forces_stress, (params, pack, graph), crystals)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nequix", default="", help="published weights of Nequix, to be measured as well")
    parser.add_argument("--out", default="", help="raw result, JSON")
    options = parser.parse_args()
    rate, rows = matmul_rate(), []
    print(f"{rate / 1e9:.0f} GFLOP/s in a product of 2048 x 2048 matrices\n")
    print("| path | crystals | GFLOP | MB | FLOP per byte | ms | floor, ms | share | first call, s | H200, ms |")
    print("| --- |" + " --- |" * 9)
    for path in paths(options.nequix):
        rows.append(row(path, rate))
        print("| " + " | ".join(v if isinstance(v, str) else f"{v:.3g}" for v in rows[-1].values()) + " |", flush=True)
    if options.out:
        record.write(options.out, record.about(options) | {"matmul_gflops": rate / 1e9, "rows": rows})


if __name__ == "__main__":
    main()
