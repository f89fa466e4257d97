"""The report: what it says, that it is one file, that its charts are where the numbers are, and that it opens."""

import html
import html.parser
import json
import math
import re

import numpy as np
import pytest

from crysjax.evaluation import hits
from crysjax.evaluation.ledger import STAGES, Row
from crysjax.reports import charts, record, report
from crysjax.reports import page as parts

GAPS = {"a": (1.4, 1.5), "b": (1.8, 2.4), "c": (0.4, 0.2)}


def shown(name, rank):
    frac = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    frac = np.concatenate([frac, frac + np.array([0.5, 0, 0])])
    predicted, validated = GAPS[name]
    energies = {"formation_energy_ev_per_atom": (-2.0 + 0.1 * rank, 0.05)}
    return report.Shown(
        name, "NaCl", "Fm-3m (225)", f"candidates/{rank}_{name}.cif", np.repeat([11, 17], 4), frac,
        5.64 * np.eye(3), float(rank), rank == 0, 0.84 - 0.4 * rank, {"band_gap_ev": (predicted, 0.3), **energies},
        {"band_gap_ev": (validated, 0.1), **energies}, -3.4,
    )  # fmt: skip


def rows():
    """Six candidates: three fail a gate, one the relaxation... and three are validated."""
    last = {"a": 6, "b": 6, "c": 6, "d": 1, "e": 1, "f": 1}
    return [
        Row(c, stage, 0, 7, "objective", 1.0, 0.1, "", k < end, 0.02, "" if k < end else "atoms <closer> than 0.5 Å")
        for k, stage in enumerate(STAGES)
        for c, end in last.items()
        if k <= end
    ]


def page(names=tuple(GAPS), **more):
    summary = {
        "rounds": 1, "seed": 7, "seconds": 12.5, "models": {"generator": "mp_20 <v1>"},
        "oracle_calls": {"student": {"calls": 300, "seconds": 0.6}}, "versions": record.installed_versions(),
        "plan": {"target": {"band_gap_ev": [1, 2], "formation_energy_ev_per_atom": "minimise"}},
        "resampling": {"effective_particles": 2.3, "lowest_tenth": 1.2},
        "hits": hits.summary(np.array([0.84, 0.44, 0.04])[: len(names)], np.array([0.1, 0.3]), windowed=True,
                             validations=3, means_inside=min(len(names), 1), opinions={"band_gap_ev": "heads <only>"},
                             guidance="resample"),
    }  # fmt: skip
    windows = {"band_gap_ev": (1.0, 2.0), "formation_energy_ev_per_atom": (-math.inf, math.inf)}
    return report.render(
        title="quickstart", plan="target: <plan>", windows=windows, rows=rows(), summary=summary,
        candidates=[shown(name, i) for i, name in enumerate(names)], history=[2.0, math.nan, 0.0, 1.0],
        caveat="A potential, not DFT.", **more,
    )  # fmt: skip


