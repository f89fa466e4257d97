"""Where the data sets of `configs/` come from: none ships, and a config that names one that is not here says how."""

from __future__ import annotations

from pathlib import Path

_CDVAE = "https://github.com/txie-93/cdvae/tree/main/data"
_SPLITS = "train.csv:train val.csv:val test.csv:test"
HOW = {
    "carbon_24": f"{_SPLITS} of {_CDVAE}/carbon_24",
    "perov_5": f"{_SPLITS} of {_CDVAE}/perov_5",
    "mp_20": f"{_SPLITS} of {_CDVAE}/mp_20",
    "mpts_52": f"{_SPLITS} of https://github.com/jiaor17/DiffCSP/tree/main/data/mpts_52",
}
"""Begin of a file's name -> what `crysjax data prepare` makes it of."""


def need(config: Path, data: str) -> None:
    """An error in one line for a data set that is not here: what it is made of, and by which command."""
    from crysjax.data.readers.part import with_split

    path = Path(with_split(data)[0])
    if path.exists():
        return
    name = next((known for known in HOW if path.stem.startswith(known)), None)
    if name is None:
        raise ValueError(f"{config}: data: {path} is not here; make it by `crysjax data prepare FILES --out {path}`")
    steps = f"`crysjax data prepare` with {HOW[name]}"
    if path.stem.endswith("_grouped"):
        steps += ", then `crysjax data split --by composition`"
    raise ValueError(f"{config}: data: {path} is not here and does not ship; make it by {steps}, --out {path}")
