"""The client against a real server on this machine that answers in the documented schema, and badly when told to."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from crysjax.cli.app import main
from crysjax.data.readers import materials_project
from crysjax.physics.hull import hull
from crysjax.physics.hull.read_hull import read_hull

KEY = "a-secret-key"


def document(name: str, composition: dict, energy: float | None, thermo_type: str = "GGA_GGA+U") -> dict:
    return {"material_id": name, "composition": composition, "formation_energy_per_atom": energy,
            "thermo_type": thermo_type}  # fmt: skip


DOCUMENTS = [
    document("mp-1", {"Fe": 1.0}, 0.0),
    document("mp-2", {"O": 8.0}, 0.0),
    document("mp-3", {"Fe": 2.0, "O": 3.0}, -1.6),
    document("mp-4", {"Fe": 1.0, "O": 1.0}, -1.5),
    document("mp-5", {"Fe": 1.0, "O": 2.0}, None),
    document("mp-6", {"Fe": 3.0, "O": 4.0}, -1.65),
    document("mp-7", {"Na": 1.0, "Cl": 1.0}, -2.1),
    document("mp-8", {"Fe": 2.0, "O": 3.0}, -1.9, "R2SCAN"),
]


class Server(ThreadingHTTPServer):
    """Answers queries over `documents`; what `mistake` names goes wrong, and `asked` holds the queries."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.documents, self.mistake, self.asked = list(DOCUMENTS), "", []
        self.over = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        parts, server = urlsplit(self.path), self.server
        query = {k: v[0] for k, v in parse_qs(parts.query).items()}
        server.asked.append(query)
        if server.mistake == "slow":
            server.over.wait()  # until the client has given up
            return None
        if server.mistake == "moved":
            return self.send(302, {}, {"Location": f"{server.url}/elsewhere"})
        if server.mistake.isdigit():
            return self.send(int(server.mistake), {"detail": "no"})
        if self.headers["X-API-KEY"] != KEY:
            return self.send(401, {"detail": "Invalid API key"})
        if parts.path != "/materials/thermo/":
            return self.send(404, {"detail": "Not Found"})
        return self.send(200, self.found(query, server))

    def found(self, query: dict, server: Server) -> object:
        systems, types = query["chemsys"].split(","), query["thermo_types"].split(",")
        inside = [d for d in server.documents if "-".join(sorted(d["composition"])) in systems]
        if server.mistake != "mixed":
            inside = [d for d in inside if d["thermo_type"] in types]
        total, skip = len(inside), int(query["_skip"])
        inside = [{k: d[k] for k in query["_fields"].split(",") if k in d} for d in inside]
        page = inside[skip : skip + int(query["_limit"])]
        if server.mistake == "short" and skip:
            page = []
        return [] if server.mistake == "schema" else {"data": page, "meta": {"total_doc": total, "api_version": "0"}}

    def send(self, status: int, content: object, headers: dict | None = None) -> None:
        data = b"<html>" if self.server.mistake == "html" else json.dumps(content).encode()
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("MP_API_KEY", KEY)
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()


def test_a_system_becomes_a_hull(server, tmp_path):
    """Two entries a page; the sub-systems are asked for, other systems and levels are not."""
    path = tmp_path / "fe_o.json"
    assert materials_project.pull(("O", "Fe"), path, url=server.url, page=2) == 5
    assert [query["_skip"] for query in server.asked] == ["0", "2", "4"]
    assert server.asked[0]["chemsys"] == "Fe,O,Fe-O" and server.asked[0]["thermo_types"] == "GGA_GGA+U"
    counts, energies, names = hull.read_entries(path)
    assert names.tolist() == ["mp-1", "mp-2", "mp-3", "mp-4", "mp-6"]
    level = hull.read_level(path)
    assert level == hull.Level("PBE and PBE+U (VASP, Materials Project)", "MaterialsProject2020Compatibility")
    known = hull.hull(counts, energies, level=level, source="", names=names)
    above = hull.energy_above_hull(counts, energies, known, level=level)
    np.testing.assert_allclose(above, 0, atol=1e-12)  # all five are stable: -1.65 * 7 / 8 > -1.5, and so on
    with pytest.raises(ValueError, match=r"of the energies, .* of the hull"):
        hull.energy_above_hull(counts, energies, known, level=hull.MATERIALS_PROJECT_2021)


