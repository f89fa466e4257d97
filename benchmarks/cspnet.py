"""One training step and one sampling step of the dense network against PyTorch's CSPNet, on this CPU.

    python benchmarks/cspnet.py --cspnet PATH/TO/DiffCSP --torch-python PATH/TO/python

The two networks are the same one (hidden 512, 6 layers, 128 frequencies, fully connected edges, layer norm, residual;
12.3 M parameters) and see the same batch: 256 crystals with the sizes of MP-20. The peer is read from a checkout of
DiffCSP that the user has; its compiled dependencies (torch_scatter, torch_geometric) are stood in for by PyTorch's
own `index_add` and `nonzero`. Without `--cspnet` the script prints our numbers alone.

Every row runs in a process of its own, one after the other, so that the peak memory (VmHWM) is that row's. The time is
the least of several repeats, which is what a machine shared with other work can still be asked for. PyTorch runs with
glibc's default malloc and with one tuned to keep its pages ("tuned"): the default loses up to half its time to page
faults. "edges given" leaves out CSPNet's own construction of the edge list.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np

# how many of 1,000 crystals of MP-20 have 0, 1, ... 20 sites
SIZES = np.array([0, 3, 22, 23, 153, 52, 82, 26, 80, 32, 95, 12, 100, 22, 67, 15, 65, 8, 55, 11, 75])
HIDDEN, LAYERS, FREQUENCIES, TIME = 512, 6, 128, 256
TUNED = {"MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_MMAP_THRESHOLD_": str(2**34), "MALLOC_TOP_PAD_": str(2**28)}


def draw_batch(count: int) -> dict[str, np.ndarray]:
    """`count` crystals of MP-20's sizes with random species, positions and cells."""
    rng = np.random.default_rng(0)
    num_atoms = rng.choice(len(SIZES), count, p=SIZES / SIZES.sum())
    sites = num_atoms.sum()
    edge = 2.6 * np.cbrt(num_atoms)[:, None, None]  # 17.6 cubic Å per site
    arrays = {
        "numbers": rng.integers(1, 90, sites),
        "frac": rng.random((sites, 3)),
        "lattice": edge * (np.eye(3) + 0.1 * rng.normal(size=(count, 3, 3))),
        "context": rng.normal(size=(count, TIME)),
        "target_frac": rng.normal(size=(sites, 3)),
        "target_lattice": rng.normal(size=(count, 3, 3)),
    }
    floats = {k: v.astype(np.float32) for k, v in arrays.items() if v.dtype.kind == "f"}
    return {**arrays, **floats, "num_atoms": num_atoms}


