"""How few neighbors each cation has in known crystals: writes `crysjax/evaluation/metrics/coordination.json`.

    python experiments/soundness/make_table.py DATA_FOLDER

Every crystal of MP-20's training part whose positions can be had counts; about a minute on one core.
"""

import json
import sys
from pathlib import Path

from crysjax.data.datasets import entries
from crysjax.data.readers.io import read
from crysjax.evaluation import chemistry

known = read(Path(sys.argv[1]) / "mp_20" / "train_recovered.npz")
found = {
    "source": f"{len(known)} crystals of MP-20's training part (Materials Project, CC BY 4.0)",
    "reach": chemistry.REACH, "rare": chemistry.RARE, "fewest": chemistry.FEWEST,
    "least_neighbors": chemistry.table(entries(known)),
}  # fmt: skip
place = Path(chemistry.__file__).with_name("coordination.json")
place.write_text(json.dumps(found, indent=1) + "\n")
print(f"{place}: {sum(map(len, found['least_neighbors'].values()))} places of {len(known)} crystals")
