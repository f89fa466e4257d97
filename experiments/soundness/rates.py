"""How often real crystals and samples have atoms too close, uncommon oxidation states or too few neighbors.

    python experiments/soundness/rates.py DATA_FOLDER

Writes `rates.json` beside this file. Distances are measured in all crystals, flags in 3,000 of each set.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from crysjax.crystallography import contacts
from crysjax.data.datasets import Dataset, take
from crysjax.data.readers.io import read
from crysjax.evaluation import chemistry, validity

SETS = ("mp_20/val", "mp_20/test", "samples/DiffCSP_mp_20_10k.npz")
SHARES = (0.60, 0.65, 0.67, 0.68, 0.70, 0.72, 0.75)


def rates(crystals: Dataset) -> dict[str, Any]:
    """Of one set: shares that keep each distance, the closest contacts, CDVAE's test, flags."""
    contact = contacts.contacts(crystals)
    some = take(crystals, np.sort(np.random.default_rng(0).permutation(len(crystals))[:3000]))
    flags = chemistry.flags(some, np.ones(len(some), bool))
    return {
        "crystals": len(crystals),
        "apart": {f"{share:g}": float((contact.closeness >= share).mean()) for share in SHARES},
        "too_close": [contacts.said(contact, i) for i in np.flatnonzero(~contacts.apart(contact))[:20]],
        "cdvae_0.5_angstrom": float(validity.validity(crystals)["structure"].mean()),
        "flagged": {kind: float((texts != "").mean()) for kind, texts in flags.items()},
    }


def main() -> None:
    """Measure every set, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help=f"the folder that holds {', '.join(SETS)}")
    folder, found = parser.parse_args().data, {}
    for name in SETS:
        found[name] = rates(read(folder / name))
        print(name, json.dumps(found[name]), flush=True)
    Path(__file__).with_name("rates.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
