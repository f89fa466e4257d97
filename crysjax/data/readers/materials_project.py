"""Hull references from the Materials Project: the entries of a chemical system and of all its sub-systems.

    crysjax data fetch Li,Fe,O --out li_fe_o.json   # the key is in MP_API_KEY

One query of the documented REST interface (`/materials/thermo/`, JSON, header `X-API-KEY`), page by page. What is
written is a table of entries with the level of theory of each, as `physics.hull.hull.read_entries` and `read_level`
read it. Energies of different levels do not compare, so one file holds one level.
"""

from __future__ import annotations

import json
import math
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from crysjax.chemistry.elements import atomic_number
from crysjax.data import files
from crysjax.data.entry import FORMATION_ENERGY
from crysjax.data.readers import downloads, limits, reading

URL = "https://api.materialsproject.org"
FIELDS = ("material_id", "composition", "formation_energy_per_atom", "thermo_type")

LEVELS = {
    "GGA_GGA+U": ("PBE and PBE+U (VASP, Materials Project)", "MaterialsProject2020Compatibility"),
    "R2SCAN": ("r2SCAN (VASP, Materials Project)", "none"),
    "GGA_GGA+U_R2SCAN": ("r2SCAN mixed with PBE and PBE+U (VASP, Materials Project)",
                         "MaterialsProjectDFTMixingScheme"),
}  # fmt: skip
"""Theory and corrections of each of the interface's thermo types."""

_MOST_ELEMENTS = 8
_SYSTEMS_A_QUERY = 64  # addresses stay far below the 8 kB that servers take
_WHY = {
    401: "the key is not accepted",
    403: "the key is not accepted",
    404: "there is no such address",
    429: "too many requests; wait a minute",
}


def pull(elements: Sequence[str], path: str | Path, *, thermo_type: str = "GGA_GGA+U", **options: Any) -> int:
    """Write the entries of `entries_of` to a JSON file, whole or not at all; how many they are."""
    rows = entries_of(elements, thermo_type=thermo_type, **options)
    files.write(path, json.dumps(rows, indent=1) + "\n")
    return len(rows)


def entries_of(
    elements: Sequence[str], *, thermo_type: str = "GGA_GGA+U", key: str | None = None, url: str = URL,
    page: int = 1000, timeout_seconds: float = 60.0,
) -> list[dict]:  # fmt: skip
    """Rows of id, composition, formation energy in eV/atom, theory and corrections; entries without energy are not.

    Args:
        elements: symbols of the chemical system, such as ("Li", "Fe", "O").
        thermo_type: one of `LEVELS`.
        key: of the Materials Project; the environment variable MP_API_KEY if not given.
        url: of the interface, without the path. Only https, or this machine itself, is ever sent the key.
        page: entries a request.

    Raises:
        ValueError: an element that is none, no key, no answer in time, a refusal, or an answer that is not understood.
    """
    if thermo_type not in LEVELS:
        raise ValueError(f"thermo_type: {thermo_type!r}; expected one of {', '.join(LEVELS)}")
    key = key or os.environ.get("MP_API_KEY", "")
    if not key.strip():
        raise ValueError("Materials Project: no key; set MP_API_KEY (materialsproject.org/api has yours)")
    _check_url(url)
    found: dict[str, dict] = {}
    systems = _sub_systems(elements)
    for start in range(0, len(systems), _SYSTEMS_A_QUERY):
        names = ",".join(systems[start : start + _SYSTEMS_A_QUERY])
        query = {"chemsys": names, "thermo_types": thermo_type, "_fields": ",".join(FIELDS)}
        for document in _documents(url, query, key.strip(), page, timeout_seconds):
            row = _row(document, thermo_type)
            if row is not None:
                found[row["id"]] = row  # pages of a table that grows meanwhile overlap
    if not found:
        raise ValueError(f"Materials Project: no entry of {'-'.join(elements)} with {thermo_type}")
    return list(found.values())


def _sub_systems(elements: Sequence[str]) -> list[str]:
    """Names of all chemical systems of these elements, symbols in alphabetical order as the interface has them."""
    for symbol in elements:
        atomic_number(symbol)
    symbols = sorted(set(elements))
    if not 1 <= len(symbols) <= _MOST_ELEMENTS:
        raise ValueError(f"Materials Project: {len(symbols)} elements; expected 1 to {_MOST_ELEMENTS}")
    return ["-".join(part) for size in range(1, len(symbols) + 1) for part in combinations(symbols, size)]


def _check_url(url: str) -> None:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")):
        raise ValueError(f"url: {url!r}; expected https, so that nobody on the way reads the key")


def _documents(url: str, query: dict, key: str, page: int, seconds: float) -> Iterator[dict]:
    """All documents of a query, page by page."""
    seen, total = 0, 1
    while seen < total:
        asked = urllib.parse.urlencode(query | {"_limit": page, "_skip": seen})
        answer = _answer(f"{url.rstrip('/')}/materials/thermo/?{asked}", key, seconds)
        try:
            documents, total = answer["data"], int(answer["meta"]["total_doc"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise ValueError(f"{url}: not understood; expected JSON with data and meta.total_doc") from None
        if not isinstance(documents, list) or (not documents and seen < total):
            raise ValueError(f"{url}: the answer ends after {seen} of {total} entries")
        yield from documents
        seen += len(documents)


def _answer(address: str, key: str, seconds: float) -> Any:
    """The JSON of one request. The address holds no secret, the key is in a header and in no message."""
    where = address.partition("?")[0]
    request = urllib.request.Request(address, headers={"X-API-KEY": key, "Accept": "application/json"})
    try:
        data = downloads.fetch(request, most=limits.BYTES, seconds=seconds, opened=_OPENER.open)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    except urllib.error.HTTPError as error:
        why = _WHY.get(error.code, "the server has failed; try later" if error.code >= 500 else error.reason)
        raise ValueError(f"{where}: status {error.code}: {why}") from None
    except TimeoutError:
        raise ValueError(f"{where}: no answer within {seconds:g} s") from None
    except (OSError, urllib.error.URLError) as error:
        slow = isinstance(getattr(error, "reason", None), TimeoutError)
        reason = f"no answer within {seconds:g} s" if slow else getattr(error, "reason", error)
        raise ValueError(f"{where}: {reason}") from None
    try:
        return reading.parse_json(data)
    except ValueError:
        raise ValueError(f"{where}: not JSON: {data[:40]!r}") from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """urllib would send the key along to wherever a server points."""

    def redirect_request(self, *_: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def _row(document: Any, thermo_type: str) -> dict | None:
    """A row of the table; `None` without a formation energy."""
    name = document.get("material_id") if isinstance(document, dict) else None
    try:
        said, energy = document["thermo_type"], document["formation_energy_per_atom"]
        amounts = {symbol: float(amount) for symbol, amount in document["composition"].items()}
        energy = None if energy is None else float(energy)
        for symbol in amounts:
            atomic_number(symbol)
        if not name or not amounts or not all(0 < amount < math.inf for amount in amounts.values()):
            raise ValueError("no id, or amounts that are none")
        if energy is not None and not math.isfinite(energy):
            raise ValueError(f"formation energy {energy}")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = f"no field {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"Materials Project: entry {name}: {said}") from None
    if said != thermo_type:
        raise ValueError(f"Materials Project: entry {name} is of {said}, another level of theory than {thermo_type}")
    if energy is None:
        return None
    theory, corrections = LEVELS[thermo_type]
    return {"id": str(name), "composition": amounts, FORMATION_ENERGY: energy, "theory": theory,
            "corrections": corrections}  # fmt: skip
