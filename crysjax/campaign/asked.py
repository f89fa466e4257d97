"""Did samples get what they were asked for? What `crysjax sample --property` wrote, beside what heads predict."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from crysjax.data import files
from crysjax.data.datasets import Dataset
from crysjax.evaluation import requests
from crysjax.evaluation.requests import AskedProperty
from crysjax.models import answers, registry
from crysjax.reports import asked


def did_they_get_it(
    sets: Mapping[str, Dataset], heads: str, within: float | None, out: Path | None, say: Callable[[str], None]
) -> dict[str, list[AskedProperty]]:
    """Each set's requests with what the heads predict; with `out`, a page and a table for each set.

    `within`: how far a value may be from the request and still count. `say` is told what no heads were asked about.
    """
    wanted = {name: requests.names(crystals) for name, crystals in sets.items()}
    if heads and not any(wanted.values()):
        raise ValueError("--heads: no sample carries what it was asked for; `crysjax sample --property` writes it")
    model = registry.load_scorer(heads) if heads else None
    found = {}
    for name, properties in wanted.items():
        known = [p for p in properties if model is not None and p in model.config.get("properties", ())]
        if unknown := [p for p in properties if p not in known and p != "space_group"]:
            by = f"not predicted by {heads}" if heads else "give --heads to see whether they have it"
            say(f"{name}: asked for {', '.join(unknown)}; {by}")
        if known:
            said = answers.ask(model, sets[name])
            of = {p: (said.said.value[:, k], said.said.std[:, k]) for k, p in enumerate(said.names)}
            found[name] = [requests.request(sets[name], p, *of[p], within) for p in known]
            if out is not None:
                _write(out / name, name, sets[name], found[name], heads)
    return found


def _write(folder: Path, name: str, crystals: Dataset, found: list[AskedProperty], heads: str) -> None:
    columns = {"id": crystals.ids}
    for one in found:
        columns |= {f"asked_{one.name}": one.asked, f"predicted_{one.name}": one.value,
                    f"predicted_std_{one.name}": one.std}  # fmt: skip
    rows = zip(*(c if k == "id" else [f"{v:.7g}" if v == v else "" for v in c] for k, c in columns.items()))
    files.write(folder / "asked.csv", files.csv_text(columns, rows))
    files.write(folder / "asked.html", asked.page(name, found, crystals.ids.tolist(), heads))
