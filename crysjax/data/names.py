"""Names of files, and lines of text, that are made from names in data: an id may be anything, these may not.

Two different ids never share a file, on file systems that ignore case too; no name leaves its folder, is hidden, is
longer than 64 characters or means something to a system (Windows opens a device for `con.txt`).
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable

LONGEST = 64  # characters, which are bytes too
_READABLE, _DIGEST = 40, 22  # characters of an odd id that are kept, and of its digest: 88 bits
_PLAIN = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_.+-]*(?<!\.)", re.ASCII)
_DEVICES = re.compile(r"(con|prn|aux|nul|clock\$|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def of(identity: str) -> str:
    """The file name of an id, without a suffix.

    An id of ASCII letters, digits and `_ . + -` is its own name. Capitals among them are told by a number after a `~`
    (`MgO~5`: the first and the third letter), as `MGO` is the same file in many places. Every other id becomes what is
    readable of it and a digest: `a/b` is `a_b~` and 22 hexadecimal digits.
    """
    identity = str(identity)
    capitals = sum(1 << place for place, letter in enumerate(identity) if letter.isupper())
    mark = f"~{capitals:x}" if capitals else ""
    plain = _PLAIN.fullmatch(identity) and not _DEVICES.match(identity)
    if plain and len(identity + mark) <= LONGEST:
        return identity + mark
    readable = re.sub(r"[^A-Za-z0-9_+]", "_", identity)[:_READABLE] or "_"
    return f"{readable}~{hashlib.sha256(identity.encode('utf-8', 'surrogatepass')).hexdigest()[:_DIGEST]}"


def printable(text: object, keep: str = "") -> str:
    """Text from data in one line for a terminal: what is no visible character becomes `\\x1b`, `\\n` and such.

    Ids and names of files may hold anything, and a terminal obeys what it is sent. `keep` names characters that stay.
    """
    return "".join(c if c.isprintable() or c in keep else ascii(c)[1:-1] for c in str(text))


def of_all(identities: Iterable[str]) -> list[str]:
    """A file name each, in order; the second one of an id and those after it are numbered: `mp-1~r2`."""
    seen, found = Counter(), []
    for identity in map(str, identities):
        seen[identity] += 1
        again = f"~r{seen[identity]}" if seen[identity] > 1 else ""
        found.append(of(identity) + again)
    return found
