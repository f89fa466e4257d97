"""File names made from ids: inside their folder, short, and different wherever the ids are."""

import itertools
import random
import unicodedata

import pytest

from crysjax.data import names

HOSTILE = [
    "", ".", "..", "../../x", "/etc/passwd", "a/b", "a_b", "a\\b", "a:b", "C:\\x", "x" * 250, "x" * 251, "é", "e\u0301",
    "CON", "con", "con.txt", "nul", "com1.cif", "Lpt9", "a.", "a..", "a ", " a", "a", "A", "-rf", "~", "~a", "a~5",
    "MgO", "MGO", "mgo", "mgO", "MgO~5", "a\nb", "a\x00b", "\x1b[31m", "\ud800", "ß", "ss", "İ", "i", "Å", "\u212b",
    "a?b", "a|b", "Z" * 64, "z" * 64, "Z" + "z" * 63, "mp-149", "0-0042", "JVASP-1002", "1_.._MgO_x", "🎉", "%2e%2e",
    ".hidden", "*",
]  # fmt: skip


def folded(name: str) -> str:
    """What a file system that ignores case and the composition of letters takes a name for."""
    return unicodedata.normalize("NFD", name).casefold()


def test_hostile_ids_have_names_of_their_own_that_stay_where_they_are(tmp_path):
    ids = list(dict.fromkeys(HOSTILE))
    found = [names.of(identity) for identity in ids]
    assert len({folded(name) for name in found}) == len(ids)
    for name in found:
        assert 0 < len(name.encode()) <= names.LONGEST and name.isascii() and name.isprintable()
        assert not set(name) & set('/\\:*?"<>| \0') and name[0] not in ".-" and name[-1] != "."
        assert name.split(".")[0].lower() not in ("con", "prn", "aux", "nul", "com1", "lpt9")
        (tmp_path / f"{name}.cif").write_text(name)
        assert (tmp_path / f"{name}.cif").resolve().parent == tmp_path.resolve()
    assert len(list(tmp_path.iterdir())) == len(ids)


def test_usual_ids_are_their_own_names_and_capitals_are_told():
    assert [names.of(i) for i in ("mp-149", "0-0042", "c07", "a.b+c_d")] == ["mp-149", "0-0042", "c07", "a.b+c_d"]
    assert [names.of(i) for i in ("MgO", "MGO", "mgo")] == ["MgO~5", "MGO~7", "mgo"]  # bits of the capitals' places


@pytest.mark.parametrize("letters", ["aA_~/.", "aAbB1~-", "aé\u0301É ."])
def test_different_ids_differ(letters):
    drawn = random.Random(0)
    short = ["".join(p) for n in range(5) for p in itertools.product(letters, repeat=n)]
    long = ["".join(drawn.choice(letters) for _ in range(drawn.randrange(60, 70))) for _ in range(2000)]
    ids = set(short + long)
    assert len({folded(names.of(identity)) for identity in ids}) == len(ids)


def test_an_id_that_comes_again_is_numbered():
    found = names.of_all(["a", "b", "a", "A", "a", "a~r2"])
    assert found[:5] == ["a", "b", "a~r2", "A~1", "a~r3"]
    assert len({folded(name) for name in found}) == 6