class Links(html.parser.HTMLParser):
    """Collects every address and checks that tags are closed."""

    VOID = ("meta", "br")

    def __init__(self):
        super().__init__()
        self.addresses, self.open = [], []

    def handle_starttag(self, tag, attrs):
        self.addresses += [v for k, v in attrs if k in ("href", "src")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_one_file_well_formed_and_escaped():
    text = page()
    links = Links()
    links.feed(text)
    assert not links.open
    files = {f"candidates/{i}_{n}.{end}" for i, n in enumerate(GAPS) for end in ("cif", "vasp")}
    assert set(links.addresses) == {"ledger.jsonl", "ranking.csv"} | files
    assert "http://" not in text and "https://" not in text and "@import" not in text
    assert (
        "heads &lt;only&gt;" in text
        and "&lt;plan&gt;" in text
        and "&lt;closer&gt;" in text
        and "mp_20 &lt;v1&gt;" in text
    )
    assert not re.search(r"\[\[[a-z]+\]\]", text)


def test_it_says_what_happened():
    text = re.sub(r"<[^>]+>", "|", page())
    words = (
        "6",
        "3 (50 %)",
        "1 of 3",
        "1.3 (0 to 2) of 3",
        "0.6 (0 to 2) of 3",
        "20.0 %",
        "0.84",
        "2.30",
        "12 s",
        "1.500 ± 0.100",
        "student",
        "300",
        "A potential, not DFT.",
        "seed 7",
    )
    for said in words:
        assert said in text, said
    assert "|3|atoms" in re.sub(r"\|+", "|", text)  # three failures with their reason


def test_a_campaign_without_candidates_still_has_a_report():
    text = page(names=())
    assert "0 of 3" in text and "none" in text
    assert json.loads(re.search(r'id="crystals">(.*?)</script>', text).group(1)) == []


def test_marks_lie_where_their_values_are():
    scale = charts.Scale.over([0.3, 1.9])
    assert (scale.low, scale.high, scale.tick) == (0.0, 2.0, 0.5)
    assert scale.ticks() == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert scale(2.0) == charts.TOP and scale(0.0) == charts.HEIGHT - charts.BOTTOM
    assert scale(1.0) == pytest.approx((scale(0.0) + scale(2.0)) / 2)
    chart = charts.goal_chart("gap", [charts.Mark("a", (1.0, 0.5), (0.5, math.nan))], (0.5, math.inf))
    wide = charts.Scale.over([0.5, 1.5, 1.0])
    predicted, validated = re.findall(r'<circle class="(?:predicted|validated)" cx="[\d.]+" cy="([\d.]+)"', chart)
    assert float(predicted) == pytest.approx(wide(1.0), abs=0.05)
    assert float(validated) == pytest.approx(wide(0.5), abs=0.05)
    bar = re.search(r'<line class="predicted" x1="[\d.]+" x2="[\d.]+" y1="([\d.]+)" y2="([\d.]+)"', chart)
    assert [float(v) for v in bar.groups()] == pytest.approx([wide(0.5), wide(1.5)], abs=0.05)
    assert '<line class="validated"' not in chart  # no uncertainty, no bar


@pytest.mark.parametrize("values", [[3.0, 3.0], [-1e-7, 2e-7], [math.nan], [1e5, -2e6]])
def test_axes_of_odd_data(values):
    scale = charts.Scale.over(values)
    assert 1 <= len(scale.ticks()) <= 12
    assert all(scale.low <= v <= scale.high for v in values if math.isfinite(v))


def test_progress_is_the_running_minimum():
    chart = charts.progress_chart("p", [2.0, math.nan, 0.0, 1.0])
    scale = charts.Scale.over([2.0, 0.0, 1.0])
    heights = [float(p.split(",")[1]) for p in re.search(r'points="([^"]+)"', chart).group(1).split()]
    assert heights[::2] == pytest.approx([scale(v) for v in (2.0, 2.0, 0.0, 0.0)], abs=0.05)
    assert chart.count("<circle") == 3
    assert charts.progress_chart("p", [math.nan]) == ""


def test_quantities_carry_units():
    assert parts.quantity("band_gap_ev") == ("band gap", "eV")
    assert parts.quantity("formation_energy_ev_per_atom") == ("formation energy", "eV/atom")
    assert parts.quantity("bulk_modulus_gpa") == ("bulk modulus", "GPa")
    assert parts.quantity("mag_density") == ("mag density", "")


def test_formulas_and_symbols_are_set_as_printed_and_escaped():
    assert parts.formula("Ba12<O3>") == "Ba<sub>12</sub>&lt;O<sub>3</sub>&gt;"
    assert parts.space_group("P6_3/mmc (194)") == "P6<sub>3</sub>/mmc (194)"
    assert parts.space_group("Fm-3m") == 'Fm<span class="bar-over">3</span>m'


def test_what_was_asked_of_a_property():
    asked = {(1, 2): "1 to 2", (1, math.inf): "at least 1", (-math.inf, 2): "at most 2"}
    assert {window: report.want(window, None) for window in asked} == asked
    assert report.want((-math.inf, math.inf), "minimise") == "low"
    assert report.want((-math.inf, math.inf), {"goal": "maximise", "weight": 2.0}) == "high"


def test_candidates_that_were_chosen_and_failed_are_listed():
    book = rows()
    for row in [r for r in book if r.candidate == "a" and r.stage != "validated"]:
        lost, p_hit = row.stage == "relaxed", 0.25 if row.stage == "scored" else None
        book.append(row._replace(candidate="z", p_hit=p_hit, valid=not lost, reason="the <volume> ran away" * lost))
    said = re.sub(r"(<[^>]+>)+", "|", report.lost(book))
    assert "|z|1|relaxed|the &lt;volume&gt; ran away|0.25|" in said
    assert "|a|" not in said and "came through" in report.lost(rows())


def test_the_nearest_known_crystal_is_named_where_the_plan_asks():
    columns = {
        "validated_energy_above_hull_ev_per_atom": [0.05, math.nan],
        "validated_std_energy_above_hull_ev_per_atom": [0.03, 1],
        "known_as": ["", "mp-<22>"], "nearest_known": ["mp-1", "mp-22"], "nearest_known_formula": ["KCl", "NaCl"],
        "nearest_known_amd_distance_angstrom": [0.125, 0.0],
    }  # fmt: skip
    assert report.known_crystals(columns, 2) == [
        {"nearest known": "mp-1 (KCl), AMD distance 0.12 Å", "energy above hull": "0.050 ± 0.030 eV/atom"},
        {"nearest known": "equals mp-<22>", "energy above hull": "– eV/atom"},
    ]
    assert report.known_crystals({}, 2) == [{}, {}]
    text = page(names=("a", "b"), further=columns)
    assert text.count("equals mp-&lt;22&gt;") == 2 and "<22>" not in text


SORT = """<script>
  const table = document.querySelector("table.sortable"), heads = [...table.tHead.rows[0].cells];
  const sorted = name => {
    heads.find(h => h.textContent.startsWith(name)).querySelector("button").click();
    return [...table.tBodies[0].rows].map(r => r.cells[0].textContent).join("");
  };
  document.documentElement.dataset.sorted = [sorted("objective"), sorted("objective"), sorted("P(hit)")].join(" ");
  document.querySelector("td button[data-open='2']").click();
  document.querySelector("[data-solid='Na']").click();
  const canvas = document.querySelector("#stage canvas");
  canvas.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowLeft"}));
</script></body>"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_in_a_browser(tmp_path, scheme, browse):
    """Every structure has its picture, tables sort, and a rank opens its structure."""
    seen = browse(page().replace("</body>", SORT), scheme=scheme, shot=tmp_path / "shot.png")
    assert 'data-ready="3"' in seen.dom and 'data-pictures="3"' in seen.dom and 'data-shown="2"' in seen.dom
    assert 'data-sorted="123 321 321"' in seen.dom
    assert re.search(r'data-solid="Na" aria-pressed="true"|aria-pressed="true" data-solid="Na"', seen.dom)
    assert re.search(r'<article data-facts="2"><h3>3\. NaCl', seen.dom)
    image = pytest.importorskip("matplotlib.image").imread(tmp_path / "shot.png")[..., :3]
    background = 1.0 if scheme == "light" else 0x17 / 255
    assert abs(np.median(image[:, :10]) - background) < 0.05
    assert (np.ptp(image, axis=2) > 0.3).mean() > 0.005  # colored bars, dots and atoms


def test_it_fits_a_phone(browse):
    """At 420 pixels the page itself does not scroll sideways: tables and charts do, in boxes of their own."""
    inner = html.escape(page(), quote=True)
    seen = browse(f"""<iframe style="width:420px; height:900px; border:0" srcdoc="{inner}"></iframe><script>
      document.querySelector("iframe").onload = e => {{
        const page = e.target.contentDocument.documentElement;
        document.documentElement.dataset.wide = [page.clientWidth, page.scrollWidth].join(" ");
      }};</script>""")
    assert 'data-wide="420 420"' in seen.dom
