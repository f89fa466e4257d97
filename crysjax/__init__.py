"""crysjax: differentiable inverse design of inorganic materials in JAX.

The verbs of `crysjax.front` are here, loaded when they are first used: `import crysjax as cx`, then `cx.read`,
`cx.load`, `cx.sample`, `cx.relax`, `cx.predict`, `cx.train`, `cx.design`, `cx.polymorphs`, `cx.objective`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crysjax.campaign.plan import Plan
    from crysjax.data.datasets import Dataset
    from crysjax.front import design, load, objective, polymorphs, predict, read, relax, sample, train

__version__ = "0.1.0"
__all__ = ["Dataset", "Plan"]
__all__ += ["design", "load", "objective", "polymorphs", "predict", "read", "relax", "sample", "train"]
_TYPES = {"Dataset": "crysjax.data.datasets", "Plan": "crysjax.campaign.plan"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'crysjax' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_TYPES.get(name, "crysjax.front")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
