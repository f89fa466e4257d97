"""The report of judged sets: what it says, that it is one file, that its map opens structures, and its LaTeX table."""

import re

import numpy as np
import pytest

from crysjax.data import datasets
from crysjax.data.datasets import Entry
from crysjax.evaluation import all_stages, totals
from crysjax.evaluation.failures import detectors
from crysjax.reports import set_charts, set_report

CUBIC = np.array([[0, 0, 0], [0.5, 0.5, 0.5]])


def crystals(count, seed, first=11):
    """Salts of the caesium chloride kind with different cells; ids carry a mark that HTML has to escape."""
    rng = np.random.default_rng(seed)
    rows = [
        Entry(f"<{seed}-{i}>", np.array([first + 8 * (i % 2), 17]), CUBIC, np.diag(3.2 + rng.random(3)), {})
        for i in range(count)
    ]
    return datasets.from_entries(rows)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    ask = all_stages.Questions(tmp_path_factory.mktemp("kept"), {"train": crystals(6, 9)}, processes=1)
    skipped = [{"file": "x.cif", "entry": "", "reason": "cut <short>"}]
    return [all_stages.judge(f"set{k}", crystals(20, k), skipped[:k], ask) for k in range(2)]


@pytest.fixture(scope="module")
def page(sets):
    real = crystals(30, 5)
    found = {s.name: totals.totals(s, real) for s in sets}
    finding = detectors.Finding("clash", True, 0.25, 0.1, "share", "a quarter <of> it", np.array([0]))
    reference = all_stages.blank("reference", real, processes=1)
    text = set_report.render(
        sets, found, {"set0": [finding]}, title="two sets", command="crysjax evaluate a b", reference=reference
    )
    return text, found


def test_it_is_one_file_with_everything_filled_in_and_escaped(page):
    text, _ = page
    assert not re.search(r"\[\[[a-z]+\]\]", text)
    assert "http://" not in text and "https://" not in text and "src=" not in text
    assert "cut &lt;short&gt;" in text and "a quarter &lt;of&gt; it" in text and "cut <short>" not in text


def test_numbers_of_the_page_are_those_of_the_totals(page):
    text, found = page
    plain = re.sub(r"<[^>]+>", "|", text)
    for totals_of_one in found.values():
        for metric, value in totals_of_one["metrics"].items():
            assert set_report.number(metric, value) in plain
        for row in totals_of_one["ledger"]:
            assert f"{row['passed']} ({row['passed'] / row['entered']:.1%} of {row['entered']})" in plain


def test_an_unmeasured_metric_is_not_a_zero(page):
    text, found = page
    assert "S.U.N." not in found["set0"]["metrics"]
    assert set_report.number("S.U.N.", None) == "not measured"
    assert "--hull, and --potential or --dft" in text


def test_histograms_have_area_one():
    values = np.random.default_rng(0).normal(size=5000)
    chart = set_charts.histogram("x", {"a": values})
    points = np.array(
        [[float(v) for v in p.split(",")] for p in re.search(r'points="([^"]+)"', chart).group(1).split()]
    )
    top = max(float(v) for v in re.findall(r'text-anchor="end">([-\d.]+)<', chart))
    high = (set_charts.HEIGHT - set_charts.BOTTOM - points[:, 1]) / (set_charts.HEIGHT - set_charts.BOTTOM - 14) * top
    wide = np.percentile(values, [0.5, 99.5])
    across = (points[:, 0] - set_charts.LEFT) / (set_charts.WIDTH - set_charts.LEFT - set_charts.RIGHT) * np.ptp(wide)
    assert np.sum(high[::2] * np.diff(across)[::2]) == pytest.approx(1.0, abs=0.02)


def test_a_set_has_one_color_in_the_map_and_in_the_legend(page):
    """The first set is drawn last, on top, and keeps its color."""
    text, _ = page
    dots = re.findall(r'class="spot (\w+)"[^>]*><title>(\w+): ', text)
    assert set(dots) == {("set0", "set0"), ("set1", "set1"), ("ref", "reference")} and dots[-1] == ("set0", "set0")


def test_principal_axes_keep_the_largest_spread():
    rng = np.random.default_rng(0)
    hidden = rng.normal(size=(200, 2))
    rows = hidden @ np.array([[1, 2, 0, 1], [0, 1, -1, 1.0]]) + 1e-6 * rng.normal(size=(200, 4))
    a, b = set_report.principal_axes([rows[:150], rows[150:]])
    both = np.concatenate([a, b])
    scaled = (rows - rows.mean(0)) / rows.std(0)
    np.testing.assert_allclose(np.square(both).sum(), np.square(scaled).sum(), rtol=1e-6)  # two axes hold all of it


def test_the_latex_table_has_a_column_a_set(page):
    _, found = page
    lines = set_report.latex(found).splitlines()
    body = [line for line in lines if line.endswith(r"\\")]
    assert lines[0] == r"\begin{tabular}{lrr}" and all(line.count("&") == 2 for line in body)
    assert not re.search(r"(?<!\\)[%_]", "".join(body))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_click_on_the_map_opens_a_structure(page, browse, tmp_path, scheme):
    click = """<script>
      document.querySelector(".spot[data-open='3']").dispatchEvent(new MouseEvent("click"));
      document.documentElement.dataset.drawn = String(document.querySelector("#stage canvas").width > 0);
    </script></body>"""
    seen = browse(page[0].replace("</body>", click), scheme=scheme, shot=tmp_path / "shot.png")
    assert "stage opens shown" in seen.dom
    assert re.search(r"<h3 class=.name. aria-live=.polite.>set0: \w+ \(&lt;0-3&gt;\)</h3>", seen.dom)
    assert 'data-drawn="true"' in seen.dom
    image = pytest.importorskip("matplotlib.image").imread(tmp_path / "shot.png")[..., :3]
    assert abs(np.median(image[:, :20]) - (1.0 if scheme == "light" else 0x17 / 255)) < 0.05
