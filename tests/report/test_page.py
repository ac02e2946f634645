import base64
import json
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from src.callbacks.sheet import Tile, write_sheet
from src.prediction.selection import Wanted, find_members
from src.report import page as page_module
from src.report.chain import chain
from src.report.page import SECTIONS, make_page, write_page
from tests.conftest import sign
from tests.report.made_up import made_up

Predict = Callable[..., Path]


class Reader(HTMLParser):
    """Headings, addresses of pictures and links, tags that are open at the end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.titles: list[str] = []
        self.pictures: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attributes}
        self.tags.append(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag == "img":
            assert given["alt"]
            self.pictures.append(given["src"])
        if tag == "a":
            self.links.append(given["href"])
        self.ids |= {given["id"]} if "id" in given else set()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2", "h3") and data.strip():
            self.titles.append(data.strip())


@pytest.fixture
def report(two_members: list[Path], predict: Predict, data: Path) -> Path:
    # A name that would be HTML, and a run in the chain that made masks.
    (two_members[0].parent / "a&<b>").mkdir()
    for path in two_members[0].iterdir():
        if path.is_file():
            shutil.copy(path, two_members[0].parent / "a&<b>")
    masks = two_members[0].parents[1] / "wsss/made"
    shutil.copytree(two_members[0], masks)
    write_sheet(masks / "masks.png", [Tile(np.full((128, 384, 3), 200, np.uint8), "car (grass): IoU 0.90")], 3)
    config = yaml.safe_load((two_members[1] / "config.yaml").read_text())
    config["masks"] = f"{config['logs_dir']}/track1/wsss/made/track1_train_with_mask_label.json"
    (two_members[1] / "config.yaml").write_text(yaml.safe_dump(config))
    sign(two_members[1])
    return predict(f"truth={data / 'truth/track1_test_truth.json'}", "report=true") / "report.html"


def test_the_page_is_one_file_with_every_part(report: Path) -> None:
    text = report.read_text()
    page = Reader(text)
    assert not page.open and "script" not in page.tags and "link" not in page.tags
    assert all(address.startswith("data:image/") for address in page.pictures)
    assert {link.removeprefix("#") for link in page.links} <= page.ids
    assert not re.search(r"""(src|href)=["'](https?:|/|file:)""", text) and "@import" not in text and "url(" not in text
    for title in ("All figures", "The vote and its best member", "Members", "Where it fails",
                  "Worst classes in contexts", "Every class in every context", "Confidence", "Confusion",
                  "Most confident mistakes", "Most disputed images", "What each stage adds", "Features",
                  "Training", "Masks", "Data",
                  "Finished runs of this track", "The chain"):  # fmt: skip
        assert title in page.titles
    assert "a&amp;&lt;b&gt;" in text and "<b>" not in text
    assert "car (grass): IoU 0.90" in text and "No run in the chain made masks" not in text
    figures = json.loads((report.parent / "figures.json").read_text())
    assert f"{100 * figures['test']['accuracy']:.2f}" in text
    for rule in ("accuracy on held-out in-domain images", "none selected"):  # beside the best member's accuracy
        assert rule in text
    photos = [address for address in page.pictures if address.startswith("data:image/jpeg")]
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(photos[0].split(",")[1]), np.uint8), cv2.IMREAD_COLOR)
    assert picture.shape == (176, 356, 3)  # the image, and the map beside it
    assert np.abs(picture[:, :176].astype(int) - picture[:, 180:]).mean() > 5
    assert (report.parent / "runs.md").read_text().count("| baseline |") == 1
    assert (report.parent / "runs.csv").exists()


def test_without_truth_the_page_says_what_is_missing(two_members: list[Path], predict: Predict) -> None:
    text = (predict("report=true") / "report.html").read_text()
    page = Reader(text)
    assert "Confusion" not in page.titles and "Most disputed images" in page.titles
    assert "labels are not known" in text and "No run in the chain made masks" in text
    assert "Confidence" in page.titles and "held-out in-domain images" in text  # what is known is shown


def test_a_member_alone_without_held_out_images(two_members: list[Path], predict: Predict, data: Path) -> None:
    shutil.rmtree(two_members[1])
    split = json.loads((two_members[0] / "split.json").read_text())
    (two_members[0] / "split.json").write_text(json.dumps({**split, "in_domain": []}))
    sign(two_members[0])
    shutil.rmtree(two_members[0] / "pictures")
    text = (predict("report=true", f"truth={data / 'truth/track1_test_truth.json'}") / "report.html").read_text()
    assert "holds out no image" in text and "Most disputed" not in text
    assert "No run in the chain kept pictures" in text