def peak_mb() -> float:
    """The most resident memory this process ever held, in MB (10^6 bytes)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1.024e-3


def best(step, repeats: int, budget_s: float = 60.0) -> dict[str, float]:
    """Least wall and least processor time of a call in ms, after one that warms up; `repeats` calls or `budget_s`."""
    wall, cpu = [], []
    step()
    while len(wall) < repeats and (not wall or sum(wall) < budget_s):
        start = time.perf_counter(), time.process_time()
        step()
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return {"ms": 1e3 * min(wall), "cpu_ms": 1e3 * min(cpu)}


# --- the peer -------------------------------------------------------------------------------------------------------


def stand_ins() -> dict[str, types.ModuleType]:
    """The few functions that cspnet.py takes from packages with compiled parts, on plain PyTorch."""
    import torch

    def scatter(src, index, dim=0, dim_size=None, reduce="mean"):
        size = int(index.max()) + 1 if dim_size is None else dim_size
        total = src.new_zeros(size, *src.shape[1:]).index_add_(0, index, src)
        count = torch.bincount(index, minlength=size).clamp(min=1).to(src.dtype)
        return total / count[:, None] if reduce == "mean" else total

    def dense_to_sparse(adjacency):
        return adjacency.nonzero().t().contiguous(), None

    names = {
        "torch_scatter": {"scatter": scatter},
        "torch_scatter.composite": {"scatter_softmax": None},
        "torch_geometric": {},
        "torch_geometric.utils": {"dense_to_sparse": dense_to_sparse, "to_dense_adj": None},
        "einops": {"rearrange": None, "repeat": None},
        "diffcsp": {},
        "diffcsp.common": {},
        "diffcsp.common.data_utils": dict.fromkeys(
            ["lattice_params_to_matrix_torch", "get_pbc_distances", "radius_graph_pbc", "frac_to_cart_coords",
             "repeat_blocks"]
        ),
    }  # fmt: skip
    modules = {name: types.ModuleType(name) for name in names}
    for name, module in modules.items():
        vars(module).update(names[name])
    return modules


def load_cspnet(root: Path):
    """The class CSPNet of a DiffCSP checkout."""
    sys.modules.update(stand_ins())
    path = root / "diffcsp/pl_modules/cspnet.py"
    if not path.exists():
        raise SystemExit(f"--cspnet {root}: no diffcsp/pl_modules/cspnet.py there; expected a checkout of DiffCSP")
    module = types.ModuleType("cspnet")
    exec(compile(path.read_text(), str(path), "exec"), vars(module))
    return module.CSPNet


def torch_row(args) -> dict:
    """Time and memory of the peer, with its own edges and with the edges given."""
    import torch

    data = {k: torch.from_numpy(v) for k, v in draw_batch(args.batch).items()}
    size = {"hidden_dim": HIDDEN, "latent_dim": TIME, "num_layers": LAYERS, "num_freqs": FREQUENCIES}
    net = load_cspnet(args.cspnet)(**size, ln=True)
    graph = torch.arange(args.batch).repeat_interleave(data["num_atoms"])
    inputs = [data[k] for k in ("context", "numbers", "frac", "lattice", "num_atoms")]
    adam = torch.optim.Adam(net.parameters(), lr=1e-3)

    def predict():
        with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bf16"):
            return net(*inputs, graph)

    def forward():
        with torch.no_grad():
            predict()

    def train():
        lattice, frac = predict()
        adam.zero_grad()
        loss = ((lattice - data["target_lattice"]) ** 2).mean() + ((frac - data["target_frac"]) ** 2).mean()
        loss.backward()
        adam.step()

    step = train if args.mode == "train" else forward
    row = best(step, args.repeats)
    edges, _ = net.gen_edges(data["num_atoms"], data["frac"], data["lattice"], graph)
    net.gen_edges = lambda num_atoms, frac, lattice, graph: (edges, (frac[edges[1]] - frac[edges[0]]) % 1.0)
    row |= {f"{k}_edges_given": v for k, v in best(step, args.repeats).items()}
    row |= {"mb": peak_mb(), "version": f"torch {torch.__version__}"}
    return row | {"edges": edges.shape[1], "parameters": sum(p.numel() for p in net.parameters())}


# --- ours -----------------------------------------------------------------------------------------------------------


def draw_tiles(batch: int, pairs: int):
    """The batch as packs of one shape, with context and targets laid out alike; every leaf (tiles, ...)."""
    from crysjax.data import batching, datasets

    data = draw_batch(batch)
    blank = np.full(batch, "")
    dataset = datasets.Dataset(blank, data["num_atoms"], data["numbers"], data["frac"], data["lattice"], {}, blank, {})
    tiles = batching.pack_dataset(dataset, batching.capacity(data["num_atoms"], pairs))
    context = data["context"][np.maximum(tiles.index, 0)]
    rng = np.random.default_rng(1)
    frac = rng.normal(size=tiles.pack.frac.shape).astype(np.float32)
    lattice = rng.normal(size=(*tiles.index.shape, 6)).astype(np.float32)
    return tiles.pack, context, frac, lattice


def crysjax_row(args) -> dict:
    """Time and memory of ours: tiles one after another, gradients summed tile by tile, one Adam step."""
    import jax
    import jax.numpy as jnp
    import optax

    from crysjax import base
    from crysjax.nets.dense import dense

    dtype = {"fp32": "float32", "bf16": "bfloat16"}[args.dtype]
    size = {"width": HIDDEN, "layers": LAYERS, "frequencies": FREQUENCIES}
    published = {"geometry": 0, "edge_depth": 2, "pair_head": False}
    net = dense(**size, **published, dtype=dtype, scan_layers=args.mode == "forward")
    tiles = draw_tiles(args.batch, args.pairs)
    first = jax.tree.map(lambda x: x[0], tiles)
    params = jax.jit(net.init)(jax.random.key(0), first[0], first[1])
    adam = optax.adam(1e-3)
    state = adam.init(params)
    pairs = tiles[0].pair_mask
    fill = float(pairs.sum() / pairs.size)
    tiles = jax.device_put(tiles)

    def tile_loss(params, pack, context, frac, lattice):
        out = net.apply(params, pack, context)
        site = base.site_mask(pack.occupancy)[:, None]
        crystal = (base.num_sites(pack) > 0)[:, None]
        return (site * (out.frac - frac) ** 2).sum() / 3 + (crystal * (out.lattice - lattice) ** 2).sum() / 6

    @jax.jit
    def forward(params, tiles):
        return jax.lax.map(lambda tile: net.apply(params, tile[0], tile[1])[:2], tiles)

    def train(params, state, tiles):
        def add(total, tile):
            return jax.tree.map(jnp.add, total, jax.grad(tile_loss)(params, *tile)), None

        grads, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, params), tiles)
        updates, state = adam.update(grads, state)
        return optax.apply_updates(params, updates), state

    train = jax.jit(train, donate_argnums=(0, 1))
    held = [params, state]

    def step():
        if args.mode == "forward":
            return jax.block_until_ready(forward(held[0], tiles))
        held[:] = jax.block_until_ready(train(*held, tiles))

    start = time.perf_counter()
    step()
    row = {"compile_s": time.perf_counter() - start, **best(step, args.repeats), "mb": peak_mb()}
    sizes = sum(leaf.size for leaf in jax.tree.leaves(held[0]))
    return row | {"tiles": len(pairs), "fill": fill, "parameters": sizes, "version": f"jax {jax.__version__}"}


# --- the table ------------------------------------------------------------------------------------------------------


def run_row(args, framework: str, mode: str, dtype: str, malloc: str = "default") -> dict:
    """One row in its own process."""
    python = args.torch_python if framework == "torch" else sys.executable
    command = [python, __file__, "--row", framework, "--mode", mode, "--dtype", dtype]
    command += ["--batch", str(args.batch), "--repeats", str(args.repeats), "--pairs", str(args.pairs)]
    command += ["--cspnet", str(args.cspnet)] if framework == "torch" else []
    environment = {**os.environ, **(TUNED if malloc == "tuned" else {})}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{framework} {mode} {dtype}: the row failed\n{done.stderr[-2000:]}")
    row = json.loads(done.stdout.splitlines()[-1]) | {"name": framework, "mode": mode, "dtype": dtype, "malloc": malloc}
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cspnet", type=Path, help="a checkout of DiffCSP")
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has torch")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--pairs", type=int, default=2048, help="pairs (i < j) a tile of ours")
    parser.add_argument("--out", help="raw result, JSON")
    parser.add_argument("--modes", nargs="+", choices=["train", "forward"], default=["train", "forward"])
    parser.add_argument("--precisions", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--row", choices=["torch", "crysjax"], help=argparse.SUPPRESS)
    parser.add_argument("--mode", choices=["train", "forward"], help=argparse.SUPPRESS)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        print(json.dumps(torch_row(args) if args.row == "torch" else crysjax_row(args)))
        return
    frameworks = [("crysjax", "default")] + [("torch", m) for m in ("default", "tuned") if args.cspnet]
    rows = [run_row(args, f, m, d, malloc) for m in args.modes for d in args.precisions for f, malloc in frameworks]
    if args.out:
        from crysjax.reports import record

        record.write(args.out, record.about(args) | {"rows": rows})
    print("\n".join(table(rows)))


def table(rows: list[dict]) -> list[str]:
    """Markdown: one line per row, with its time and memory over ours of the same mode and precision."""
    times = ["ms", "times ours", "processor ms", "edges given, ms", "peak MB", "times ours"]
    head = ["", "mode", "precision", "malloc", *times]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    ours = {(r["mode"], r["dtype"]): r for r in rows if r["name"] == "crysjax"}
    for row in rows:
        base = ours[row["mode"], row["dtype"]]
        given = f"{row['ms_edges_given']:.0f}" if "ms_edges_given" in row else ""
        cells = [
            row["name"],
            row["mode"],
            row["dtype"],
            row["malloc"],
            f"{row['ms']:.0f}",
            f"{row['ms'] / base['ms']:.2f}",
        ]
        cells += [f"{row['cpu_ms']:.0f}", given, f"{row['mb']:.0f}", f"{row['mb'] / base['mb']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


if __name__ == "__main__":
    main()