def test_the_command_writes_what_a_hull_is_read_from(server, tmp_path, capsys):
    path = tmp_path / "fe_o.json"
    with pytest.raises(SystemExit) as left:
        main(["data", "fetch", "Fe,O", "--out", str(path), "--url", server.url])
    assert left.value.code == 0 and f"{path}: 5 entries of GGA_GGA+U" in capsys.readouterr().out
    found = read_hull([str(path)])
    assert found.level.corrections == "MaterialsProject2020Compatibility" and "mp-3" in found.names
    with pytest.raises(SystemExit) as left:
        main(["data", "fetch", "Fe,O", "--out", str(tmp_path / "a.csv"), "--url", server.url])
    assert left.value.code == 2 and "a.csv: expected a name that ends in .json" in capsys.readouterr().err


def test_other_level(server):
    rows = materials_project.entries_of(("Fe", "O"), url=server.url, thermo_type="R2SCAN", key=f"{KEY}\n")
    assert [(row["id"], row["theory"], row["corrections"]) for row in rows] == [
        ("mp-8", "r2SCAN (VASP, Materials Project)", "none")
    ]


def test_tables_of_two_levels_do_not_mix(server, tmp_path):
    rows = [row for kind in ("GGA_GGA+U", "R2SCAN")
            for row in materials_project.entries_of(("Fe", "O"), url=server.url, thermo_type=kind)]  # fmt: skip
    (tmp_path / "both.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"entry 6 is of Level.*r2SCAN.*expected one level"):
        hull.read_entries(tmp_path / "both.json")


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ("401", "status 401: the key is not accepted"),
        ("404", "status 404: there is no such address"),
        ("429", "status 429: too many requests"),
        ("500", "status 500: the server has failed; try later"),
        ("moved", "status 302"),
        ("slow", r"no answer within 0\.2 s"),
        ("html", "not JSON: b'<html>'"),
        ("schema", "expected JSON with data and meta.total_doc"),
        ("short", "the answer ends after 2 of 6 entries"),
        ("mixed", "entry mp-8 is of R2SCAN, another level of theory than GGA_GGA"),
    ],
)
def test_what_servers_do_wrong_is_one_line(server, tmp_path, mistake, said):
    """One line without the key; no file is left, and a redirect is not followed, which would carry the key along."""
    server.mistake = mistake
    with pytest.raises(ValueError, match=said) as error:
        materials_project.pull(("Fe", "O"), tmp_path / "a.json", url=server.url, page=2, timeout_seconds=0.2)
    assert "\n" not in str(error.value) and KEY not in str(error.value)
    assert list(tmp_path.iterdir()) == [] and len(server.asked) <= 4


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"composition": {"Xx": 1.0}}, "entry mp-3: element: 'Xx' is not"),
        ({"composition": {"Fe": -2.0, "O": 3.0}}, "entry mp-3: no id, or amounts that are none"),
        ({"composition": None}, "entry mp-3: "),
        ({"formation_energy_per_atom": "low"}, "entry mp-3: could not convert"),
        ({"formation_energy_per_atom": float("nan")}, "entry mp-3: formation energy nan"),
    ],
)
def test_bad_entries_are_named(changed, said):
    with pytest.raises(ValueError, match=said):
        materials_project._row(DOCUMENTS[2] | changed, "GGA_GGA+U")


def test_mistakes_of_the_caller(server, monkeypatch):
    ask = materials_project.entries_of
    with pytest.raises(ValueError, match="status 401"):
        ask(("Fe",), url=server.url, key="wrong")
    with pytest.raises(ValueError, match="'Xx' is not a chemical element"):
        ask(("Xx",), url=server.url)
    with pytest.raises(ValueError, match="0 elements; expected 1 to 8"):
        ask((), url=server.url)
    with pytest.raises(ValueError, match=r"thermo_type: 'PBE'; expected one of GGA_GGA\+U"):
        ask(("Fe",), url=server.url, thermo_type="PBE")
    with pytest.raises(ValueError, match="no entry of Ne with"):
        ask(("Ne",), url=server.url)
    with pytest.raises(ValueError, match="expected https"):
        ask(("Fe",), url="http://api.example.org")
    with pytest.raises(ValueError, match="refused"):
        ask(("Fe",), url="http://127.0.0.1:9")
    monkeypatch.delenv("MP_API_KEY")
    with pytest.raises(ValueError, match="no key; set MP_API_KEY"):
        ask(("Fe",), url=server.url)
