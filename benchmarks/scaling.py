"""Time against the size of crystals, the size of packs and the number of devices, with the shipped generator.

    python benchmarks/scaling.py [--quick] [--out scaling.json] [--plot benchmarks/scaling.svg]

Sampling: the whole of `sampling.draws.sample`, packing and unpacking included, at the model's own 50 steps. Devices:
simulated ones of the host, each count in a process of its own, with the same 8 packs per step. Simulated devices share
the host's cores and cannot be faster than these; what their rows show is that the results agree and that the overhead
stays small. Sampling uses one device whatever their number. Every time is a median of 3 calls after a first one;
"compile" is what the first took beyond the median: tracing and compilation.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from crysjax.data import batching, datasets, files
from crysjax.data.datasets import Dataset
from crysjax.models import registry
from crysjax.models.registry import Model
from crysjax.reports import charts, set_charts
from crysjax.reports.charts import BOTTOM, HEIGHT, LEFT, RIGHT, WIDTH, Scale
from crysjax.sampling import draws
from crysjax.training import loop, tasks

MODEL, REPEATS, TILES = "mp_20_generator", 3, 8
SIZE_PAIRS, SIZE_PACKS = 3200, 2  # one crystal of 80 atoms has 3,160 pairs
TRAIN_PAIRS = 1024  # as the model was trained
# The order of eight sums moves their mean by 7 roundings at most; the same again for each tile's own sums, which the
# compiler may order as it likes. Adam divides by the gradient's size, so that later steps differ by more.
LOSS_TOLERANCE = 14 * float(np.finfo(np.float32).eps)


class Plan(NamedTuple):
    """What is measured: `--quick` is the second of the two below."""

    steps: int  # of the sampler
    atoms: tuple[int, ...]
    pairs: tuple[int, ...]
    devices: tuple[int, ...]
    count: int  # crystals drawn for each size of a pack
    device_count: int  # crystals drawn for each number of devices


WHOLE = Plan(20, (5, 10, 20, 40, 80), (256, 512, 1024, 2048, 4096, 8192), (1, 2, 4, 8), 300, 200)
QUICK = Plan(1, (5, 80), (512, 2048), (1, 2), 50, 50)


def timed(call: Callable[[], object]) -> tuple[float, float]:
    """Median seconds of a call that returns host values, and how much longer its first one took."""
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1:])
    return median, seconds[0] - median


def draw(model: Model, num_atoms: np.ndarray, pairs: int) -> Dataset:
    """Crystals of these sizes, all sites free and no property asked for; the same ones at every call."""
    asked = np.full((len(num_atoms), len(model.config["properties"])), np.nan, np.float32)
    free = draws.blank(num_atoms)
    return draws.sample(model.build, model.params, jax.random.key(1), free, asked, pairs=pairs)


def sampled(model: Model, plan: Plan, num_atoms: np.ndarray, pairs: int) -> dict[str, float]:
    """A row of sampling: milliseconds per crystal, and microseconds per pair (of two sites of a crystal) and step."""
    shape = batching.capacity(num_atoms, pairs)
    packs, real = len(batching.assign(num_atoms, shape)), int((num_atoms * (num_atoms - 1) // 2).sum())
    seconds, extra = timed(lambda: draw(model, num_atoms, pairs))
    counts = {"crystals": len(num_atoms), "packs": packs}
    return counts | {
        "filled_percent": 100 * real / (packs * shape.pairs),
        "ms_a_crystal": 1e3 * seconds / len(num_atoms),
        "us_a_pair_and_step": 1e6 * seconds / (real * plan.steps),
        "compile_s": extra,
    }


def by_size(model: Model, plan: Plan) -> list[dict]:
    """Crystals of one size at an equal number of pairs per pack, every pack full."""
    rows = []
    for n in plan.atoms:
        num_atoms = np.full(SIZE_PACKS * (SIZE_PAIRS // (n * (n - 1) // 2)), n)
        rows.append({"atoms": n} | sampled(model, plan, num_atoms, SIZE_PAIRS))
        show(rows)
    return rows


def by_pack(model: Model, plan: Plan) -> list[dict]:
    """Crystals of MP-20's sizes in packs of more and more pairs."""
    rows = []
    num_atoms = draws.draw_sizes(0, model.config["sizes"], plan.count)
    for pairs in plan.pairs:
        rows.append({"pairs": pairs} | sampled(model, plan, num_atoms, pairs))
        show(rows)
    return rows


