"""Settings from strangers: every file of settings is values or one short line, at once."""

import os
import time

import pytest

from crysjax.config import checked, parse_yaml, read_yaml
from crysjax.data.readers import limits

NASTY = {
    "aliases": ("a: &a [x, x]\nb: *a\n", r"line 2, column 4: alias \*a: aliases are not read"),
    "merged": ("a: {b: 1}\n<<: {c: 1}\n", r"line 2, column 1: key '<<': expected text"),
    "null key": ("null: 1\n", r"line 1, column 1: key 'null': expected text"),
    "number key": ("a: {3: 1}\n", r"line 1, column 5: key '3': expected text"),
    "bool key": ("elements: 3\nNo: 1\n", r"line 2, column 1: key 'No': expected text"),
    "list key": ("? [a, b]\n: 1\n", r"line 1, column 3: key "),
    "twice": ("a: 1\na: 2\n", r"line 2, column 1: key 'a' is given twice"),
    "deep list": ("a: " + "[" * 100_000, r"nested deeper than any settings are"),
    "deep mapping": ("a: " + "{b: " * 50_000, r"nested deeper than any settings are"),
    "digits": ("a: " + "9" * 5_000, r"not a text of YAML"),
    "a date": ("a: 2024-99-99\n", r"not a text of YAML"),
    "python": ("a: !!python/object/apply:os.system [x]\n", r"line 1, column 4: could not determine a constructor"),
    "too long": ("a: 1\n" + "#" * limits.SETTINGS_BYTES, r"1000005 bytes; at most 1000000 are read"),
    "not text": (b"\xff\xfe\x00", r"not a text of YAML"),
    "zeros": (b"\0" * 100, r"not a text of YAML"),
}


@pytest.mark.parametrize("name", NASTY)
def test_nasty_yaml_is_one_short_line(name, tmp_path):
    text, said = NASTY[name]
    (tmp_path / "a.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    begin = time.process_time()
    with pytest.raises(ValueError, match=said) as error:
        read_yaml(tmp_path / "a.yaml")
    assert time.process_time() - begin < 10
    assert str(error.value).startswith(str(tmp_path / "a.yaml")) and len(str(error.value)) < 500
    assert str(error.value).isprintable()


def test_a_pipe_is_refused_and_a_byte_order_mark_is_not(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ValueError, match=r"pipe\.yaml: is a pipe; expected a regular file"):
        read_yaml(tmp_path / "pipe.yaml")
    with pytest.raises(ValueError, match=r"/dev/zero: is a device; expected a regular file"):
        read_yaml("/dev/zero")
    (tmp_path / "a.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": 1}


def factory(*, share: float = 0.0, count: int = 1, names: list[str] | None = None) -> None:
    """What settings are checked against."""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("share: .nan", "share: nan; expected a finite number"),
        ("share: -.inf", "share: -inf; expected a finite number"),
        ("share: '1e999'", "share: inf; expected a finite number"),
        ("share: " + "9" * 400, r"share: 9{100}\.\.\.; expected a finite number"),
        ("count: " + "9" * 400, r"count: 9{100}\.\.\.; expected a whole number"),
        ("count: '" + "x" * 900_000 + "'", r"count: 'x{99}\.\.\.; expected a whole number"),
        ("x" * 900 + ": 1", r"^x{100}: unknown key"),
    ],
)
def test_no_number_that_overflows_and_no_endless_message(text, said):
    with pytest.raises(ValueError, match=said) as error:
        checked(factory, parse_yaml(text))
    assert len(str(error.value)) < 300
    with pytest.raises(ValueError, match=r"^cuont: unknown key; expected one of share, names$"):
        checked(factory, {"cuont": 1}, hidden="count")
    assert checked(factory, parse_yaml("share: 1\nnames: [a]")) == {"share": 1.0, "names": ["a"]}
