"""What `crysjax evaluate --heads` says: did samples get what they were asked for?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from crysjax.terminal import say

if TYPE_CHECKING:
    from crysjax.data.datasets import Dataset


def did_they_get_it(sets: dict[str, Dataset], heads: str, within: float | None, out: Path | None) -> None:
    """What samples were asked for beside what the heads predict: printed, and a page and a table a set in `out`."""
    from crysjax.data import files
    from crysjax.evaluation import requests
    from crysjax.models import answers, registry
    from crysjax.reports import asked

    wanted = {name: requests.names(crystals) for name, crystals in sets.items()}
    if heads and not any(wanted.values()):
        raise ValueError("--heads: no sample carries what it was asked for; `crysjax sample --property` writes it")
    model = registry.load_scorer(heads) if heads else None
    for name, properties in wanted.items():
        known = [p for p in properties if model is not None and p in model.config.get("properties", ())]
        if unknown := [p for p in properties if p not in known and p != "space_group"]:
            by = f"not predicted by {heads}" if heads else "give --heads to see whether they have it"
            say(f"{name}: asked for {', '.join(unknown)}; {by}", err=True)
        if not known:
            continue
        crystals, said = sets[name], answers.ask(model, sets[name])
        of = {p: (said.said.value[:, k], said.said.std[:, k]) for k, p in enumerate(said.names)}
        found = [requests.request(crystals, p, *of[p], within) for p in known]
        for one in found:
            say(f"{name}: {requests.told(one)}")
        if out is not None:
            columns = {"id": crystals.ids}
            for one in found:
                columns |= {f"asked_{one.name}": one.asked, f"predicted_{one.name}": one.value,
                            f"predicted_std_{one.name}": one.std}  # fmt: skip
            rows = zip(*(c if k == "id" else [f"{v:.7g}" if v == v else "" for v in c] for k, c in columns.items()))
            files.write(out / name / "asked.csv", files.csv_text(columns, rows))
            page = files.write(out / name / "asked.html", asked.page(name, found, crystals.ids.tolist(), heads))
            say(f"{page}: what was asked and what came")
