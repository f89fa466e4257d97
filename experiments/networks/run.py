"""Messages of width d against attention with a periodic pair bias: quality at equal steps, and cost.

    python experiments/networks/run.py message --data data/perov_5.npz --config configs/perov_5_csp.yaml --steps 2000
    python experiments/networks/run.py attention --data data/perov_5.npz --config configs/perov_5_csp.yaml --steps 2000

Both variants are `nets.dense` with another layer. A message costs O(d) a pair for its non-linearity and O(f d) for the
features of the pair, f of them; an attention weight costs O(f heads) a pair and O(d) for the sum. Prints one JSON line.
The seconds are processor time, which other work on the machine disturbs least.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from crysjax.nets import dense

HEADS = 8


class Attention(nn.Module):
    """Softmax attention over the sites of a crystal, biased by the pair's features: the signature of `dense._Layer`.

    The bias has a part that keeps and a part that changes its sign with the direction, so both directions of a pair
    share their products, as in the messages. Logits are clipped to ±10 in place of a maximum per site.
    """

    width: int
    edge_depth: int
    self_edges: bool
    dtype: Any

    @nn.compact
    def __call__(self, h, shared):
        pack, even, odd, at_zero, cell, _ = shared
        d, linear = self.width, lambda *a, **k: dense._Linear(*a, dtype=self.dtype, **k)
        i, j = pack.pairs[:, 0], pack.pairs[:, 1]
        normed = nn.LayerNorm()(h) + linear(d, bias=False, name="cell")(cell)[pack.owner]
        query, key, value = (linear(d, name=n)(normed).reshape(-1, HEADS, d // HEADS) for n in ("q", "k", "v"))
        keep, turn = linear(HEADS, bias=False, name="even"), linear(HEADS, bias=False, name="odd")
        same, sign, mask = keep(even), turn(odd), pack.pair_mask[:, None]

        def weight(a, b, bias):
            return jnp.exp(jnp.clip((a * b).sum(-1) * (d // HEADS) ** -0.5 + bias, -10, 10))

        forth, back = mask * weight(query[i], key[j], same + sign), mask * weight(query[j], key[i], same - sign)
        own = weight(query, key, keep(at_zero))

        def gathered(to_i, to_j, of_self):
            received = jax.ops.segment_sum(to_i, i, len(h)) + jax.ops.segment_sum(to_j, j, len(h))
            return received + of_self

        total = gathered(forth[..., None] * value[j], back[..., None] * value[i], own[..., None] * value)
        mean = (total / gathered(forth, back, own)[..., None]).reshape(len(h), d)
        update = nn.silu(linear(d, name="node_h")(normed) + linear(d, bias=False, name="node_mean")(mean))
        return h + nn.silu(linear(d, name="node_second")(update)), None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("layer", choices=["message", "attention"])
    parser.add_argument("--config", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--layers", type=int, default=4)
    args = parser.parse_args()
    if args.layer == "attention":
        dense._Layer = Attention
    from typer.testing import CliRunner

    from crysjax.cli.app import app
    from crysjax.models import checkpoint

    with tempfile.TemporaryDirectory() as folder:
        change = {"data": args.data, "steps": args.steps, "network.layers": args.layers, "save_every": args.steps}
        options = [word for key, value in change.items() for word in ("--set", f"{key}={value}")]
        start = time.process_time()
        done = CliRunner().invoke(app, ["train", args.config, "--out", folder, *options], catch_exceptions=False)
        seconds = time.process_time() - start
        if done.exit_code:
            raise SystemExit(done.output)
        config = checkpoint.read_config(Path(folder) / "model.npz")
    row = {"layer": args.layer, "layers": args.layers, "steps": args.steps, "processor_seconds": round(seconds, 1)}
    print(json.dumps(row | {name: config["card"][name] for name in ("parameters", "validation")}))


if __name__ == "__main__":
    main()
