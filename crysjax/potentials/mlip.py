"""Machine-learned interatomic potentials: energy of a pack of crystals, and its forces and stress by one gradient.

A network only has to give site energies as a function of species and edge vectors. Everything else is here, once:
forces and stress are the derivatives by a displacement of every site and a strain of every crystal (Knuth et al.,
Comput. Phys. Commun. 190, 33 (2015)), a crystal that cannot be computed answers NaN without touching its
neighbors in the pack, and files hold their own settings, so that a potential rebuilds itself from one file.
"""

from __future__ import annotations

import inspect
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, Pack, Params, site_mask, sum_by_crystal
from crysjax.chemistry.elements import SYMBOLS
from crysjax.data import digests, files
from crysjax.data.readers import limits, reading, zipped
from crysjax.geometry.neighbors import Graph, any_by_owner, edge_vectors
from crysjax.potentials.classical import lennard_jones, morse
from crysjax.potentials.cluster import cluster
from crysjax.potentials.coulomb import buckingham, coulomb
from crysjax.potentials.nequip import nequip
from crysjax.potentials.soft_sphere import soft_sphere
from crysjax.potentials.stillinger_weber import stillinger_weber

TOUCHING_ANGSTROM = 0.1
"""Two atoms nearer than this are an error in the structure, not a state of matter."""

FARTHEST_CELLS = 1e4
"""Single precision no longer places an atom that is farther than this from the home cell."""

STUDENT = Path(__file__).parents[1] / "models" / "shipped" / "student" / "student.npz"
NEQUIX_NAMES = {
    "atomic_numbers": "numbers",
    "hidden_irreps": "hidden_irreps",
    "n_layers": "layers",
    "lmax": "lmax",
    "cutoff": "cutoff_angstrom",
    "radial_basis_size": "radial_basis",
    "radial_mlp_size": "radial_width",
    "radial_mlp_layers": "radial_layers",
    "radial_polynomial_p": "envelope_power",
    "avg_n_neighbors": "mean_neighbors",
    "scale": "scale_ev",
    "shift": "shift_ev",
}
NETWORKS: dict[str, Callable] = {
    "nequip": nequip,
    "cluster": cluster,
    "lennard_jones": lennard_jones,
    "morse": morse,
    "soft_sphere": soft_sphere,
    "coulomb": coulomb,
    "buckingham": buckingham,
    "stillinger_weber": stillinger_weber,
}


class Potential(NamedTuple):
    """Pure functions of a pack and its radius graph (made with at least `cutoff_angstrom`).

    A crystal that is not finite, has no volume, has touching atoms, holds an element that the potential does not know
    or whose graph overflowed has NaN energy, zero forces and zero stress; the others in the pack never notice.
    """

    init: Callable[[Array], Params]
    energy: Callable[[Params, Pack, Graph], Array]  # (b,) eV per crystal
    energy_forces_stress: Callable[[Params, Pack, Graph], tuple[Array, Array, Array]]  # + eV/Å, eV/Å³
    cutoff_angstrom: float
    numbers: tuple[int, ...]  # atomic numbers it knows
    config: dict[str, Any]  # the settings that rebuild it by `mlip(**config)`


def mlip(*, network: str = "nequip", numbers: tuple[int, ...], **settings) -> Potential:
    """A potential that knows the elements `numbers`, from the settings of its network, one of `NETWORKS`."""
    if network not in NETWORKS:
        raise ValueError(f"network: {network!r} is not one of {sorted(NETWORKS)}")
    defaults = {k: p.default for k, p in inspect.signature(NETWORKS[network]).parameters.items()}
    settings = defaults | settings | {"numbers": _checked(numbers)}  # files do not change when a default does
    settings = {name: _as_tuples(value) for name, value in settings.items()}
    init, site_energies = NETWORKS[network](**settings)
    known = np.zeros(NUM_SPECIES, bool)
    known[np.asarray(settings["numbers"]) - 1] = True
    cutoff = float(settings["cutoff_angstrom"])
    energy, forces_stress = by_strain(site_energies, cutoff, known)
    return Potential(init, energy, forces_stress, cutoff, settings["numbers"], {"network": network, **settings})


def unknown(known: Iterable[int], numbers: Iterable[int]) -> str:
    """The reason for which a potential of the elements `known` cannot compute these atoms; "" where it can."""
    strange = sorted({int(z) for z in numbers} - {int(z) for z in known})
    names = ", ".join(SYMBOLS[z - 1] if 1 <= z <= len(SYMBOLS) else f"atomic number {z}" for z in strange)
    return f"the potential does not know {names}"[:120] if strange else ""


