"""How few neighbors each cation has in known crystals: writes `crysjax/evaluation/coordination.json`.

    python experiments/soundness/make_table.py DATA_FOLDER

Every crystal of MP-20's training part whose positions can be had counts; about a minute on one core.
"""

import argparse
import json
from pathlib import Path

from crysjax.data.datasets import entries
from crysjax.data.readers.io import read
from crysjax.evaluation import chemistry


def main() -> None:
    """Count, write, say how much."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder that holds mp_20/train_recovered.npz")
    known = read(parser.parse_args().data / "mp_20" / "train_recovered.npz")
    found = {
        "source": f"{len(known)} crystals of MP-20's training part (Materials Project, CC BY 4.0)",
        "reach": chemistry.REACH, "rare": chemistry.RARE, "fewest": chemistry.FEWEST,
        "least_neighbors": chemistry.table(entries(known)),
    }  # fmt: skip
    place = Path(chemistry.__file__).with_name("coordination.json")
    place.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{place}: {sum(map(len, found['least_neighbors'].values()))} places of {len(known)} crystals")


if __name__ == "__main__":
    main()
