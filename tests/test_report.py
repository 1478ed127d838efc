import base64
import io
import json
import math
import random
import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console as Terminal

from toolbox import progress
from toolbox.base import Curve, Dataset, Example, Gallery, Histogram, Matrix, Outcomes, Table
from toolbox.errors import ToolboxError
from toolbox.report import load_report_items, save_report_items, write_report
from toolbox.report.axes import LARGE_BOX, SMALL_BOX, choose_ticks
from toolbox.report.charts import draw_curve, draw_histogram
from toolbox.report.gallery import MOST_BYTES, MOST_ROWS_TOGETHER, THUMBNAIL, encode_thumbnail
from toolbox.report.grid import make_column_cells
from toolbox.report.learning_curves import draw_learning_curve, draw_learning_curves
from toolbox.report.matrix import LONGEST, draw_matrix
from toolbox.report.numbers import MINUS, format_axis_labels, format_duration, format_fixed, format_memory, format_short
from toolbox.report.report_items import normalize_report_item
from toolbox.report.series import MOST_POINTS, read_series
from toolbox.report.table import make_headline, make_rows

VOID = {"meta", "img", "br", "hr", "link", "input"}
EVIL = "<script>alert('x')</script>\" onload=\"boom"


class Page(HTMLParser):
    """Elements of a page; fails at a tag that is closed out of turn or never."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: dict[int, str] = {}
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"an attribute stands twice in <{tag} {names}>"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        # words belong to the element that was opened last before them
        index = len(self.elements) - 1
        self.words[index] = self.words.get(index, "") + data

    def all(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        wanted = set(kind.split())
        return [
            attrs for name, attrs in self.elements if name == tag and wanted <= set((attrs.get("class") or "").split())
        ]

    def table(self) -> dict[str, list[str]]:
        """{metric: [before, after, difference]}."""
        found: dict[str, list[str]] = {}
        current: list[str] = []
        for index, (tag, attrs) in enumerate(self.elements):
            if tag == "th" and attrs.get("scope") == "row":
                current = found.setdefault(self.words[index], [])
            elif tag == "td" and "track" not in (attrs.get("class") or ""):
                current.append(self.words.get(index, "").strip())
        return found

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words.values()).split())


class Squares(Dataset):
    """Noise of any size, two of whose pictures are broken."""

    def __init__(self, count=60, size=(32, 32), classes=("black", "white", EVIL), broken=()):
        self.count, self.size, self.broken = count, size, broken
        self.classes = list(classes) if classes else None
        self.labels = [i % len(classes) for i in range(count)] if classes else None

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.broken:
            raise OSError(f"pictures/{index}<b>.jpg: truncated")
        width, height = self.size
        noise = np.random.default_rng(index).integers(0, 255, (height, width, 3), dtype=np.uint8)
        return {"image": Image.fromarray(noise), "label": index % 3, "id": index}


def examples(count, pattern=None, size=60):
    chance = random.Random(0)
    return [
        Example(
            q % size,
            [
                (chance.randrange(size), pattern(q, r) if pattern else chance.random() < 0.5, 0.95 - r / 20)
                for r in range(10)
            ],
        )
        for q in range(count)
    ]


def gallery(shown, title="Queries and what was found", note=""):
    return [Gallery(title, shown, note)]


def pictures(page):
    """Their labels, in the order of the page."""
    return [attrs["aria-label"] for attrs in page.all("span", "image")]


def full_results():
    return {
        "before": {"recall@1": 0.1204, "recall@10": 0.35, "queries": 4200},
        "after": {"recall@1": 0.6103, "recall@10": 0.3, "queries": 4200},
        "best": {"step": 200, "metric": "recall@1", "value": 0.6, "metrics": {}},
        "steps": 300,
        "seconds": 192.3,
        "items_per_second": 4123.44,
        "data_wait_seconds": 19.23,
        "peak_memory_bytes": 3 * 2**30,
        "device": "cuda:0",
        "threads": 8,
        "unreadable_items": 0,
    }


def fill(folder, lines=None):
    folder.mkdir(exist_ok=True)
    if lines is None:
        lines = [{"step": s, "epoch": s / 100, "loss": 3 / s, "lr": 1e-4, "grad_norm": 1.0} for s in range(10, 301, 10)]
        lines += [{"step": s, "epoch": 1, "val/recall@1": s / 1000, "val/queries": 9} for s in (100, 200, 300)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.py").write_text("test_dataloader = dict(a=1)\ntest_evaluator = []\nwhere = '</pre><b>&'\n")
    (folder / "environment.json").write_text('{"python":"3.11","command":["</code>"]}')
    return folder


def test_whole_page(tmp_path):
    folder = fill(tmp_path / "my run")
    path = write_report(folder, full_results(), (Squares(), gallery(examples(24))))
    assert path == folder / "report.html"
    assert not list(folder.glob(".*"))
    page = Page(path)
    assert "my run" in page.text
    assert "Recall@1 0.12 → 0.61 on 4,200 test items, +0.49" in page.text
    assert [a["id"] for a in page.all("section")] == ["metrics", "curves", "gallery", "origin"]
    assert "</pre><b>&" in page.text
    assert '"command": [ "</code>"' in page.text
    for cost in ("300", "3 min 12 s", "4,123.4", "10.0%", "3.0 GiB", "cuda:0, 8 threads"):
        assert cost in page.text
    assert "unreadable items" not in page.text
    assert "marks the best checkpoint, step 200." in page.text
    assert "After: the best checkpoint." in page.text


def test_without_a_best_checkpoint(tmp_path):
    page = Page(write_report(fill(tmp_path), full_results() | {"best": None}, None))
    assert "After: the model at the end." in page.text
    assert "best checkpoint" not in page.text
    assert not page.all("path", "best")


def test_nothing_is_loaded_from_outside(tmp_path):
    page = Page(write_report(fill(tmp_path), full_results(), (Squares(), gallery(examples(3)))))
    assert not re.search(
        r"https?:|//\w|@import|url\(", re.sub(r"url\(data:image/[a-z]+;base64,[\w+/=]*\)", "", page.source)
    )
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}
    for _, attrs in page.elements:
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("src", "href"):
            assert attrs.get(name, "#").startswith(("#", "data:image/"))


def test_table_repeats_the_results(tmp_path):
    results = full_results()
    table = Page(write_report(tmp_path, results, None)).table()
    assert list(table) == list(results["after"])
    for name in ("recall@1", "recall@10"):
        before, after, difference = (float(cell.replace(MINUS, "-")) for cell in table[name])
        assert before == pytest.approx(results["before"][name], abs=5e-5)
        assert after == pytest.approx(results["after"][name], abs=5e-5)
        assert difference == pytest.approx(after - before, abs=1e-9)
    assert table["queries"] == ["4,200", "4,200", ""]
    assert table["recall@10"][2] == f"{MINUS}0.0500"


@pytest.mark.parametrize(("rights", "seed"), [(0, 0), (1, 1), (37, 2), (100, 3)])
def test_frames_count_the_hits(tmp_path, rights, seed):
    flags = [True] * rights + [False] * (100 - rights)
    random.Random(seed).shuffle(flags)
    shown = examples(10, lambda query, rank: flags[10 * query + rank])
    page = Page(write_report(tmp_path, full_results(), (Squares(), gallery(shown))))
    assert len(page.all("div", "frame right")) == rights
    assert len(page.all("div", "frame wrong")) == 100 - rights
    assert len(page.all("figure", "query")) == 10
    assert len(pictures(page)) == 110
    # the marks say the same without color; the key above the gallery shows one of each
    uses = [attrs["href"] for attrs in page.all("use")]
    assert uses.count("#check") == rights + 1
    assert uses.count("#cross") == 101 - rights


def test_queries_and_results_may_be_texts(tmp_path):
    """Of a dual encoder: images that a text found, and texts that were found for an image."""
    shown = [
        Example("a <b>red</b> chair", [(4, True, 0.9), (7, False, 0.8)]),
        Example(2, [("a sofa", False, 0.7), ("word " * 100, True, 0.6)]),
    ]
    path = write_report(tmp_path, full_results(), (Squares(), [normalize_report_item(item) for item in gallery(shown)]))
    page = Page(path)
    texts = list(page.all("span", "words"))
    assert len(texts) == 3
    assert len(pictures(page)) == 3, "one query and two results are images"
    assert "a <b>red</b> chair" in page.text, "a text is no markup"
    assert "word " * 100 not in page.text
    assert page.text.count("match at rank 1") == 1
    assert page.text.count("match at rank 2") == 1


def test_items_without_an_image_show_their_text(tmp_path):
    class Texts(Squares):
        def __getitem__(self, index):
            return {"text": [f"caption {index}", "another"], "label": 0, "id": index}

    page = Page(write_report(tmp_path, full_results(), (Texts(), gallery(examples(2)))))
    assert len(page.all("span", "words")) == 22
    assert not pictures(page)


def test_rows_keep_the_metrics_order_and_say_what_they_are(tmp_path):
    shown = examples(9, lambda query, rank: query >= 3)
    page = Page(write_report(tmp_path, full_results(), (Squares(), gallery(shown))))
    kinds = [attrs["class"].split()[1] for attrs in page.all("li", "query-row")]
    assert kinds == ["failure"] * 3 + ["success"] * 6
    assert "9 of 60 items: the first result is wrong for 3 of them and right for 6. The metric chose them" in page.text
    assert "match at rank 1" in page.text
    assert "no match in the first 10" in page.text


def test_galleries_share_their_pictures(tmp_path):
    shown = [Example(0, [(1, True, 0.9), (2, False, 0.8)], note="first match at rank 812"), Example(1, [])]
    galleries = [
        *gallery(shown, "Hubs", "Items that <b>many</b> queries find."),
        *gallery(shown[::-1], "Worst"),
        *gallery([], "None", "Nothing was this bad."),
    ]
    page = Page(write_report(tmp_path, full_results(), (Squares(), galleries)))
    assert page.source.count("data:image/") == 3
    assert len(pictures(page)) == 8
    assert page.text.count("first match at rank 812") == 2
    assert "Items that <b>many</b> queries find. 2 of 60 items" in page.text
    assert "Nothing was this bad. Nothing to show." in page.text
    assert [name for name in ("Hubs", "Worst", "None") if name not in page.text] == []
    assert ["open" in attrs for attrs in page.all("details")][:3] == [True, False, False]
    first = [label for label in pictures(page) if label.startswith("query")]
    assert first == ["query 1: black", "query 2: white", "query 1: white", "query 2: black"]


def test_many_galleries_stay_below_the_cap_and_each_shows_some(tmp_path):
    dataset = Squares(count=3000, size=(200, 200))  # noise: the worst that JPEG can get
    galleries = [
        found
        for start in range(8)
        for found in gallery(
            [Example(q, [(11 * q + r, r == 3, 0.5) for r in range(10)]) for q in range(30 * start, 30 * start + 30)],
            f"gallery {start}",
        )
    ]
    path = write_report(tmp_path, full_results(), (dataset, galleries))
    page = Page(path)
    assert path.stat().st_size < 6e6
    assert 3 * 8 <= len(page.all("li", "query-row")) <= MOST_ROWS_TOGETHER
    assert sum(map(len, re.findall(r"data:image/[^)]*", page.source))) <= MOST_BYTES
    counts = [int(n) for n in re.findall(r"(\d+) of 3,000 items \(", page.text)]
    assert len(counts) == 8
    assert max(counts) - min(counts) <= 1
    left = [int(n) for n in re.findall(r"\((\d+) more were found, left out to keep the page small", page.text)]
    assert [a + b for a, b in zip(counts, left, strict=True)] == [30] * 8
    # what is written is what is shown
    written = set(re.findall(r"\.p(\d+)\{", page.source))
    used = {a["class"].split()[1][1:] for a in page.all("span", "image")}
    assert written == used


@pytest.mark.parametrize("index", [-1, 60, 10**9])
def test_items_that_the_dataset_does_not_have(tmp_path, index):
    page = Page(write_report(tmp_path, None, (Squares(), gallery([Example(index, [(0, True, 0.5)])]))))
    assert len(pictures(page)) == 1
    assert any("The dataset has 60 items" in a["aria-label"] for a in page.all("span", "empty"))


def test_result_order_and_scores(tmp_path):
    shown = [Example(0, [(3, True, 0.871), (4, False, -0.05), (5, False, float("nan"))]), Example(1, [])]
    page = Page(write_report(tmp_path, None, (Squares(), gallery(shown))))
    alts = pictures(page)
    assert "query 1: black" in alts
    assert "result 1, right, black, similarity 0.87" in alts
    assert f"result 2, wrong, white, similarity {MINUS}0.05" in alts
    assert any(alt.endswith("similarity NaN") for alt in alts)
    assert "no results" in page.text


def test_class_names_are_escaped(tmp_path):
    page = Page(write_report(fill(tmp_path / "a&b"), full_results(), (Squares(), gallery(examples(6)))))
    assert "<script" not in page.source
    assert any(attrs.get("title") == EVIL for attrs in page.all("div", "frame"))
    assert EVIL in page.text


def test_metric_names_are_escaped(tmp_path):
    results = {"before": {EVIL: 0.1}, "after": {EVIL: 0.2}}
    page = Page(write_report(fill(tmp_path, [{"step": 1, f"val/{EVIL}": 0.5}]), results, None))
    assert "<script" not in page.source
    assert page.table() == {EVIL: ["0.1000", "0.2000", "+0.1000"]}


def test_names_that_are_no_utf8(tmp_path):
    dataset = Squares(classes=("a\udcff", "b", "c"))
    page = Page(write_report(tmp_path, None, (dataset, gallery(examples(3)))))
    assert len(page.all("li", "query-row")) == 3


def test_unreadable_pictures_leave_a_labelled_frame(tmp_path):
    shown = [Example(0, [(1, True, 0.9), (2, False, 0.8)]), Example(1, [(0, True, 0.9)])]
    page = Page(write_report(tmp_path, None, (Squares(broken=(1, 2)), gallery(shown))))
    empty = page.all("span", "empty")
    assert len(empty) == 3
    assert len(pictures(page)) == 2
    assert "result 1, right, white, similarity 0.90, not shown: OSError: pictures/1<b>.jpg: truncated" in [
        attrs["aria-label"] for attrs in empty
    ]
    assert len(page.all("div", "frame right")) == 2


class Sounds(Squares):
    def __getitem__(self, index):
        return {"sound": b"", "id": index}


def test_datasets_without_pictures_or_classes(tmp_path):
    page = Page(write_report(tmp_path, None, (Sounds(classes=None), gallery(examples(2)))))
    assert len(page.all("span", "empty")) == 22
    assert "item 0" in page.text


@pytest.mark.parametrize("results", [None, {}, {"before": None, "after": None, "best": None}])
def test_no_results(tmp_path, results):
    page = Page(write_report(tmp_path, results, None))
    for sentence in (
        "This run holds no evaluation.",
        "Nothing was evaluated.",
        "No step was logged.",
        "No metric of this run gave examples to show.",
        "neither config.py nor",
    ):
        assert sentence in page.text
    assert not page.all("table")
    assert not page.all("dl")


def test_no_before(tmp_path):
    page = Page(write_report(fill(tmp_path), full_results() | {"before": None}, None))
    assert page.table()["recall@1"] == ["–", "0.6103", ""]
    assert "Recall@1 0.61 on 4,200 test items. It was not evaluated before training." in page.text


def test_only_before(tmp_path):
    page = Page(write_report(tmp_path, {"before": {"recall@1": 0.12, "queries": 7}}, None))
    assert page.table() == {"recall@1": ["0.1200", "–", ""], "queries": ["7", "–", ""]}
    assert "Recall@1 0.12 on 7 items. That is before training" in page.text


def test_not_a_number(tmp_path):
    nan, inf = float("nan"), float("inf")
    results = full_results() | {"after": {"recall@1": nan, "loss": -inf}, "seconds": nan, "data_wait_seconds": nan}
    folder = fill(tmp_path, [{"step": s, "loss": nan if s in (3, 4) else s, "lr": nan} for s in range(1, 9)])
    page = Page(write_report(folder, results, None))
    assert page.table()["recall@1"] == ["0.1204", "NaN", ""]
    assert page.table()["loss"][1] == f"{MINUS}∞"
    assert "2 values are not finite and left out." in page.text
    assert "no finite value" in page.text
    assert not [d for d in (a.get("d") or "" for a in page.all("path")) if "nan" in d or "inf" in d]


def test_one_logged_step(tmp_path):
    page = Page(write_report(fill(tmp_path, [{"step": 1, "epoch": 1, "loss": 2.5, "lr": 1e-4}]), None, None))
    assert len(page.all("figure", "panel")) == 2
    assert len(page.all("circle")) == 2
    assert not page.all("path", "curve")


def test_torn_and_foreign_lines(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 2}\n[1]\nnull\n{"loss": 3}\n{"step": "x"}\n'
        '{"step": 2, "loss": 1, "note": "a", "ok": true}\n{"ste'
    )
    assert read_series(tmp_path / "metrics.jsonl") == {"loss": [(1, 2), (2, 1)]}


def test_panels_are_loss_rate_and_validation(tmp_path):
    main, other = draw_learning_curves(read_series(fill(tmp_path) / "metrics.jsonl"), 200)
    assert [chart.title for chart in main] == ["loss", "learning rate", "val/recall@1"]
    assert [chart.title for chart in other] == ["grad norm"]  # val/queries is a constant count
    assert main[2].caption == "0.1 → 0.3"
    assert main[0].marked_x == pytest.approx(SMALL_BOX.left + (SMALL_BOX.right - SMALL_BOX.left) * 2 / 3, abs=0.1)


def test_what_was_validated_once_and_bounds_are_no_panels_and_a_large_grid_is_not_among_the_main_ones():
    twice, rates = [(1, 0.25), (2, 0.5)], range(9)
    series = {"loss": twice, "val/a": twice, "val/a_low": twice, "val/a_high": twice, "val/once": [(2, 0.5)]}
    main, other = draw_learning_curves(series)
    assert ([chart.title for chart in main], other) == (["loss", "val/a"], [])
    few = {f"val/linear/{rate}": twice for rate in rates[:8]}
    assert [len(panels) for panels in draw_learning_curves(series | few)] == [10, 0]
    many = {f"val/linear/{rate}": twice for rate in rates}
    assert [len(panels) for panels in draw_learning_curves(series | many)] == [2, 9]


def test_a_long_name_of_a_class_keeps_its_end():
    names = ["Greek capital letter alpha with psili", "Greek capital letter alpha with oxia", "short"]
    drawing = draw_matrix(Matrix("Confusion", names, names, [[0.5] * 3] * 3, "said", "class"))
    assert len({short for _, short, _ in drawing.rows}) == 3
    assert all(len(short) <= LONGEST for _, short, _ in drawing.rows)


def test_curves_are_where_the_numbers_are():
    points = [(0, 1.0), (50, 3.0), (100, 2.0)]
    drawn = draw_learning_curve("loss", points, 100)
    (path,) = drawn.lines[0].paths
    spots = [tuple(map(float, spot.split())) for spot in path[1:].split("L")]
    assert [x for x, _ in spots] == [SMALL_BOX.left, (SMALL_BOX.left + SMALL_BOX.right) / 2, SMALL_BOX.right]
    by_label = {float(label): y for y, label in drawn.y_ticks}
    for (_, y), (_, value) in zip(spots, points, strict=True):
        assert y == by_label[value]
    assert spots[1][1] < spots[2][1] < spots[0][1]  # larger is higher, where y is smaller


def test_long_runs_are_thinned_and_keep_extremes():
    points = [(step, math.sin(step / 500)) for step in range(100_000)]
    points[54_321] = (54_321, 9.0)
    points[10] = (10, float("nan"))
    drawn = draw_learning_curve("loss", points, 100_000)
    assert sum(line.count("L") + 1 for line in drawn.lines[0].paths) <= MOST_POINTS + 2
    assert drawn.remarks == ["1 value is not finite and left out."]
    top = min(float(spot.split()[1]) for line in drawn.lines[0].paths for spot in line[1:].split("L"))
    assert top == pytest.approx(SMALL_BOX.top + 0.074 * (SMALL_BOX.bottom - SMALL_BOX.top), rel=0.1)  # 9.0 is drawn


@pytest.mark.parametrize(
    "values",
    [
        [0.0, 0.0],
        [5e-324, 0.0],
        [1e29, -1e29],
        [1e300, 1.0],
        [1.0, 1.0 + 1e-15],
        [3, 3],
        [-2.0, -2.0],
        [1e-7, 2e-7],
        [float("inf"), 1.0],
    ],
)
def test_any_range_of_values_can_be_drawn(values):
    drawn = draw_learning_curve("loss", list(enumerate(values, 1)), 2)
    assert all(SMALL_BOX.top - 1 <= y <= SMALL_BOX.bottom + 1 for y, _ in drawn.y_ticks)
    assert all(SMALL_BOX.top - 1 <= y <= SMALL_BOX.bottom + 1 for _, y, _ in drawn.lines[0].dots)
    assert 1 <= len(drawn.y_ticks) <= 8


@pytest.mark.parametrize("last", [1, 2, 3, 7, 10, 99, 1500, 60_502, 10**7])
def test_step_ticks_are_whole_and_few(last):
    found = choose_ticks(0, last, 4, whole=True)
    assert all(tick == int(tick) for tick in found)
    assert 2 <= len(found) <= 8
    assert found[-1] <= last


def decoded(uri):
    head, data = uri.split(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    image.load()
    return head, image


def test_small_pictures_stay_exact_and_pixelated():
    noise = Squares()[0]["image"]
    uri, pixelated = encode_thumbnail(noise)
    head, image = decoded(uri)
    assert pixelated
    assert head == "data:image/png;base64"
    assert image.tobytes() == noise.tobytes()


@pytest.mark.parametrize("size", [(65, 65), (640, 480), (100, 3000), (3000, 2)])
def test_large_pictures_become_thumbnails(size):
    original = Image.new("RGB", size, (200, 30, 30))
    uri, pixelated = encode_thumbnail(original)
    head, image = decoded(uri)
    assert not pixelated
    assert head == "data:image/jpeg;base64"
    assert max(image.size) == min(THUMBNAIL, max(size))
    assert original.size == size
    assert np.abs(np.asarray(image).reshape(-1, 3).mean(0) - (200, 30, 30)).max() < 4


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_every_mode_is_shown(mode):
    assert encode_thumbnail(Image.new(mode, (200, 100)))[0].startswith("data:image/")


def test_transparency_is_kept():
    _, image = decoded(encode_thumbnail(Image.new("RGBA", (200, 200), (1, 2, 3, 0)))[0])
    assert image.getpixel((5, 5))[3] == 0


def test_page_stays_small_and_rows_few(tmp_path):
    dataset = Squares(count=400, size=(200, 200))  # noise: the worst that JPEG can get
    path = write_report(tmp_path, full_results(), (dataset, gallery(examples(30, size=400))))
    assert path.stat().st_size < 5e6
    assert len(Page(path).all("li", "query-row")) == 24


def test_pictures_are_read_once(tmp_path):
    reads = []

    class Counted(Squares):
        def __getitem__(self, index):
            reads.append(index)
            return super().__getitem__(index)

    write_report(tmp_path, None, (Counted(), gallery([Example(0, [(1, True, 0.5)]), Example(1, [(0, True, 0.5)])])))
    assert sorted(reads) == [0, 1]


def test_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_report(tmp_path, None, None)
    path.write_text("old")

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("toolbox.base.files.os.replace", refuse)
    with pytest.raises(ToolboxError, match=r"report\.html cannot be written: No space left"):
        write_report(tmp_path, full_results(), None)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_folder_that_is_absent(tmp_path):
    with pytest.raises(ToolboxError, match="cannot be written"):
        write_report(tmp_path / "absent", None, None)


@pytest.mark.parametrize(
    ("recipe", "split"),
    [
        ("test_dataloader = dict(a=1)\ntest_evaluator = []", "on 9 test items"),
        (
            "test_dataloader = None\ntest_evaluator = None\nval_dataloader = dict()\nval_evaluator = dict()",
            "on 9 validation items",
        ),
        ("this is no python", "on 9 items"),
    ],
)
def test_the_set_is_named(tmp_path, recipe, split):
    (tmp_path / "config.py").write_text(recipe)
    assert split in Page(write_report(tmp_path, {"after": {"recall@1": 0.5, "queries": 9}}, None)).text


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ({"a": 0.12}, {"a": 0.61}, "A 0.12 → 0.61, +0.49"),
        ({"a": 0.6103}, {"a": 0.6184}, "A 0.6103 → 0.6184, +0.0081"),
        ({"a": 65.32}, {"a": 83.13}, "A 65.32 → 83.13, +17.81"),
        ({"a": 0.5}, {"a": 0.5}, "A 0.50 → 0.50, ±0.00"),
        ({"a": 0.125}, {"a": 0.6149}, "A 0.12 → 0.61, +0.49"),
        ({"a": 0.5}, {"a": float("nan")}, "A 0.50 → NaN"),
        ({"n": 3}, {"n": 4}, "This run holds no evaluation"),
    ],
)
def test_headline(before, after, sentence):
    assert str(make_headline({"before": before, "after": after}, items=None, split="")) == sentence


def test_headline_takes_the_metric_that_chose_the_checkpoint():
    results = {"before": {"a": 0.1, "b": 0.2}, "after": {"a": 0.3, "b": 0.4}, "best": {"metric": "b", "step": 1}}
    assert str(make_headline(results, items=50, split="test")) == "B 0.20 → 0.40 on 50 test items, +0.20"


def test_digits_fit_the_numbers():
    assert [(r.before, r.after, r.difference) for r in make_rows({"x": 1e-5, "n": 3}, {"x": 3.5e-5, "n": 5})] == [
        ("0.0000100", "0.0000350", "+0.0000250"),
        ("3", "5", "+2"),
    ]
    assert make_rows({"x": 12.5}, {"x": None})[0].after == "–"
    assert format_fixed(1234567.891, 1) == "1,234,567.9"
    assert format_fixed(-0.00001, 2) == "0.00"
    assert [format_short(v) for v in (0.6149, 8e-5, 12000, 0, -2.5)] == [
        "0.615",
        f"8e{MINUS}5",
        "12,000",
        "0",
        f"{MINUS}2.5",
    ]
    assert format_axis_labels([0.0, 0.0005, 0.001]) == ["0", "0.0005", "0.0010"]
    assert format_axis_labels([0.0, 5e-5, 1e-4]) == ["0", f"5e{MINUS}5", f"1e{MINUS}4"]
    assert format_axis_labels([0.0, 5e9, 1e10]) == ["0", "5e9", "1e10"]
    assert [format_duration(s) for s in (44.06, 59.99, 192.3, 7500)] == [
        "44.1 s",
        "1 min 00 s",
        "3 min 12 s",
        "2 h 05 min",
    ]
    assert [format_memory(b) for b in (812 * 2**20, 3.44 * 2**30)] == ["812 MiB", "3.4 GiB"]


# ---- findings


def every_kind():
    return [
        Curve(
            "Recall",
            {"recall": [(1, 0.5), (10, 0.8), (100, 0.9)], "chance": [(1, 0.01), (100, 0.3)]},
            "K",
            "recall",
            log_x=True,
            note="Share of queries.",
        ),
        Histogram("Similarity", [-1.0, 0.0, 0.5, 1.0], {"same": [0.0, 0.25, 0.75], "other": [0.5, 0.5, 0.0]}, "cosine"),
        Table(
            "Super-classes",
            ["name", "queries", "recall@1", "rank"],
            [["chair", 1200, 0.5, 3.25], [EVIL, 7, 1, None], ["sofa", None, 0.25, float("nan")]],
            note="By size.",
        ),
        Gallery("Worst", [Example(3, [(1, True, 0.5)], "why")], "Worst first."),
        Outcomes("Rank of the first match", ["a", "b"], [1.0, float("inf")], ["x", "y"]),
        Matrix("Confusion", ["chair", EVIL], ["chair", EVIL], [[0.75, 0.25], [0, 1]], "said", "class", "Shares."),
    ]


def test_findings_are_drawn(tmp_path):
    page = Page(write_report(fill(tmp_path), full_results(), (Squares(), every_kind())))
    assert [a["id"] for a in page.all("section")] == ["metrics", "curves", "findings", "gallery", "origin"]
    assert len(page.all("figure", "chart")) == 2
    assert [a["class"] for a in page.all("path", "area")] == ["area"] * 2
    assert "<script" not in page.source
    for words in (
        "Share of queries.",
        "By size.",
        "chance",
        "other",
        "1,200",
        "0.2500",
        "report_items.json also holds 'Rank of the first match' of 2 items",
    ):
        assert words in page.text
    bars = [a["style"] for a in page.all("span", "bar")]
    assert bars == ["--share:50.0%", "--share:100%", "--share:25.0%"]
    colors = re.findall(r'<g class="(c\d)">', page.source)
    assert colors == ["c1", "c2"] * 2


def test_findings_survive_the_file(tmp_path):
    path = save_report_items(tmp_path, every_kind())
    assert path == tmp_path / "report_items.json"
    text = path.read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert ": " not in text.replace(EVIL, "")
    back = load_report_items(path)
    assert [type(found) for found in back] == [type(found) for found in every_kind()]
    assert back[:2] == every_kind()[:2]
    assert back[3] == every_kind()[3]
    assert back[2].rows[2] == ["sofa", None, 0.25, None]
    assert back[4].values[0] == 1
    assert math.isnan(back[4].values[1])
    assert back[5] == every_kind()[5]
    assert load_report_items(save_report_items(tmp_path / "again.json", back[:4])) == back[:4]
    assert load_report_items(save_report_items(tmp_path / "none.json", [])) == []


def test_numbers_of_arrays_and_tensors_are_written_plainly(tmp_path):
    found = [
        Curve("c", {"s": [(np.int64(1), np.float32(0.1)), (2, torch.tensor(0.25))]}, "x", "y"),
        Outcomes("o", ["\udcff", "é"], list(np.array([1.0, np.nan]))),
    ]
    curve, outcomes = load_report_items(save_report_items(tmp_path, found))
    assert curve.series == {"s": [(1, 0.1), (2, 0.25)]}
    assert outcomes.ids == ["\udcff", "é"]
    page = Page(write_report(tmp_path, None, (Squares(), found)))
    assert len(page.all("figure", "chart")) == 1


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (
            Table("t", ["a"], [[object()]]),
            "cannot be written as JSON: at 'rows': at '0': at '0': a number is needed, not",
        ),
        (Table("t", ["a", "b"], [[1]]), "malformed: a row and the columns differ in length"),
        (Outcomes("t", ["a"], [1.0, 2.0]), "malformed: ids, values and groups differ in length"),
        (Curve("t", {"s": [(1, 2, 3)]}, "x", "y"), "malformed"),
        (Gallery("t", [Example(0, [(1, True)])]), "malformed"),
        ("text", "a str as a report item. Report items are Gallery, Table"),
    ],
)
def test_malformed_findings_cost_no_page_and_no_file(tmp_path, finding, words):
    with pytest.raises(ToolboxError, match=re.escape(words)):
        save_report_items(tmp_path, [finding])
    assert not list(tmp_path.iterdir())
    page = Page(write_report(tmp_path, full_results(), (Squares(), [finding, *every_kind()])))
    assert words in page.text
    assert len(page.all("figure", "chart")) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"format":2,"report_items":[]}',
        '{"format":1,"report_items":[{"kind":"pie","title":"t"}]}',
        '{"format":1,"report_items":[{"kind":"curve","title":"t"}]}',
        '{"format":1,"report_items":[3]}',
        '{"format":1,"report_items":[{"kind":"outcomes","title":"t","ids":["a"],"values":[]}]}',
        '{"format":1,"report_items":[{"kind":"table","title":"t","columns":["a"],"rows":[[1,2]]}]}',
        '{"format":1,"report_items":[{"kind":"table","title":"t","columns":["a"],"rows":[[1',
    ],
)
def test_damaged_findings_are_refused(tmp_path, text):
    (tmp_path / "report_items.json").write_text(text)
    with pytest.raises(ToolboxError, match=r"report_items\.json: The file is damaged"):
        load_report_items(tmp_path)


def test_absent_findings(tmp_path):
    with pytest.raises(ToolboxError, match="cannot be read: No such file"):
        load_report_items(tmp_path)


def spots(path):
    return [tuple(map(float, spot.split())) for spot in path[1:].split("L")]


def test_logarithmic_axis():
    curve = Curve("c", {"s": [(1, 0.0), (10, 0.5), (1000, 1.0)]}, "K", "y", log_x=True)
    drawn = draw_curve(curve)
    (path,) = drawn.lines[0].paths
    width = LARGE_BOX.right - LARGE_BOX.left
    assert [x for x, _ in spots(path)] == pytest.approx(
        [LARGE_BOX.left, LARGE_BOX.left + width / 3, LARGE_BOX.right], abs=0.1
    )
    assert [label for _, label in drawn.x_ticks] == ["1", "10", "100", "1,000"]
    by_label = {float(label): y for y, label in drawn.y_ticks}
    assert spots(path)[1][1] == pytest.approx(by_label[0.0] + (by_label[1.0] - by_label[0.0]) / 2, abs=0.2)


@pytest.mark.parametrize(
    ("points", "log", "gaps"),
    [
        ([(0, 1.0), (-1, 1.0), (1, 1.0), (2, 2.0)], True, 2),
        ([(0, 1.0), (float("nan"), 1.0), (1, float("nan")), (2, 2.0)], False, 2),
        ([(0, 1.0)], True, 1),
        ([], False, 0),
        ([(5, 1.0)], True, 0),
        ([(5, 1.0), (5, 2.0)], False, 0),
        ([(1e-9, 1.0), (1e9, 2.0)], True, 0),
        ([(1e-9, 1e-30), (2e-9, 1e25)], False, 0),
    ],
)
def test_any_curve_can_be_drawn(points, log, gaps):
    drawn = draw_curve(Curve("c", {"s": points}, "x", "y", log_x=log))
    assert any(f"{gaps} of the points cannot be drawn" in remark for remark in drawn.remarks) == bool(gaps)
    assert "nan" not in str(drawn)
    for line in drawn.lines:
        for x, y, _ in line.dots:
            assert LARGE_BOX.left <= x <= LARGE_BOX.right
            assert LARGE_BOX.top <= y <= LARGE_BOX.bottom
    assert all(LARGE_BOX.left - 1 <= x <= LARGE_BOX.right + 1 for x, _ in drawn.x_ticks)
    assert len(drawn.x_ticks) <= 9
    assert bool(drawn.lines) == any(y == y and (x > 0 or not log) for x, y in points)


def test_histogram_bars_are_where_the_numbers_are():
    drawn = draw_histogram(every_kind()[1])
    zero = {float(label): y for y, label in drawn.y_ticks}
    middle = LARGE_BOX.left + (LARGE_BOX.right - LARGE_BOX.left) / 2
    moves = re.findall(r"[MVHZ][^MVHZ]*", drawn.lines[0].area)
    assert moves[-1] == "Z"
    assert [m for m in moves if m[0] == "H"] == [
        f"H{middle}",
        f"H{middle + (LARGE_BOX.right - LARGE_BOX.left) / 4}",
        f"H{float(LARGE_BOX.right)}",
    ]
    heights = [float(m[1:]) for m in moves if m[0] == "V"]
    assert heights[0] == heights[-1] == LARGE_BOX.bottom == zero[0.0]
    assert (zero[0.0] - heights[2]) / (zero[0.0] - heights[1]) == pytest.approx(3, abs=0.01)


@pytest.mark.parametrize(
    ("edges", "shares"),
    [
        ([], []),
        ([1.0], []),
        ([0.0, 1.0], [0.5, 0.5]),
        ([1.0, 0.0], [1.0]),
        ([0.0, float("nan")], [1.0]),
    ],
)
def test_misshapen_histograms_say_so(tmp_path, edges, shares):
    page = Page(write_report(tmp_path, None, (Squares(), [Histogram("h", edges, {"s": shares}, "x")])))
    assert "It cannot be drawn" in page.text
    assert not page.all("path", "area")


def test_more_series_and_rows_than_fit_are_counted(tmp_path):
    many = [
        Curve("c", {f"s{i}": [(0, i), (1, i)] for i in range(15)}, "x", "y"),
        Table("t", ["n"], [[i] for i in range(500)]),
        Table("e", ["n"], []),
    ]
    page = Page(write_report(tmp_path, None, (Squares(), many)))
    assert "3 more series are in report_items.json." in page.text
    assert "300 more rows are in report_items.json." in page.text
    assert "It has no rows." in page.text
    assert len({(line.color, line.dash) for line in draw_curve(many[0]).lines}) == 12


def test_columns_of_numbers():
    assert [cell.text for cell in make_column_cells([0.5, None, float("nan"), 12])] == ["0.50", "–", "NaN", "12.00"]
    assert [cell.bar for cell in make_column_cells([0.5, 1, None])] == [50.0, 100, None]
    assert [cell.bar for cell in make_column_cells([0, 1])] == [None, None]  # counts
    assert [cell.bar for cell in make_column_cells([0.5, 1.5])] == [None, None]
    assert [(cell.text, cell.number) for cell in make_column_cells(["a", 3, True])] == [
        ("a", False),
        ("3", True),
        ("True", False),
    ]


def test_train_leaves_findings(toy):
    from toolbox import api

    sys.modules["toy_plugin"].Nearest.report_items = lambda self, dataset: every_kind()
    try:
        api.train(toy(), out="run")
    finally:
        del sys.modules["toy_plugin"].Nearest.report_items
    assert [type(found).__name__ for found in load_report_items("run")] == [type(f).__name__ for f in every_kind()]
    assert "Worst first." in Page(Path("run/report.html")).text
    api.train(toy(), out="run", overwrite=True)
    assert load_report_items("run") == []


# ---- what a reader sees first, and what a number became


def test_encoder_and_data_stand_at_the_top(tmp_path):
    (tmp_path / "config.py").write_text(
        "model = dict(type='retrieval.Embedder', backbone=dict(type='dinov3.ViT', name='vitb16', size=224,\n"
        "             tune=dict(mode='lora', rank=16), quantize=dict(bits=4)))\n"
        "train_dataloader = dict(dataset=dict(type='datasets.SOP', root='data/sop', split='train'))\n"
        "test_dataloader = dict(dataset=dict(type='datasets.SOP', root='data/sop', split='test'))\n"
        "load_from = 'work_dirs/earlier'\n"
    )
    results = full_results() | {"data": {"train": {"items": 59551}, "test": {"items": 60502}}}
    page = Page(write_report(tmp_path, results, None))
    assert "encoder dinov3.ViT vitb16 (224 px, LoRA, rank 16, 4 bits)" in page.text
    assert "data datasets.SOP data/sop (train 59,551, test 60,502)" in page.text
    assert "started from work_dirs/earlier" in page.text
    assert page.text.index("encoder") < page.text.index("Before and after")


def test_a_fall_is_marked_whichever_way_is_better(tmp_path):
    results = {
        "before": {"recall@1": 0.5, "error": 0.1, "loss": 0.3, "queries": 7},
        "after": {"recall@1": 0.4, "error": 0.2, "loss": 0.2, "queries": 5},
        "better": {"error": "less", "loss": "less"},
    }
    page = Page(write_report(tmp_path, results, None))
    assert [attrs.get("title") for attrs in page.all("td", "change")] == ["worse than before"] * 2 + [None] * 2
    assert len(page.all("span", "difference worse")) == 1
    risen = Page(write_report(tmp_path, full_results(), None))
    assert not risen.all("span", "difference worse")
    assert len(risen.all("td", "change worse")) == 1  # recall@10 fell


def test_numbers_of_what_is_never_trained_have_no_difference(tmp_path):
    results = {"before": {"knn": 0.5, "queries": 9}, "after": {"linear": 0.7, "knn": 0.5, "queries": 9}}
    page = Page(write_report(tmp_path, results, None))
    assert page.table() == {"linear": ["0.7000"], "knn": ["0.5000"], "queries": ["9"]}
    assert "±" not in page.text
    assert "What was measured before training, too, was the same then" in page.text


def test_settings_that_metrics_chose_are_no_metrics(tmp_path):
    numbers = {"knn": 0.5, "knn_k": 10, "knn@10": 0.5}
    results = {"before": numbers | {"knn": 0.4, "knn_k": 5}, "after": numbers, "settings": ["knn_k"]}
    fill(tmp_path, [{"step": step, "val/knn_k": step, "val/knn": 0.5 + step / 100} for step in (1, 2)])
    page = Page(write_report(tmp_path, results, None))
    assert list(page.table()) == ["knn", "knn@10"]
    assert "chosen knn_k = 10" in page.text
    assert len(page.all("figure", "panel")) == 1


def test_step_0_is_in_the_curves(tmp_path):
    fill(tmp_path, [{"step": step, "epoch": 0, "val/recall@1": 0.5 - step / 100} for step in (0, 10, 20)])
    page = Page(write_report(tmp_path, full_results() | {"best": {"step": 0, "metric": "recall@1"}}, None))
    assert len(page.all("circle")) == 3
    assert any(attrs["d"].startswith(f"M{SMALL_BOX.left}.0 {SMALL_BOX.top}V") for attrs in page.all("path", "best"))


@pytest.mark.parametrize("console", ["lines", "bar"])
def test_progress_fits_80_columns(console, monkeypatch, capsys):
    values = {
        "loss": 12.34567,
        "lr": 1.25e-4,
        "grad_norm": 123.456,
        "items_per_second": 12345.6,
        "data_wait_share": 0.57,
    }
    if console == "lines":
        shown = progress.LineConsole()
        shown.start(0, 100_000)
        shown.advance(99_999, values)
        shown.advance(100_000, values | {"skipped_steps": 12})
        skipped = capsys.readouterr().out.splitlines()[-1]
        assert "12 skipped" in skipped
        assert len(skipped) <= 80
        shown._last = 0.0
        shown.advance(99_999, values)
        lines = capsys.readouterr().out.splitlines()
    else:
        screen = io.StringIO()
        shown = progress.LiveConsole()
        shown._terminal = Terminal(file=screen, force_terminal=True, width=80, color_system=None)
        shown.start(0, 100_000)
        shown.advance(99_999, values)
        shown.stop()
        lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue()).replace("\r", "\n").splitlines()
        lines = [line for line in lines if line.strip()]
    assert lines
    assert max(map(len, lines)) <= 80
    for text in ("99999/100000", "12.35", "1.3e-04", "12346/s", "wait 57%", "ETA"):
        assert text in lines[-1]