def _as_tuples(value: Any) -> Any:
    """Lists, which is what JSON makes of tuples, as tuples again."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list | tuple) else value


def _checked(numbers: tuple[int, ...]) -> tuple[int, ...]:
    numbers = tuple(int(z) for z in numbers)
    if not numbers or len(set(numbers)) < len(numbers) or not 1 <= min(numbers) <= max(numbers) <= NUM_SPECIES:
        raise ValueError(f"numbers: {numbers} should be different atomic numbers from 1 to {NUM_SPECIES}")
    return numbers


def by_strain(site_energies: Callable, cutoff: float, known: np.ndarray) -> tuple[Callable, Callable]:
    """`energy` and `energy_forces_stress` of (params, occupancy, vectors, graph) -> site energies."""

    def crystals(params: Params, occupancy: Array, vectors: Array, pack: Pack, graph: Graph) -> Array:
        inside = (graph.mask > 0) & ((vectors**2).sum(-1) < cutoff**2)
        away = jnp.asarray([cutoff, 0, 0], vectors.dtype)[None]  # where every radial function is zero
        vectors = jnp.where(inside[:, None], vectors, away)
        graph = graph._replace(mask=inside.astype(graph.mask.dtype))  # so that no bit depends on what else is listed
        return sum_by_crystal(site_energies(params, occupancy, vectors, graph), pack)

    def energy(params: Params, pack: Pack, graph: Graph) -> Array:
        pack, graph, sound = _without_broken(pack, graph, known)
        total = crystals(params, pack.occupancy, edge_vectors(pack, graph), pack, graph)
        return jnp.where(sound, total, jnp.nan)

    def energy_forces_stress(params: Params, pack: Pack, graph: Graph) -> tuple[Array, Array, Array]:
        pack, graph, sound = _without_broken(pack, graph, known)
        vectors, owner = edge_vectors(pack, graph), pack.owner[graph.receiver]

        def total(moved: Array, strain: Array) -> tuple[Array, Array]:
            strain = jnp.eye(3, dtype=strain.dtype)[None] + (strain + strain.swapaxes(1, 2)) / 2
            r = vectors + moved[graph.sender] - moved[graph.receiver]
            per_crystal = crystals(params, pack.occupancy, jnp.einsum("ei,eij->ej", r, strain[owner]), pack, graph)
            return per_crystal.sum(), per_crystal

        still = jnp.zeros_like(pack.frac), jnp.zeros_like(pack.lattice)
        (_, per_crystal), (slope, virial) = jax.value_and_grad(total, (0, 1), has_aux=True)(*still)
        volume = jnp.abs(jnp.linalg.det(pack.lattice))[:, None, None]
        return jnp.where(sound, per_crystal, jnp.nan), -slope, virial / volume

    return energy, energy_forces_stress


def _without_broken(pack: Pack, graph: Graph, known: np.ndarray) -> tuple[Pack, Graph, Array]:
    """The pack with empty unit cells in place of crystals that cannot be computed, and which can be: (b,) bool."""
    pack, graph = jax.tree.map(jnp.asarray, (pack, graph))  # of the host, they would not be indexed by traced arrays
    strange = ~(jnp.abs(pack.frac) < FARTHEST_CELLS).all(-1)
    strange |= ((pack.occupancy > 0) & ~jnp.asarray(known)[None]).any(-1)
    strange = strange & (site_mask(pack.occupancy) > 0) | jnp.isnan(pack.occupancy).any(-1)
    touching = (graph.mask > 0) & ~((edge_vectors(pack, graph) ** 2).sum(-1) > TOUCHING_ANGSTROM**2)
    sound = ~graph.overflow & jnp.isfinite(pack.lattice).all((1, 2))
    sound &= jnp.abs(jnp.linalg.det(pack.lattice)) > 1e-6
    sound &= ~any_by_owner(strange, pack.owner, len(sound))
    sound &= ~any_by_owner(touching, pack.owner[graph.receiver], len(sound))
    site = sound[pack.owner]
    occupancy, frac = (jnp.where(site[:, None], x, 0) for x in (pack.occupancy, pack.frac))
    lattice = jnp.where(sound[:, None, None], pack.lattice, jnp.eye(3, dtype=pack.lattice.dtype)[None])
    mask = graph.mask * site[graph.receiver].astype(graph.mask.dtype)
    return pack._replace(occupancy=occupancy, frac=frac, lattice=lattice), graph._replace(mask=mask), sound


def load_nequix(path: str | Path) -> tuple[Potential, Params]:
    """A published Nequix potential (`*.nqx`): a line of JSON, then its arrays one after another in NumPy's format.

    The format has no digest: where `NAME.nqx.sha256` lies beside the file, it has to agree. Shapes have to be those
    that the settings ask for, and every number finite.
    """
    try:
        digests.check_beside(path)
        with reading.opened(path) as file:
            potential = mlip(**_nequix_settings(reading.parse_json(file.readline(limits.SETTINGS_BYTES))))
            like = jax.eval_shape(potential.init, jax.random.key(0))
            params = _nequix_params(like, lambda leaf: _read_array(file, leaf.shape))
            if file.read(6) == np.lib.format.MAGIC_PREFIX:  # scalars of Nequix's own may follow
                raise ValueError("it holds more arrays than its settings name")
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a whole Nequix potential ({error})") from None
    return potential, params


def _nequix_settings(config: Any) -> dict:
    """Nequix's names of the settings in ours."""
    missing = sorted(NEQUIX_NAMES.keys() - config.keys()) if isinstance(config, dict) else sorted(NEQUIX_NAMES)
    if missing:
        raise ValueError(f"its settings lack {', '.join(missing)}")
    if config.get("index_weights") or not config.get("layer_norm"):
        raise ValueError("only index_weights=false with layer_norm=true is known")
    settings = {ours: config[theirs] for theirs, ours in NEQUIX_NAMES.items()}
    return settings | {"numbers": tuple(sorted(settings["numbers"]))}


