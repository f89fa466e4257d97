"""crysjax: differentiable inverse design of inorganic materials in JAX.

The verbs of `crysjax.front` are here, loaded when they are first used: `import crysjax as cx`, then `cx.read`,
`cx.write`, `cx.to_ase`, `cx.to_pymatgen`, `cx.load`, `cx.sample`, `cx.relax`, `cx.predict`, `cx.evaluate`,
`cx.phonons`, `cx.elasticity`, `cx.diffraction`, `cx.train`, `cx.design`, `cx.polymorphs`, `cx.objective`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crysjax.campaign.plan import Plan
    from crysjax.data.datasets import Dataset
    from crysjax.data.readers.source import read, to_ase, to_pymatgen, write
    from crysjax.front.judging import evaluate
    from crysjax.front.physics import at_minimum, diffraction, elasticity, pair_distribution, phonons, relax
    from crysjax.front.verbs import design, load, objective, polymorphs, predict, sample, train

__version__ = "0.2.0"
__all__ = [
    "Dataset", "Plan", "at_minimum", "design", "diffraction", "elasticity", "evaluate", "load", "objective",
    "pair_distribution", "phonons", "polymorphs", "predict", "read", "relax", "sample", "to_ase",
    "to_pymatgen", "train", "write",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'crysjax' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("crysjax.front"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