CASES: dict[str, dict[str, Any]] = {
    "everything": {"members": 3, "images": 60, "contexts": ["water", "outdoor"], "training_contexts": ["dim", "rock"],
                   "held_out": 40},
    "no truth": {"members": 3, "images": 60, "training_contexts": ["dim", "rock"], "held_out": 40, "truth": False},
    "no context": {"members": 3, "images": 60, "held_out": 40},
    "no test folder": {"members": 2, "images": 60, "contexts": ["dim", "rock"], "training_contexts": ["dim", "rock"],
                       "part": "in_domain", "note": "There are no test images."},
    "one member": {"members": 1, "images": 60, "contexts": ["water"], "training_contexts": ["dim"], "held_out": 40},
    "nothing known": {"members": 1, "images": 20, "truth": False},
}  # fmt: skip
"""What a prediction may be of."""


@pytest.mark.parametrize("case", CASES)
def test_every_case_is_a_page_that_looks_intended(case: str, data: Path, tmp_path: Path) -> None:
    classes = ["car", "自行车", "a<b>", "a class with quite a long name, and then some more of it"]
    page = make_page(*made_up(tmp_path, data, classes=classes, **CASES[case]))
    write_page(page, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    reader = Reader(text)
    assert not reader.open and "script" not in reader.tags
    assert {link.removeprefix("#") for link in reader.links} == reader.ids == {name for name in SECTIONS if name in
                                                                               reader.ids}  # fmt: skip
    bare = re.sub('data:[^"]*', "", text)
    assert str(tmp_path) not in bare and str(data) not in bare and str(Path.home()) not in bare
    assert not re.search(r"\bnan\b|None|<table[^>]*>\s*<thead>.*</thead>\s*<tbody>\s*</tbody>", bare.split("<nav")[0])
    for kind, there in {
        "confusion": CASES[case].get("truth", True),
        "disputed": CASES[case]["members"] > 1,
        "confidence": CASES[case].get("truth", True) or "held_out" in CASES[case],
        "batches": False,
    }.items():
        assert (kind in reader.ids) is there, kind
    assert ("overview" in page.figures) is ("confidence" in reader.ids)
    if CASES[case]["members"] > 1:  # short names, with the whole one on hover
        assert '<td title="fdg/resnet10t-decoupled-r0.0-holdout-seed0">1 fdg r0.0 seed0</td>' in text
    assert ("diversity" in page.tables) is (CASES[case]["members"] > 1)
    assert ("groups" in page.figures) is ("contexts" in CASES[case] or "training_contexts" in CASES[case])


def contrast(one: str, other: str) -> float:
    """Of two colours "#rrggbb" (WCAG 2.1, contrast ratio)."""

    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_words_have_contrast_in_light_and_in_dark() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    css = (Path(page_module.__file__).parent / "page.css").read_text()
    schemes = [dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in re.findall(r":root \{(.*?)\}", css, re.S)]
    assert len(schemes) == 2
    for colours in schemes:
        for ink, paper in [("ink", "paper"), ("soft", "paper"), ("link", "paper"), ("ink", "tint"), ("ink", "note")]:
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)


def test_the_chain_is_in_order_and_follows_moved_logs(two_members: list[Path], tmp_path: Path) -> None:
    masks = tmp_path / "logs/track1/wsss/made"
    shutil.copytree(two_members[0], masks)

    def started_from(run: Path, **changes: str) -> None:
        config = yaml.safe_load((run / "config.yaml").read_text())
        config |= {key: f"{config['logs_dir']}/{value}" for key, value in changes.items()}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        sign(run)

    first = f"track1/baseline/{two_members[0].name}"
    started_from(masks, init=first)
    started_from(two_members[1], init=first, masks="track1/wsss/made/track1_train_with_mask_label.json")
    members, _ = find_members(tmp_path / "logs", "track1", Wanted(["baseline"]))
    runs = chain(members[::-1], tmp_path / "logs")
    assert list(runs) == [two_members[0], masks, two_members[1]]
    assert runs[two_members[1]] == [two_members[0], masks] and runs[two_members[0]] == []


def test_report_needs_its_packages(two_members: list[Path], predict: Predict, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jinja2" else there(name))
    with pytest.raises(SystemExit, match="error: report=true and logger= need jinja2: pip install jinja2"):
        predict("report=true")
