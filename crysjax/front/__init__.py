"""The front door: the verbs that `import crysjax as cx` offers. Each takes names, paths or objects, and is one call.

Crystals are a `Dataset` everywhere (`cx.read` makes one), models are names of shipped or pulled ones, or paths. Beneath
stand pure functions over packs, `cx.load(name).build`, which compose with `jit`, `vmap` and `grad`. A command of
`crysjax.cli` parses, calls one of these and prints. What a verb needs is imported when it is first used.
"""

from typing import Any

PLACES = {
    "crysjax.campaign.plan": ("Plan",),
    "crysjax.data.datasets": ("Dataset",),
    "crysjax.data.readers.source": ("read", "to_ase", "to_pymatgen", "write"),
    "crysjax.front.judging": ("evaluate",),
    "crysjax.front.physics": ("at_minimum", "diffraction", "elasticity", "pair_distribution", "phonons", "relax"),
    "crysjax.front.verbs": ("design", "load", "objective", "polymorphs", "predict", "sample", "train"),
}
WHERE = {name: place for place, names in PLACES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in WHERE:
        raise AttributeError(f"module 'crysjax' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(WHERE[name]), name)
