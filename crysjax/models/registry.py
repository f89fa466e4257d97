"""Names in configs -> factories, and models that rebuild themselves from their own config.

A config is flat. `network: dense` names a factory and `network.width: 256` is a setting of it; what may follow the
dot is that factory's keyword-only signature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crysjax.config import checked, choice
from crysjax.models import families, published
from crysjax.models.published import pulled_folder

MODELS = Path(__file__).parent / "shipped"
PULLED = (".npz", ".nqx")
"""Of a model's file: our own, or a published Nequix potential."""


class Model(NamedTuple):
    """A trained model: the pure functions, their parameters, and the config that made it."""

    build: Any  # what the config's kind builds: a Generator, or heads
    params: Any
    config: dict[str, Any]

    @property
    def kind(self) -> str:
        """What it is: "generator", "heads", "synthesizability" or "potential"."""
        return self.config["kind"]


def sections(settings: Mapping[str, Any], names: tuple[str, ...]) -> tuple[dict, dict[str, dict]]:
    """Split flat settings: keys without a section, and `section.key` by section."""
    plain: dict[str, Any] = {}
    nested: dict[str, dict] = {name: {} for name in names}
    for key, value in settings.items():
        section, dot, inner = key.partition(".")
        if dot and section in nested:
            nested[section][inner] = value
        else:
            plain[key] = value
    return plain, nested


