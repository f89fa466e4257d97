"""Good files of every format, and files made by hand to hurt: for test_hostile.py."""

import contextlib
import csv
import gzip
import io
import json
import pickle
import sqlite3
import struct
import zipfile
from pathlib import Path

import numpy as np

from crysjax.data.datasets import Entry, from_entries, save
from crysjax.data.readers import io as crysjax_io
from crysjax.data.readers.cif import format_p1

HEAD = (
    "data_x\n_symmetry_space_group_name_H-M '{group}'\n"
    + "".join(f"_cell_length_{a} {{length}}\n" for a in "abc")
    + "".join(f"_cell_angle_{a} {{angle}}\n" for a in ("alpha", "beta", "gamma"))
)
SITES = "loop_\n" + "".join(f"_atom_site_{a}\n" for a in ("label", "type_symbol", "fract_x", "fract_y", "fract_z"))
XSF = "CRYSTAL\nPRIMVEC\n 4 0 0\n 0 4 0\n 0 0 4\nPRIMCOORD\n 2 1\n 11 0 0 0\n 17 2 2 2\n"


def cif(group="P 4/m m m", length="5.64", angle="90", sites="Na1 Na 0 0 0\nCl1 Cl 0.5 0.5 0.5\n", extra="") -> str:
    return HEAD.format(group=group, length=length, angle=angle) + extra + SITES + sites


def structure(**changes) -> dict:
    """NaCl as pymatgen's `as_dict` writes it."""
    site = lambda symbol, at: {"species": [{"element": symbol, "occu": 1}], "abc": [at] * 3, "label": symbol}  # noqa: E731
    lattice = {"matrix": [[0, 2.8, 2.8], [2.8, 0, 2.8], [2.8, 2.8, 0]]}
    return {"@module": "pymatgen.core.structure", "@class": "Structure", "lattice": lattice,
            "sites": [site("Na", 0.0), site("Cl", 0.5)]} | changes  # fmt: skip


