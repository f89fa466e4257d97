"""JSON and tables of pymatgen structures against pymatgen's own reading."""

import csv
import gzip
import json

import numpy as np

from crysjax.data.datasets import entries
from crysjax.data.readers import io
from tests.support import random_entries


def test_json_and_tables_of_pymatgens_structures(tmp_path):
    from pymatgen.core import Structure

    rows = random_entries(3)
    dicts = [io.to_structure(row).as_dict() for row in rows]
    records = [{"material_id": f"r{i}", "structure": d, "band_gap": 0.5 * i} for i, d in enumerate(dicts)]
    table = {"columns": ["structure", "band_gap"], "index": ["x", "y", "z"], "data": [[d, 1.0] for d in dicts]}
    layouts = {
        "one.json": (dicts[0], ["one"]), "list.json": (dicts, ["0", "1", "2"]), "records.json": (records, None),
        "by_id.json": (dict(zip("abc", dicts)), ["a", "b", "c"]), "table.json": (table, ["x", "y", "z"]),
    }  # fmt: skip
    for name, (content, _) in layouts.items():
        (tmp_path / name).write_text(json.dumps(content))
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    with gzip.open(tmp_path / "packed.jsonl.gz", "wt") as file:
        file.write("\n\n".join(map(json.dumps, records)))
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [["id", "structure", "band_gap"], *([f"r{i}", json.dumps(d), 0.5 * i] for i, d in enumerate(dicts))]
        )
    for name in [*layouts, "lines.jsonl", "packed.jsonl.gz", "table.csv"]:
        found, ids = io.read(tmp_path / name), layouts.get(name, (None, None))[1]
        assert found.ids.tolist() == (ids or ["r0", "r1", "r2"])
        for entry, row, d in zip(entries(found), rows, dicts):
            theirs = Structure.from_dict(d)
            assert entry.numbers.tolist() == list(theirs.atomic_numbers) == row.numbers.tolist()
            np.testing.assert_allclose(entry.frac, np.mod(theirs.frac_coords, 1), atol=1e-6)
            np.testing.assert_allclose(entry.lattice, theirs.lattice.matrix, rtol=1e-6)
        if ids is None:
            assert found.properties["band_gap_ev"].tolist() == [0, 0.5, 1]
