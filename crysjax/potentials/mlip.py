"""Machine-learned interatomic potentials: energy of a pack of crystals, and its forces and stress by one gradient.

A network only has to give site energies as a function of species and edge vectors. Everything else is here, once:
forces and stress are the derivatives by a displacement of every site and a strain of every crystal (Knuth et al.,
Comput. Phys. Commun. 190, 33 (2015)), a crystal that cannot be computed answers NaN without touching its
neighbours in the pack, and files hold their own settings, so that a potential rebuilds itself from one file.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from crysjax.base import NUM_SPECIES, Pack, Params, site_mask, sum_by_crystal
from crysjax.geometry.neighbors import Graph, edge_vectors
from crysjax.potentials.cluster import cluster
from crysjax.potentials.nequip import nequip

GPA_PER_EV_A3 = 160.21766208
"""1 eV/Å³ in GPa."""

STUDENT = Path(__file__).parents[1] / "models" / "student" / "student.npz"
NETWORKS: dict[str, Callable] = {"nequip": nequip, "cluster": cluster}


class Potential(NamedTuple):
    """Pure functions of a pack and its radius graph (made with at least `cutoff_angstrom`).

    A crystal that is not finite, has no volume, holds an element that the potential does not know or whose graph
    overflowed has NaN energy, zero forces and zero stress; the others in the pack never notice.
    """

    init: Callable[[Array], Params]
    energy: Callable[[Params, Pack, Graph], Array]  # (b,) eV a crystal
    energy_forces_stress: Callable[[Params, Pack, Graph], tuple[Array, Array, Array]]  # eV, (n, 3) eV/Å, (b, 3, 3) eV/Å³
    cutoff_angstrom: float
    numbers: tuple[int, ...]  # atomic numbers it knows
    config: dict[str, Any]  # the settings that rebuild it by `mlip(**config)`


def mlip(*, network: str = "nequip", **settings) -> Potential:
    """A potential from the settings of its network: `nequip` (see potentials.nequip) or `cluster`."""
    if network not in NETWORKS:
        raise ValueError(f"network: {network!r} is not one of {sorted(NETWORKS)}")
    settings["numbers"] = tuple(int(z) for z in settings["numbers"])
    init, site_energies = NETWORKS[network](**settings)
    known = np.zeros(NUM_SPECIES, bool)
    known[np.asarray(settings["numbers"]) - 1] = True
    cutoff = float(settings["cutoff_angstrom"])
    energy, forces_stress = by_strain(site_energies, cutoff, known)
    return Potential(init, energy, forces_stress, cutoff, settings["numbers"], {"network": network, **settings})


def by_strain(site_energies: Callable, cutoff: float, known: np.ndarray) -> tuple[Callable, Callable]:
    """`energy` and `energy_forces_stress` of (params, occupancy, vectors, graph) -> site energies."""

    def crystals(params: Params, occupancy: Array, vectors: Array, pack: Pack, graph: Graph) -> Array:
        away = jnp.asarray([cutoff, 0, 0], vectors.dtype)[None]  # where every radial function is zero
        vectors = jnp.where(graph.mask[:, None] > 0, vectors, away)
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
    """The pack with unit cells in place of crystals that cannot be computed, their edges taken out, and which are sound."""
    count = len(pack.lattice)
    strange = ~jnp.isfinite(pack.frac).all(-1) | ((pack.occupancy > 0) & ~jnp.asarray(known)[None]).any(-1)
    strange &= site_mask(pack.occupancy) > 0
    volume = jnp.abs(jnp.linalg.det(pack.lattice))
    sound = (jax.ops.segment_sum(strange.astype(jnp.int32), pack.owner, count) == 0) & ~graph.overflow
    sound &= jnp.isfinite(pack.lattice).all((1, 2)) & (volume > 1e-6)
    site = sound[pack.owner]
    frac = jnp.where(site[:, None], pack.frac, 0)
    lattice = jnp.where(sound[:, None, None], pack.lattice, jnp.eye(3, dtype=pack.lattice.dtype)[None])
    mask = graph.mask * site[graph.receiver].astype(graph.mask.dtype)
    return pack._replace(frac=frac, lattice=lattice), graph._replace(mask=mask), sound


def load_nequix(path: str | Path) -> tuple[Potential, Params]:
    """A published Nequix potential (`*.nqx`): a line of JSON, then its arrays one after another in NumPy's format."""
    path = Path(path)
    with path.open("rb") as file:
        try:
            config = json.loads(file.readline())
            potential = mlip(**_nequix_settings(config))
            read = lambda shape: _read_array(file, shape, path)  # noqa: E731
            return potential, _nequix_params(jax.eval_shape(potential.init, jax.random.key(0)), read)
        except (KeyError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not a Nequix potential ({error!r})") from None


def _nequix_settings(config: dict) -> dict:
    """Nequix's names of the settings in ours."""
    if config.get("index_weights") or not config.get("layer_norm"):
        raise ValueError("Nequix file: only index_weights=false with layer_norm=true is known")
    return {
        "numbers": tuple(sorted(config["atomic_numbers"])),
        "hidden_irreps": config["hidden_irreps"],
        "layers": config["n_layers"],
        "lmax": config["lmax"],
        "cutoff_angstrom": config["cutoff"],
        "radial_basis": config["radial_basis_size"],
        "radial_width": config["radial_mlp_size"],
        "radial_layers": config["radial_mlp_layers"],
        "envelope_power": config["radial_polynomial_p"],
        "mean_neighbors": config["avg_n_neighbors"],
        "scale_ev": config["scale"],
        "shift_ev": config["shift"],
    }


def _nequix_params(like: Params, read: Callable) -> Params:
    """Fill our tree in the order in which the file lists the arrays."""
    params = {"reference": read(like["reference"].shape), "layers": []}
    for layer in like["layers"]:
        named = {}
        for name in ("radial", "linear_1", "linear_2", "skip", "norm"):
            named[name] = jax.tree.map(lambda leaf: read(leaf.shape), layer[name])
        params["layers"].append(named)
    return params | {"readout": read(like["readout"].shape)}


def _read_array(file: io.BufferedReader, shape: tuple[int, ...], path: Path) -> Array:
    try:
        array = np.load(file, allow_pickle=False)
    except (EOFError, ValueError) as error:
        raise ValueError(f"{path}: the file ends early or is damaged ({error})") from None
    if array.shape != shape:
        raise ValueError(f"{path}: an array of shape {array.shape} where {shape} was expected")
    return jnp.asarray(array)


def save_potential(path: str | Path, potential: Potential, params: Params, *, card: dict | None = None) -> Path:
    """One `.npz`: the settings, what is known of its making (`card`) and the leaves; matrices in half precision."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    arrays = {f"leaf_{i:03d}": x.astype(np.float16 if x.ndim > 1 else np.float32) for i, x in enumerate(leaves)}
    config = json.dumps({"format": 1, "potential": potential.config, "card": card or {}})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial.npz")
    np.savez_compressed(partial, config=np.frombuffer(config.encode(), np.uint8), **arrays)
    partial.replace(path)
    return path


def load_potential(path: str | Path) -> tuple[Potential, Params]:
    """Read what `save_potential` wrote, or a Nequix file (`*.nqx`)."""
    if Path(path).suffix == ".nqx":
        return load_nequix(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            config = json.loads(bytes(file["config"]).decode())
            leaves = [jnp.asarray(file[name], jnp.float32) for name in sorted(file.files) if name != "config"]
    except (KeyError, ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path}: not a potential of crysjax ({error})") from None
    if config["format"] != 1:
        raise ValueError(f"{path}: potential format {config['format']}, this version reads format 1")
    potential = mlip(**config["potential"])
    like, tree = jax.tree.flatten(jax.eval_shape(potential.init, jax.random.key(0)))
    if [x.shape for x in like] != [x.shape for x in leaves]:
        raise ValueError(f"{path}: its arrays do not fit its own settings")
    return potential, jax.tree.unflatten(tree, leaves)


def load_student() -> tuple[Potential, Params]:
    """The small potential that ships with the package; its card is models/student/README.md."""
    return load_potential(STUDENT)