def _nequix_params(like: Params, read: Callable) -> Params:
    """Fill our tree in the order in which the file lists the arrays."""
    params = {"reference": read(like["reference"]), "layers": []}
    for layer in like["layers"]:
        named = ("radial", "linear_1", "linear_2", "skip", "norm")
        params["layers"].append({name: jax.tree.map(read, layer[name]) for name in named})
    return params | {"readout": read(like["readout"])}


def _read_array(file: io.BufferedReader, shape: tuple[int, ...]) -> Array:
    start, (found, _) = file.tell(), zipped.header(file)
    if found != shape:  # before so much memory is asked for
        raise ValueError(f"an array of shape {limits.shown(found)} where {shape} was expected")
    file.seek(start)
    leaf = jnp.asarray(np.lib.format.read_array(file, allow_pickle=False), jnp.float32)
    if not jnp.isfinite(leaf).all():
        raise ValueError("a parameter is not a finite number")
    return leaf


def save_potential(path: str | Path, potential: Potential, params: Params, *, card: dict | None = None) -> Path:
    """One `.npz`: the settings, what is known of its making (`card`) and the leaves; matrices in half precision."""
    return write_leaves(path, {"potential": potential.config}, params, card)


def load_potential(path: str | Path) -> tuple[Potential, Params]:
    """Read what `save_potential` wrote, or a Nequix file (`*.nqx`)."""

    if Path(path).suffix == ".nqx":
        return load_nequix(path)
    return read_leaves(path, "a potential", lambda config: mlip(**config["potential"]))


def write_leaves(path: str | Path, described: dict, params: Params, card: dict | None) -> Path:
    """A file of settings and leaves."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    half = [x.ndim > 1 for x in leaves]
    with np.errstate(over="ignore"):  # told below
        arrays = {
            f"leaf_{i:03d}": x.astype(np.float16 if h else np.float32) for i, (x, h) in enumerate(zip(leaves, half))
        }
    if not all(np.isfinite(x).all() for x in arrays.values()):
        raise ValueError(f"{path}: a parameter is not a finite number of half precision")
    config = json.dumps({"format": 1, **described, "card": card or {}})
    return files.write_npz(path, {"config": np.frombuffer(config.encode(), np.uint8)} | arrays)


def read_leaves(path: str | Path, what: str, rebuilt: Callable[[dict], Any]) -> tuple[Any, Params]:
    """What `write_leaves` wrote: what `rebuilt` makes of the settings, and its parameters."""
    try:
        with files.npz(path, what) as file:
            config = reading.parse_json(bytes(file["config"]))
            if config["format"] != 1:
                raise ValueError(f"potential format {config['format']}, this version reads format 1")
            made = rebuilt(config)
            leaves = [jnp.asarray(file[name], jnp.float32) for name in sorted(file.files) if name != "config"]
        like, tree = jax.tree.flatten(jax.eval_shape(made.init, jax.random.key(0)))
        if [x.shape for x in like] != [x.shape for x in leaves]:
            raise ValueError("its arrays do not fit its own settings")
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, OSError) as error:
        said = str(error).removeprefix(f"{path}: ").removeprefix(f"not {what} ")
        raise ValueError(f"{path}: not {what} of crysjax ({said})") from None
    return made, jax.tree.unflatten(tree, leaves)


def load_student() -> tuple[Potential, Params]:
    """The small potential that ships with the package; its card is models/shipped/student/README.md."""
    return load_potential(STUDENT)