def made(role: str, name: str | None, factories: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """The factory `name` called with its checked settings; errors name `role.key`."""
    if name not in factories:
        said = "missing" if name is None else repr(name)
        raise ValueError(f"{role}: {said}; expected {choice(name, factories)}")
    return called(role, factories[name], settings)


def called(role: str, factory: Any, settings: Mapping[str, Any], *given: Any) -> Any:
    """`factory(*given)` with its checked settings; errors name `role.key`, or `role` where the factory itself fails."""
    arguments = checked_in(role, factory, settings)
    try:
        return factory(*given, **arguments)
    except (TypeError, ValueError) as error:  # a TypeError is a name that JAX does not know, such as of a dtype
        raise ValueError(f"{role}: {str(error).removeprefix(f'{role}: ')}") from None


def checked_in(role: str, factory: Any, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`checked` with errors that name `role.key`."""
    try:
        return checked(factory, settings)
    except ValueError as error:
        raise ValueError(f"{role}.{error}") from None


def no_others(plain: Mapping[str, Any], names: tuple[str, ...], kind: str) -> None:
    """An error for a section that a model of this kind does not have."""
    for key in plain:
        if key not in names:
            raise ValueError(f"{key}: {kind} has no such setting; expected {choice(key, names)}")


def networks() -> dict[str, Any]:
    """Backbones by name."""
    from crysjax.nets.dense import dense
    from crysjax.nets.equivariant import equivariant
    from crysjax.nets.graph import graph

    return {"dense": dense, "equivariant": equivariant, "graph": graph}


def backbone(plain: Mapping[str, Any], nested: Mapping[str, Any]) -> Any:
    """The network of a predictor: one whose answer is a function of the crystal, whichever cell describes it."""
    name = plain.get("network")
    cell_free = {key: value for key, value in networks().items() if key != "dense"}
    if name == "dense" or nested["network"].get("sees_cell"):
        which = "dense" if name == "dense" else f"{name} with sees_cell"
        raise ValueError(
            f"network: {which} sees how the axes are named, so that the same crystal would have many predictions; "
            f"expected {choice(str(name), cell_free)}, without sees_cell"
        )
    return made("network", name, cell_free, nested["network"])


def build_generator(settings: Mapping[str, Any]) -> Any:
    """A generator from flat settings: family, what that needs (network, frac, lattice, species), and `generator.*`."""
    from crysjax.generators import processes

    family = families.named(settings)
    plain, nested = sections(settings, ("network", "generator", *families.FIELDS))
    no_others(plain, ("family", *family.needs), "a generator of this family")
    no_others({k: v for k, v in nested.items() if v}, ("generator", *family.needs), "a generator of this family")
    tables = dict(zip(families.FIELDS, (processes.POSITIONS, processes.LATTICE, processes.SPECIES)))
    given = [made("network", plain.get("network"), networks(), nested["network"])] if "network" in family.needs else []
    fields = {f: made(f, plain.get(f), tables[f], nested[f]) for f in families.FIELDS if f in family.needs}
    return called("generator", families.factory(family), nested["generator"] | fields, *given)


def build_heads(settings: Mapping[str, Any]) -> Any:
    """Property heads from flat settings: network, `heads.*`, `ensemble.*` where there is more than one member, and
    `novelty.*` where the std grows away from the training data.
    """
    from crysjax.predictors import ensembles
    from crysjax.predictors import heads as single

    plain, nested = sections(settings, ("network", "heads", "ensemble", "novelty"))
    no_others(plain, ("network",), "a model of heads")
    network = backbone(plain, nested)
    head = called("heads", single.heads, nested["heads"], network)
    head = called("ensemble", ensembles.ensemble, nested["ensemble"], head) if nested["ensemble"] else head
    return called("novelty", single.aware, nested["novelty"], head) if nested["novelty"] else head


def build_synthesizability(settings: Mapping[str, Any]) -> Any:
    """A classifier from flat settings: network, `pu.*`, and `ensemble.*` where there is more than one member."""
    from crysjax.predictors import synthesizability

    plain, nested = sections(settings, ("network", "pu", "ensemble"))
    no_others(plain, ("network",), "a model of synthesizability")
    network = backbone(plain, nested)
    one = called("pu", synthesizability.classifier, nested["pu"], network)
    return called("ensemble", synthesizability.bagged, nested["ensemble"], one) if nested["ensemble"] else one


def model_path(name: str, *kinds: str) -> Path:
    """The file of a shipped or pulled model, or of a path; an error lists the models of these kinds that are here."""
    if not isinstance(name, str | Path):
        raise TypeError(
            f"a {type(name).__name__} in the place of a model's name or path; what `crysjax.load` gives is called "
            "itself: model.build.sample(model.params, ...)"
        )
    name = str(name)
    pulled = pulled_folder()
    for path in (MODELS / name / f"{name}.npz", *([pulled / f"{name}{end}" for end in PULLED] if pulled else [])):
        if name and path.is_file():
            return path
    if Path(name).is_file():
        return Path(name)
    from crysjax.data.readers import reading

    if name and (kind := reading.other_kind(name)):
        raise ValueError(f"{name}: {kind}; expected a model's file or name")
    if name in published.PUBLISHED:
        raise ValueError(f"{name}: not here yet; `crysjax models pull {name}` fetches it")
    here = installed(*kinds)
    others = f" or {choice(name, here)}" if here else f"; no {' or '.join(kinds) or 'model'} is here by name"
    raise ValueError(f"{name!r} is neither a file nor a model; expected a path{others}")


def installed(*kinds: str) -> list[str]:
    """Names of the models that are here, shipped ones first; of these kinds only, if any are named."""
    shipped = sorted(p.parent.name for p in MODELS.glob("*/*.npz") if p.stem == p.parent.name)
    pulled = pulled_folder()
    found = shipped + sorted(p.stem for p in (pulled.glob("*") if pulled else ()) if p.suffix in PULLED)
    return [name for name in found if not kinds or _kind(name) in kinds]


def _kind(name: str) -> str | None:
    """The kind of a model that is here, None if its file is damaged."""
    try:
        return kind_of(model_path(name))[0]
    except ValueError:
        return None


def readable(path: Path) -> str:
    """The kind of a model's file, all of which can be read; anything else is an error."""
    from crysjax.potentials import mlip

    kind, _ = kind_of(path)
    if kind not in (*BUILDERS, "potential"):
        raise ValueError(f"{path}: a model of kind {kind!r}; expected one of {', '.join((*BUILDERS, 'potential'))}")
    if kind == "potential":
        mlip.load_potential(path)
    else:
        load_model(str(path), kind)
    return kind


def load(name: str, overrides: Mapping[str, Any] | None = None) -> Model:
    """A model of whatever kind."""
    kind, config = kind_of(model_path(name))
    if kind != "potential":
        return load_model(name, kind, overrides)
    potential, params, _ = load_potential(name)
    return Model(potential, params, config | {"kind": "potential"})


def load_model(name: str, kind: str, overrides: Mapping[str, Any] | None = None) -> Model:
    """Rebuild a model from its file; `overrides` change settings that training does not fix, such as the steps."""
    from crysjax.models import checkpoint

    path = model_path(name, kind)
    config = read_config(path, kind)
    build = BUILDERS[kind](config["settings"] | dict(overrides or {}))
    return Model(build, checkpoint.read_params(path), config)


def read_config(path: Path, kind: str) -> dict[str, Any]:
    """The config of a model of this kind; another kind is an error."""
    found, config = kind_of(path)
    if found != kind:
        raise ValueError(f"{path}: a model of kind {found!r}; expected one of kind {kind!r}")
    if kind != "potential" and not isinstance(config.get("settings"), dict):
        raise ValueError(f"{path}: not a whole model, its config holds no settings")
    return config


def kind_of(path: Path) -> tuple[str | None, dict[str, Any]]:
    """The kind that a model's file names, and its config."""
    from crysjax.models import checkpoint

    config = {"kind": "potential"} if path.suffix == ".nqx" else checkpoint.read_config(path)
    return "potential" if "potential" in config else config.get("kind"), config


def load_scorer(name: str) -> Model:
    """Whatever answers an `Estimate` a crystal from a pack: property heads, or a classifier of synthesizability."""
    from crysjax.models import checkpoint

    path = model_path(name, "heads", "synthesizability")
    kind = checkpoint.read_config(path).get("kind") if path.suffix == ".npz" else None
    return load_model(name, kind if kind in BUILDERS and kind != "generator" else "heads")


def load_synthesizability(name: str) -> Any:
    """A trained classifier as an `Oracle`; its unit says what the score means."""
    from crysjax.predictors import synthesizability

    model = load_model(name, "synthesizability")
    return synthesizability.oracle(model.build, model.params, prior=float(model.config["settings"]["pu.prior"]))


def load_potential(name: str) -> tuple[Any, Any, Path]:
    """An interatomic potential, its parameters, and the file that it came from."""
    from crysjax.potentials import mlip

    path = model_path(name, "potential")
    published.check(path)
    read_config(path, "potential")
    return *mlip.load_potential(path), path


def load_ensemble(names: Sequence[str]) -> tuple[Any, Any]:
    """Several potentials of one kind as one, which knows how far they are apart, and their parameters."""
    from crysjax.potentials.ensemble import ensemble, stack

    members = [load_potential(name) for name in names]
    for name, (other, _, _) in zip(names, members):
        if other.config != members[0][0].config:
            raise ValueError(f"{name}: not of the settings of {names[0]}; an ensemble has potentials of one kind")
    return ensemble(members[0][0], members=len(names)), stack([params for _, params, _ in members])


def load_predictor(name: str) -> tuple[Any, dict[str, Any]]:
    """Property heads as the campaign uses them, and their config."""
    import numpy as np

    from crysjax.predictors.predictor import Predictor

    model = load_model(name, "heads")
    settings, build = model.config["settings"], model.build
    width = int(np.shape(model.params["head"]["first"])[-2])
    numbers = (tuple(settings[f"heads.{key}"]) for key in ("center", "scale"))
    predictor = Predictor(
        tuple(build.names), *numbers, build.predict, build.features, width, model.params, whole=build.together
    )
    if "novelty.limit" in settings:
        predictor = predictor._replace(novelty=build.novelty, limit=float(settings["novelty.limit"]))
    return predictor, model.config


BUILDERS = {"generator": build_generator, "heads": build_heads, "synthesizability": build_synthesizability}