def zipped(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def good_files(folder: Path) -> dict[str, bytes]:
    """A good file of every format by its name; each holds two or more crystals where the format can."""
    from ase.db import connect

    rng = np.random.default_rng(0)
    rows = [
        Entry(f"m{i}", np.array([11, 17, 8]), rng.random((3, 3)), np.eye(3) * 5 + rng.random((3, 3)), {"gap": 0.5 * i})
        for i in range(3)
    ]
    texts = [format_p1(r.id, r.numbers, r.frac, r.lattice) for r in rows]
    crysjax_io.write_crystals(rows, folder / "g.extxyz")
    save(from_entries(rows), folder / "own.npz")
    crysjax_io.to_atoms(rows[0]).write(folder / "POSCAR", format="vasp")
    with connect(folder / "g.db") as database:
        for row in rows:
            database.write(crysjax_io.to_atoms(row), key_value_pairs={"material_id": row.id, "gap": 1.0})
    np.savez_compressed(
        folder / "flat.npz", num_atoms=np.array([2, 1]), atomic_numbers=np.array([1, 2, 3]), gap=np.array([0.5, 1.5]),
        frac_coords=rng.random((3, 3)), lengths=np.full((2, 3), 4.0), angles=np.full((2, 3), 90.0),
    )  # fmt: skip
    table = io.StringIO(newline="")
    csv.writer(table).writerows([["material_id", "cif", "gap"], *([r.id, t, "1.5"] for r, t in zip(rows, texts))])
    matbench = {"columns": ["structure", "gap"], "index": [0, 1], "data": [[structure(), 1.0], [structure(), 2.0]]}
    with contextlib.suppress(ImportError):  # pyarrow is optional
        import pyarrow.parquet

        columns = {"material_id": [r.id for r in rows], "cif": texts}
        pyarrow.parquet.write_table(pyarrow.table(columns), folder / "g.parquet")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return files | {
        "p1.cif": "\n".join(texts).encode(),
        "symmetric.cif": cif().encode(),
        "operations.cif": cif("P 1", extra="loop_\n_symmetry_equiv_pos_as_xyz\n'x, y, z'\n'-x, -y, z+1/2'\n").encode(),
        "g.xsf": XSF.encode(),
        "g.csv": table.getvalue().encode(),
        "g.csv.gz": gzip.compress(table.getvalue().encode()),
        "matbench.json": json.dumps(matbench).encode(),
        "list.json": json.dumps([structure(), {"id": "b", "structure": structure(), "gap": 2.0}]).encode(),
        "g.jsonl": "\n".join(json.dumps(structure()) for _ in range(3)).encode(),
        "cifs.zip": zipped({f"gen_{i}.cif": t.encode() for i, t in enumerate(texts)}),
        "g.pt": (Path(__file__).parent / "eval_diff.pt").read_bytes(),
    }


# Made by hand


class Marker:
    """What unpickles to a call that leaves a file behind."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def npy(shape: str, descr: str = "<f8", body: bytes = b"") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


def database(folder: Path, *statements: str) -> bytes:
    path = folder / "scratch.sqlite"
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    data = path.read_bytes()
    path.unlink()
    return data


def _pt(pickled: bytes) -> bytes:
    return zipped({"archive/data.pkl": pickled, "archive/version": b"3\n", "archive/data/0": b"\0" * 8})


def _tensor_pickle(shape: str, numel: int = 2) -> bytes:
    """Protocol 0: a dict whose `num_atoms` is a tensor of this shape over a storage of two numbers."""
    return (
        f"(dp0\nVnum_atoms\nctorch._utils\n_rebuild_tensor_v2\n((Vstorage\nctorch\nFloatStorage\nV0\nVcpu\nI{numel}\ntQ"
        f"I0\n{shape}(I0\ntI00\nNtRs."
    ).encode()


def nasty_files(folder: Path, marker: Path) -> dict[str, bytes]:
    """Empty, binary, foreign, absurd, bombs, and pickles that would touch `marker`."""
    evil = pickle.dumps({"num_atoms": Marker(marker)}, protocol=2)
    good = cif().encode()
    objects = io.BytesIO()
    np.savez(objects, num_atoms=np.array([Marker(marker)], object), meta=np.array([Marker(marker)], object))
    everything = {f"empty{s}": b"" for s in (".cif", ".extxyz", ".csv", ".json", ".jsonl", ".xsf", ".zip", ".npz",
                                             ".pt", ".db", ".csv.gz", ".poscar", ".cif.gz", ".parquet")}  # fmt: skip
    everything |= {f"binary{suffix[5:]}": bytes(range(256)) * 40 for suffix in everything}
    everything |= {f"spaces{suffix[5:]}": b" \n" * 20_000 for suffix in everything if suffix.startswith("empty")}
    everything |= {f"evil.{suffix}": evil for suffix in ("pt", "npz", "json", "db", "pkl", "traj", "py", "cif", "zip")}
    systems = "CREATE TABLE systems (id, numbers, positions, cell, pbc, energy, forces, stress, key_value_pairs{})"
    forever = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i AS {}"
    columns = ("id", "numbers", "positions", "cell", "pbc", "energy", "forces", "stress", "key_value_pairs")
    return everything | {
        "evil_zip.pt": _pt(evil),
        "evil_json.json": json.dumps({"py/object/apply": "os.system", "sites": [], "@module": "os", "@class": "system",
                                      "lattice": {"matrix": {"py/reduce": ["os.system", "touch x"]}}}).encode(),
        "evil_objects.npz": objects.getvalue(),
        "evil_inst.pt": _pt(b"(S'touch'\nios\nsystem\n."),
        "evil_global.pt": _pt(b"\x80\x04\x8c\x02os\x8c\x06system\x93(\x8c\x04truet\x85R."),
        "evil_build.pt": _pt(b"ctorch._utils\n_rebuild_tensor_v2\n(dS'__defaults__'\n(I1\ntsb."),
        "memo.pt": _pt(b"\x80\x02}r\xff\xff\xff\x7f."),
        "bytearray.pt": _pt(b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"."),
        "unicode.pt": _pt(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"."),
        "long.pt": _pt(b"I" + b"9" * 100_000 + b"\n."),
        "deep.pt": _pt(b"N" + b"\x85" * 100_000 + b"."),
        "deep_key.pt": _pt(b"}N" + b"\x85" * 300_000 + b"Ns."),
        "expanded.pt": _pt(_tensor_pickle("(I1000000000000\nt")),
        "outside.pt": _pt(_tensor_pickle("(I9\nt")),
        "storage.pt": _pt(_tensor_pickle("(I1\nt", 1 << 60)),
        "huge_header.npz": zipped({"num_atoms.npy": npy("(10000000000000,)")}),
        "negative_header.npz": zipped({"num_atoms.npy": npy("(-1,)")}),
        "code_header.npz": zipped({"num_atoms.npy": npy("__import__('os').system('true')")}),
        "deep_header.npz": zipped({"num_atoms.npy": npy("(" * 3000 + ")" * 3000)}),
        "bomb.zip": zipped({"a.cif": good + b" " * 120_000_000}),
        "bomb.npz": zipped({"num_atoms.npy": npy("(15000000,)", body=bytes(120_000_000))}),
        "bomb.csv.gz": gzip.compress(bytes(50_000_000), 9) * 40,
        "bomb.json.gz": gzip.compress(b"[" * 50_000_000, 9) * 40,
        "nested.zip": zipped({"inner.zip": zipped({"a.cif": good}), "b.cif": good}),
        "outward.zip": zipped({"../../a.cif": good, "/etc/b.cif": good, "C:\\c.cif": good}),
        "other.zip": zipped({"readme.txt": b"nothing"}),
        "broken_member.zip": zipped({"a.cif": good, "b.cif": b"\0\1", "c.csv": b"no,column\n", "POSCAR": b""}),
        "view.db": database(folder, f"CREATE VIEW systems AS {forever.format(', 1 AS '.join(columns))} FROM n"),
        "computed.db": database(
            folder, systems.format("").replace("energy", "energy AS (length(hex(zeroblob(9000000))))"),
            "INSERT INTO systems (id) VALUES (1)"),
        "json.db": database(folder, systems.format(""), "INSERT INTO systems VALUES (1, x'01000000', "
                            "zeroblob(24), zeroblob(72), 7, 1, 'a', 2, '{\"py/object\": \"os.system\"')"),
        "text.db": database(folder, systems.format(""), "INSERT INTO systems VALUES ('a','b','c','d','e','f',1,2,3)"),
        "other.db": database(folder, "CREATE TABLE something (x)"),
        "utf16.cif": cif().encode("utf-16"),
        "utf16_no_mark.cif": cif().encode("utf-16-le"),
        "latin1.cif": cif(extra="_author 'Müller'\n").encode("latin-1"),
        "mac.cif": cif().replace("\n", "\r").encode(),
        "marked.csv": ("\ufeff" + "cif\n").encode(),
        "ten_thousand.cif": cif("P 1", sites="".join(f"Na{i} Na 0.{i:05d} 0.1 0.2\n" for i in range(10_000))).encode(),
        "two_thousand.cif": cif("P 1", sites="".join(f"Na Na 0.{52 * i:05d} 0 0\n" for i in range(1_900))).encode(),
        "cubic.cif": cif("F m -3 m").encode(),
        "operations_bomb.cif": cif("P 1", extra="loop_\n_symmetry_equiv_pos_as_xyz\n" + "'x,y,z'\n" * 60_000).encode(),
        "sites_one_line.cif": cif(sites="Na1 Na 0.1 0.2 0.3 " * 50_000).encode(),
        "quotes.cif": (cif() + "_note " + "'" * 200_000 + "\n").encode(),
        "quote_lines.cif": (cif() + ("'" * 2_000 + "\n") * 2_000).encode(),
        "hundreds.cif": cif(sites="".join(f"Na{i} Na 0.{i:05d} 0.1 0.2\n" for i in range(1, 900))).encode(),
        "blocks.cif": b"data_a\n" * 50_000,
        "blank.cif": good + b"\n" * 300_000 + b"data_",
        "spaces_line.cif": good + b" " * 300_000 + b"x",
        "hashes.cif": good + b" #" * 200_000,
        "semicolon.cif": good + b";\n" * 100_000,
        "duplicate.cif": cif("P 1", sites="Na1 Na 0 0 0\nCl1 Cl 0 0 0\n").encode(),
        "partial.cif": (
            cif("P 1", sites="Na1 Na 0 0 0 0.5\n").replace("fract_z\n", "fract_z\n_atom_site_occupancy\n").encode()
        ),
        "flat.cif": cif("P 1", angle="180").encode(),
        "impossible.cif": cif("P 1", angle="150").encode(),
        "zero.cif": cif("P 1", length="0").encode(),
        "negative.cif": cif("P 1", length="-4").encode(),
        "wide.cif": cif("P 1", length="1e38").encode(),
        "expression.cif": cif("P 1", extra="loop_\n_symmetry_equiv_pos_as_xyz\n'x**9**9**9, y, z'\n").encode(),
        "magnetic.cif": cif("P 1", extra="_space_group_magn.transform_BNS_Pp_abc '9**9**9**9*a,b,c;0,0,0'\n"
                             "_space_group_magn.number_BNS 1.1\n").encode(),
        "count.extxyz": b"1000000000000\n\nNa 0 0 0\n",
        "negative.extxyz": b"-5\n\nNa 0 0 0\n",
        "none.extxyz": b'0\nLattice="4 0 0 0 4 0 0 0 4"\n',
        "wide.extxyz": b'1\nLattice="4 0 0 0 4 0 0 0 4" Properties=species:S:1:pos:R:1_000_000_000\nNa 0 0 0\n',
        "long.extxyz": b"1\n" + b"a=" * 1_000_000 + b"\nNa 0 0 0\n",
        "many_keys.extxyz": (
            b'1\nLattice="4 0 0 0 4 0 0 0 4" ' + b" ".join(b"k%d=1" % i for i in range(3000)) + b"\nNa 0 0 0\n"
        ),
        "json.extxyz": b'1\nLattice="4 0 0 0 4 0 0 0 4" a="_JSON ' + b"[" * 40_000 + b'"\nNa 0 0 0\n',
        "stress.extxyz": b'1\nLattice="4 0 0 0 4 0 0 0 4" stress="1 2" energy=1e400\nNa 0 0 0\n',
        "big_frame.extxyz": (
            b'3000\nLattice="9 0 0 0 9 0 0 0 9"\n' + b"Na 0 0 0\n" * 3000
            + b'1\nLattice="4 0 0 0 4 0 0 0 4"\nNa 0 0 0\n'
        ),
        "count.poscar": b"x\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa\n4000000000\nDirect\n0 0 0\n",
        "negative.poscar": b"x\n1.0\n4 0 0\n0 4 0\n0 0 4\nNa Cl\n-3 4\nDirect\n0 0 0\n",
        "unnamed.poscar": b"x\n1.0\n4 0 0\n0 4 0\n0 0 4\n1\nDirect\n0 0 0\n",
        "infinite.poscar": b"x\n1.0\n4 0 0\n0 inf 0\n0 0 4\nNa\n1\nDirect\n0 0 nan\n",
        "count.xsf": XSF.replace(" 2 1", " 2000000000 1").encode(),
        "steps.xsf": (b"ANIMSTEPS 1000000000000\n" + XSF.encode()),
        "deep.json": b"[" * 1_000_000,
        "deep_object.json": b'{"a":' * 100_000,
        "huge_int.json": json.dumps([structure(), {"structure": structure(), "gap": 10**400}]).encode(),
        "nan.json": json.dumps([structure(lattice={"matrix": [[float("nan")] * 3] * 3})]).encode(),
        "ragged.json": json.dumps([structure(lattice={"matrix": [[1, 2], [3]]}), structure(sites=7), 5, None]).encode(),
        "words.json": json.dumps([structure(lattice={"matrix": [["4", "0", "0"]] * 3})]).encode(),
        "dummy.json": (
            json.dumps([structure(sites=[{"species": [{"element": "X", "occu": 1}], "abc": [0, 0, 0]}])]).encode()
        ),
        "many.json": json.dumps(structure(sites=structure()["sites"] * 2_000)).encode(),
        "molecule.json": json.dumps({"@class": "Molecule", "sites": structure()["sites"]}).encode(),
        "ids.json": json.dumps([{"id": "x" * 1_000_000, "structure": structure()}] * 5).encode(),
        "columns.csv": b",".join(b"c%d" % i for i in range(100_000)) + b"\n",
        "field.csv": b"cif\n\"" + b"x" * 5_000_000,
        "wide_properties.csv": (
            ("cif," + ",".join(f"c{i}" for i in range(3000)) + f'\n"{cif()}",' + "1," * 3000).encode()
        ),
    }  # fmt: skip
