import csv
import io
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from src import progress as progress_module
from src.callbacks import progress_lines
from src.callbacks.progress_bar import FIGURES, Bar
from src.progress import progress


def console(width: int) -> tuple[Console, io.StringIO]:
    file = io.StringIO()
    return Console(file=file, force_terminal=True, width=width, color_system=None, legacy_windows=False), file


def frames(text: str) -> list[list[str]]:
    """What was drawn, one drawing after the other, as its lines."""
    plain = re.sub(r"\x1b\[\??[\d;]*[hlm]", "", text)  # the cursor's and the colours' codes
    return [re.sub(r"\x1b\[\d*[A-Z]", "", frame).split("\n") for frame in re.split(r"\r(?:\x1b\[2K|\x1b\[1A)+", plain)]


@pytest.mark.parametrize("width", [40, 80])
def test_the_longest_lines_do_not_wrap(width: int) -> None:
    out, file = console(width)
    bar = Bar(out)
    bar.start("epoch 200/200", 2345)
    bar.figures = dict(zip(FIGURES, (-12.3456, 0.000123456, 1.0, 0.123456), strict=True))
    bar.speed = "12,345 images/s  1:23:45 left"
    bar.advance(2344)
    bar.say()
    bar.stop()
    lines = [line.rstrip() for line in frames(file.getvalue())[-1] if line.strip()]
    assert len(lines) == 2 and all(len(line) <= width for line in lines), lines
    assert lines[0].startswith("epoch 200/")
    if width == 80:
        assert lines[1] == "loss -12.35  rate 0.000123  in-domain 100.0%  out-of-domain 12.3%"
        assert lines[0].endswith("2344/2345 12,345 images/s  1:23:45 left")


def test_a_training_on_a_terminal_shows_its_figures(
    train_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, file = console(80)
    monkeypatch.setattr(Bar, "SECONDS", 0.01)
    monkeypatch.setattr(progress_lines, "progress_bar", lambda seconds: Bar(out))
    run = train_run("track=1", "stage=baseline", "split=leave_context_out", "split.contexts=[rock]")
    first, last = csv.DictReader(open(run / "metrics.csv"))
    text = file.getvalue()
    assert "epoch 1/2" in text and "epoch 2/2" in text and "epoch 0" not in text and "validation" in text
    assert re.search(r"\d images/s  0:00:\d\d left", text)
    for row in (first, last):
        for part, name in (("in_domain", "in-domain"), ("out_of_domain", "out-of-domain")):
            assert f"{name} {float(row[f'val/{part}/accuracy']):.1%}" in text
    shown = frames(text)[-1]
    assert f"rate {float(last['learning_rate']):.3g}  in-domain" in shown[1]
    assert all(len(line.rstrip("\r")) <= 80 for frame in frames(text) for line in frame)


def test_no_line_is_drawn_where_the_bar_is_switched_off() -> None:
    out, file = console(80)
    bar = Bar(out)
    bar.disable()  # as on every rank but the first
    bar.start("epoch 1/2", 3)
    bar.advance(1)
    bar.say()
    bar.stop()
    assert file.getvalue() == ""


def test_long_work_says_so_after_three_seconds_and_then_every_ten(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    for _ in progress(range(30), "counting"):
        now[0] += 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["counting: 3 of 30", "counting: 13 of 30", "counting: 23 of 30"]
    assert lines[0].endswith("about 27 s left")
    assert time.monotonic() == 30
