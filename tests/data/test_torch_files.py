"""Files of torch.save against the tensors that torch put there, and pickles that ask for more than tensors.

`eval_diff.pt` and `eval_cases.npz` were made with torch 2.13.0 and torch_geometric 2.8.1: the arrays that were saved,
and the bytes of files of several kinds (`file/NAME`).
"""

import pickle
from pathlib import Path

import numpy as np
import pytest

from crysjax.data.datasets import entries
from crysjax.data.readers import io, pickles, torch_files
from crysjax.data.readers.cif import parameters

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def cases() -> dict[str, np.ndarray]:
    with np.load(HERE / "eval_cases.npz") as file:
        return dict(file)


def assert_equal(dataset, cases, evaluation: int, rows: slice, lengths: str = "lengths") -> None:
    """The crystals of one evaluation are those that were saved: exactly, but for the float32 of the cell."""
    start = np.concatenate([[0], np.cumsum(cases["num_atoms"][evaluation])])
    found = entries(dataset)[rows]
    assert [len(e.numbers) for e in found] == cases["num_atoms"][evaluation].tolist()
    for i, entry in enumerate(found):
        sites = slice(start[i], start[i + 1])
        np.testing.assert_array_equal(entry.numbers, cases["atom_types"][evaluation, sites])
        np.testing.assert_array_equal(entry.frac, cases["frac_coords"][evaluation, sites])
        ours = parameters(entry.lattice.astype(float))
        np.testing.assert_allclose(ours[0], cases[lengths][evaluation, i], rtol=1e-6)
        np.testing.assert_allclose(ours[1], cases["angles"][evaluation, i], rtol=1e-5)


def test_several_evaluations_are_told_apart_by_id(cases):
    dataset = io.read(HERE / "eval_diff.pt")
    assert dataset.ids.tolist() == [f"{i}-evaluation-{e}" for e in range(2) for i in range(3)]
    assert dataset.split.tolist() == [""] * 6
    assert_equal(dataset, cases, 0, slice(0, 3))
    assert_equal(dataset, cases, 1, slice(3, 6))


@pytest.mark.parametrize("name", ["eval_gen", "eval_recon", "mixed"])
def test_one_evaluation_without_an_axis_of_its_own(cases, tmp_path, name):
    """Views of a larger storage; a batch of PyTorch Geometric beside them; bfloat16, float64, a transposed tensor."""
    (tmp_path / "s.pt").write_bytes(cases[f"file/{name}"].tobytes())
    dataset = io.read(tmp_path / "s.pt", split="test")
    assert dataset.ids.tolist() == ["0", "1", "2"] and dataset.split.tolist() == ["test"] * 3
    assert_equal(dataset, cases, 0, slice(0, 3), "lengths_bfloat16" if name == "mixed" else "lengths")


def test_the_format_before_torch_1_6(cases):
    legacy = torch_files.tensors(cases["file/legacy"].tobytes())
    for name in ("num_atoms", "atom_types", "frac_coords", "lengths", "angles"):
        np.testing.assert_array_equal(legacy[name], cases[name])
        assert legacy[name].dtype == cases[name].dtype


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("evil", "refused: the pickle asks for posix.system"),
        ("module", "refused: the pickle asks for torch.nn.modules.linear.Linear"),
        ("state", "no samples of crystals: needs tensors num_atoms"),
        ("param", "a saved list; expected a dict of tensors"),
    ],
)
def test_files_of_something_else(cases, tmp_path, name, message):
    (tmp_path / "s.pt").write_bytes(cases[f"file/{name}"].tobytes())
    with pytest.raises(ValueError, match=message):
        io.read(tmp_path / "s.pt")


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_values_are_what_python_unpickles(protocol):
    value = {"a": [1, -2, 2**70, 1.5, True, None], "b": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)), "c": b"\0\xff",
             "d": {"nested": ["x" * 300, "é"]}, 7: "seven"}  # fmt: skip
    value["e"] = value["a"]
    data = pickle.dumps(value, protocol)
    if protocol < 3:  # there bytes are a call of codecs.encode, which is refused like any other call
        with pytest.raises(ValueError, match=r"refused _codecs\.encode"):
            pickles.load(_stream(data), _refuse, _refuse)
        data = pickle.dumps(value := {k: v for k, v in value.items() if k != "c"}, protocol)
    again = pickles.load(_stream(data), _refuse, _refuse)
    assert again == value and again["e"] is again["a"]


def test_nothing_is_called_or_imported(tmp_path):
    marker = tmp_path / "marker"

    class Evil:
        def __reduce__(self):
            return exec, (f"open({str(marker)!r}, 'w').close()",)

    for protocol in range(6):
        data = pickle.dumps({"x": Evil()}, protocol)
        with pytest.raises(ValueError, match=r"refused (builtins|__builtin__)\.exec"):
            pickles.load(_stream(data), _refuse, _refuse)
        assert not marker.exists()
        pickle.loads(data)
        assert marker.exists()  # and this is what it would have done
        marker.unlink()


def test_tensors_stay_inside_their_storage():
    storage = torch_files.Storage(np.arange(6, dtype=np.float32), False)
    inside = torch_files._array(torch_files._tensor(storage, 1, (2, 2), (3, 1)))
    np.testing.assert_array_equal(inside, [[1, 2], [4, 5]])
    for offset, shape, stride in (
        (2, (2, 2), (3, 1)),
        (0, (7,), (0,)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (6, (), ()),
    ):
        with pytest.raises(ValueError, match="tensor"):
            torch_files._tensor(storage, offset, shape, stride)
    assert torch_files._array(torch_files._tensor(storage, 0, (0, 3), (3, 1))).shape == (0, 3)


def _refuse(name: object, *_) -> object:
    raise ValueError(f"refused {name}")


def _stream(data: bytes):
    from io import BytesIO

    return BytesIO(data)