def training_batch(model: Model) -> tuple:
    """`TILES` packs of random crystals of MP-20's sizes, 18 Å^3 per atom, with no label."""
    rng, num_atoms = np.random.default_rng(0), draws.draw_sizes(0, model.config["sizes"], 100 * TILES)
    crystals = draws.blank(num_atoms, rng.choice(model.config["elements"], num_atoms.sum()))
    crystals.frac[:] = rng.random(crystals.frac.shape)
    crystals.lattice[:] *= np.cbrt(18.0 * num_atoms)[:, None, None]
    shape = batching.capacity(num_atoms, TRAIN_PAIRS)
    batch = batching.stack(crystals, batching.assign(num_atoms, shape)[:TILES], shape)
    unknown = np.full((*batch.index.shape, len(model.config["properties"])), np.nan, np.float32)
    return batch.pack, batching.Labels(unknown, np.zeros(batch.index.shape, np.int32))


def trained(model: Model) -> dict:
    """Seconds a training step over all devices, and the loss of each step."""
    optimizer = loop.adamw(learning_rate=1e-4, steps=1000)
    step = loop.make_step(tasks.generator_loss(model.build), optimizer)
    own = jax.tree.map(np.array, model.params)  # a step gives its state's buffers away
    state, batch, losses = loop.initial(own, optimizer, jax.random.key(2)), training_batch(model), []

    def call() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready(state)
        losses.append(float(metrics["loss"]))

    seconds, extra = timed(call)
    return {"step_s": seconds, "step_compile_s": extra, "losses": losses}


def child(plan: Plan, devices: int, folder: Path) -> None:
    """One number of devices: the row as JSON on the last line, the crystals in a file."""
    assert len(jax.devices()) == devices, jax.devices()
    model = registry.load_model(MODEL, "generator", {"generator.steps": plan.steps})
    row = {"devices": devices} | trained(model)
    num_atoms, found = draws.draw_sizes(0, model.config["sizes"], plan.device_count), []
    seconds, extra = timed(lambda: found.append(draw(model, num_atoms, 2048)))
    datasets.save(found[-1], folder / f"{devices}.npz")
    print(json.dumps(row | {"crystals": len(num_atoms), "sample_s": seconds, "sample_compile_s": extra}))


