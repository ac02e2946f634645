import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cv2
import pytest

from src.report.page import make_page, write_page
from tests.report.made_up import made_up

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not BROWSER, reason="no browser here")]
WIDTHS = (360, 768, 1280)
SCHEMES = {"light": [], "dark": ["--blink-settings=preferredColorScheme=0"]}
MEASURE = """
<iframe id=page style="border:0;width:%dpx;height:800px" srcdoc="%s"></iframe>
<script>
onload = () => {
  const page = document.getElementById("page").contentDocument, all = [...page.querySelectorAll("body *")];
  const inside = e => e.closest(".scroll, .drawn, pre, details");
  document.body.replaceChildren(JSON.stringify({
    width: page.documentElement.scrollWidth,
    outside: all.filter(e => !inside(e) && e.getBoundingClientRect().right > %d + 1).map(e => e.tagName + e.className),
    broken: [...page.images].filter(i => !i.naturalWidth).length, images: page.images.length,
    paper: getComputedStyle(page.body).backgroundColor,
    smallest: Math.min(...all.filter(e => e.textContent.trim()).map(e => parseFloat(getComputedStyle(e).fontSize)))
  }));
};
</script>
"""


@pytest.fixture(scope="module")
def report(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    classes = ["car", "自行车", "hot air balloon", "a class with quite a long name, and then some more of it"]
    page = make_page(*made_up(folder, data, classes=classes, members=12, images=200, contexts=["water", "outdoor"],
                              training_contexts=["草地", "dim", "rock"], held_out=90))  # fmt: skip
    write_page(page, folder / "report.html")
    return folder / "report.html"


def chromium(page: Path, *words: str) -> str:
    """What a headless browser prints for a page."""
    own = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [BROWSER, *own, *words, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "ERROR:CONSOLE" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_and_everything_is_drawn(report: Path, width: int, scheme: str) -> None:
    frame = report.parent / f"frame-{width}-{scheme}.html"  # a window may not be narrower than 500 pixels; a frame may
    frame.write_text(MEASURE % (width, html.escape(report.read_text()), width))
    printed = chromium(frame, "--dump-dom", f"--window-size={max(width, 600)},900", *SCHEMES[scheme])
    found: dict[str, Any] = json.loads(html.unescape(re.findall(r"<body>(.*)</body>", printed, re.S)[0]))
    assert found["width"] <= width and found["outside"] == [] and found["broken"] == 0
    assert found["images"] == report.read_text().count("<img") and found["smallest"] >= 12
    bright = sum(map(int, re.findall(r"\d+", found["paper"])[:3])) / 3
    assert bright > 240 if scheme == "light" else bright < 50


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_drawn_can_be_seen(report: Path, scheme: str) -> None:
    picture = report.parent / f"{scheme}.png"
    chromium(report, f"--screenshot={picture}", "--window-size=1280,4000", *SCHEMES[scheme])
    pixels = cv2.imread(str(picture))
    paper = pixels[0, 0].astype(int)
    for y in range(0, 3600, 600):  # something stands everywhere down the page, and most of it is paper
        apart = abs(pixels[y : y + 600].astype(int) - paper).max(2) > 60
        assert 0.004 < apart.mean() < 0.6, y
    assert (paper > 240).all() if scheme == "light" else (paper < 50).all()