def by_devices(plan: Plan, arguments: Sequence[str]) -> list[dict]:
    """The same training steps and samples with each number of simulated devices, and how far the results differ."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for devices in plan.devices:
            flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
            command = [sys.executable, __file__, *arguments, "--child", str(devices), folder]
            env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
            said = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
            row = json.loads(said.splitlines()[-1])
            rows.append(row | differences(row, [*rows, row][0], Path(folder)))
            show(rows)
    return rows


def differences(row: Mapping, first: Mapping, folder: Path) -> dict[str, float]:
    """Largest differences from the first number of devices: relative ones of the loss, sites and Å of the samples."""
    losses = np.abs(np.array(row["losses"]) / np.array(first["losses"]) - 1)
    a, b = (datasets.load(folder / f"{one['devices']}.npz") for one in (row, first))
    apart = np.abs((a.frac - b.frac + 0.5) % 1 - 0.5).max()
    return {
        "first_loss_difference": float(losses[0]),
        "loss_difference": float(losses.max()),
        "other_species": int((a.numbers != b.numbers).sum()),
        "frac_difference": float(apart),
        "lattice_difference_angstrom": float(np.abs(a.lattice - b.lattice).max()),
    }


def show(rows: Sequence[Mapping]) -> None:
    """The newest row as a line of markdown, under a heading if it is the first."""
    names = [name for name in rows[-1] if name != "losses"]
    if len(rows) == 1:
        print("\n| " + " | ".join(name.replace("_", " ") for name in names) + " |\n|" + " --- |" * len(names))
    print("| " + " | ".join(f"{rows[-1][name]:.4g}" for name in names) + " |", flush=True)


class Powers(NamedTuple):
    """A logarithmic axis between powers of ten, drawn by `charts.axis` as a `Scale` is."""

    low: int
    high: int
    tick: float  # the first value

    @classmethod
    def over(cls, values: Sequence[float]) -> Powers:
        """The axis that holds all the values, which are positive."""
        low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
        return cls(low, max(high, low + 1), 10.0**low)

    def __call__(self, value: float) -> float:
        return Scale(self.low, self.high, 1)(math.log10(value))

    def ticks(self) -> list[float]:
        return [10.0**k for k in range(self.low, self.high + 1)]


Curve = Sequence[tuple[float, float]]
TITLE = 34  # height of a panel's title
STYLE = """<style>
text { fill: #5b6470; font: 15px system-ui, sans-serif; } .strong { fill: #1b1f24; font-weight: 600; }
.grid { stroke: #e3e6eb; } .curve { fill: none; stroke: var(--c); stroke-width: 2; } .spot { fill: var(--c); }
.set0 { --c: #3d7dca; } .set1 { --c: #c2622d; } .ref { --c: #5b6470; stroke-dasharray: 5 4; } tspan { fill: var(--c); }
</style>"""


def panel(title: str, below: str, scale: Scale | Powers, curves: Mapping[str, Curve], guide: Curve = ()) -> str:
    """Curves over a logarithmic axis; `guide` is dashed and named "in proportion to pairs"."""
    places = sorted({x for curve in curves.values() for x, _ in curve})
    low, span = math.log(places[0]), math.log(places[-1] / places[0]) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + 24 + (math.log(x) - low) / span * (WIDTH - LEFT - RIGHT - 48), scale(y)

    def line(curve: Curve, kind: str) -> str:
        return f'<polyline class="curve {kind}" points="{" ".join("{:.1f},{:.1f}".format(*at(*p)) for p in curve)}"/>'

    parts, keys = [charts.axis(scale), line(guide, "ref")] if guide else [charts.axis(scale)], []
    for place, (name, curve) in enumerate(curves.items()):
        kind, spots = set_charts.css_class(place, name), [at(*p) for p in curve]
        parts.append(line(curve, kind))
        parts += [f'<circle class="spot {kind}" cx="{x:.1f}" cy="{y:.1f}" r="4"/>' for x, y in spots]
        keys.append(f'<tspan class="{kind}">&#160; &#160;— {name}</tspan>')
    keys += ['<tspan class="ref">&#160; &#160;- - in proportion to pairs</tspan>'] if guide else []
    y = HEIGHT - BOTTOM + 20
    parts += [f'<text x="{at(x, 1)[0]:.1f}" y="{y}" text-anchor="middle">{x:g}</text>' for x in places]
    parts.append(f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 2}" text-anchor="middle">{below}</text>')
    head = f'<text class="strong" x="{LEFT}" y="22">{title}</text><text x="{WIDTH - RIGHT}" y="22" text-anchor="end">'
    return f'{head}{"".join(keys)}</text><g transform="translate(0 {TITLE})">{"".join(parts)}</g>'


def drawing(found: Mapping[str, Sequence[Mapping]]) -> str:
    """The three panels as a file that needs no style sheet."""
    sizes = [(row["atoms"], row["ms_a_crystal"]) for row in found["sizes"]]
    packs = [(row["pairs"], row["ms_a_crystal"]) for row in found["packs"]]
    first, (most, slowest) = found["devices"][0], sizes[-1]
    guide = [(n, slowest * n * (n - 1) / (most * (most - 1))) for n, _ in sizes]
    ratios = {
        name: [(row["devices"], row[key] / first[key]) for row in found["devices"]]
        for name, key in (("training step", "step_s"), ("sampling, on one of them", "sample_s"))
    }
    powers = Powers.over([y for _, y in sizes + guide])
    linear, relative = ([0.0, *(y for curve in c for _, y in curve)] for c in ([packs], ratios.values()))
    panels = (
        panel("ms per crystal, sampling", "atoms per crystal", powers, {"generator": sizes}, guide),
        panel("ms per crystal, sampling", "pairs per pack, MP-20's sizes", Scale.over(linear), {"generator": packs}),
        panel("time, one device = 1", "simulated devices", Scale.over(relative), ratios),
    )
    tall = HEIGHT + TITLE + 22
    body = "".join(f'<g transform="translate(0 {k * tall})">{one}</g>' for k, one in enumerate(panels))
    body = f'{STYLE}<rect width="{WIDTH}" height="{3 * tall}" fill="#ffffff"/>{body}'
    picture = charts.svg(body, 3 * tall, "Time against size of crystals, of packs and number of devices")
    return picture.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few points and one sampler step, to try the script")
    parser.add_argument("--out", type=Path, help="a file for the numbers (JSON)")
    parser.add_argument("--plot", type=Path, help="a file for the drawing (SVG)")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    plan = QUICK if args.quick else WHOLE
    if args.child:
        return child(plan, int(args.child[0]), Path(args.child[1]))
    model = registry.load_model(MODEL, "generator", {"generator.steps": plan.steps})
    device, cores = jax.devices()[0].device_kind, len(os.sched_getaffinity(0))
    found = {"about": {"model": MODEL, "device": device, "cores": cores, "jax": jax.__version__} | plan._asdict()}
    print(", ".join(f"{name} {value}" for name, value in found["about"].items()))
    parts = {
        "sizes": lambda: by_size(model, plan),
        "packs": lambda: by_pack(model, plan),
        "devices": lambda: by_devices(plan, ["--quick"] if args.quick else []),
    }
    for name, measure in parts.items():
        found[name] = measure()
        if args.out:
            files.write(args.out, json.dumps(found, indent=1) + "\n")
    if args.plot:
        files.write(args.plot, drawing(found))
    worst = max(row["first_loss_difference"] for row in found["devices"])
    print(f"\nlargest relative difference of the first loss: {worst:.2g}; rounding allows {LOSS_TOLERANCE:.2g}")
    if worst > LOSS_TOLERANCE:
        sys.exit("the loss depends on the number of devices")


if __name__ == "__main__":
    main()
