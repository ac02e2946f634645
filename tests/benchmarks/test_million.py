"""The table of a million images, made with two thousand; and what the steps do for each image, counted."""

import os
import sys
from pathlib import Path

import pytest

from benchmarks import million
from src.digests import Digests, facts_of
from src.prediction.image_sets import ImageSet


@pytest.mark.slow
def test_every_row_is_measured(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["million", "--images", "2000"])
    million.main()
    rows = [line.split(" | ") for line in capfd.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [row[0].removeprefix("| ") for row in rows] == list(million.STEPS)
    assert all(float(row[1]) < 60 for row in rows)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> million.Bench:
    made = million.Bench(tmp_path_factory.mktemp("million"), 2000)
    made.make_images()
    return made


def calls(monkeypatch: pytest.MonkeyPatch, *names: str) -> dict[str, int]:
    """How often functions of `os` and `os.path` that ask the file system are called from now on."""
    counts = dict.fromkeys(names, 0)
    for name in names:
        home = os if hasattr(os, name) else os.path
        before = getattr(home, name)

        def counted(*words: object, name: str = name, before: object = before, **more: object) -> object:
            counts[name] += 1
            return before(*words, **more)

        monkeypatch.setattr(home, name, counted)
    return counts


def test_a_scan_asks_of_folders_and_the_checks_of_each_image_once(
    bench: million.Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = bench.scanned()[0]
    assert len(rows) == 2000 and len({row.image_path for row in rows}) == 2000
    folders = million.CLASSES * million.CONTEXTS
    counts = calls(monkeypatch, "scandir", "stat", "lstat", "realpath", "islink")
    assert len(bench.scanned()[0]) == 2000
    assert counts["scandir"] < 4 * folders and counts["stat"] + counts["lstat"] + counts["realpath"] < 4 * folders
    counts.update(dict.fromkeys(counts, 0))
    million.check_links(bench.data, [row.image_path for row in rows])
    assert counts["islink"] == 2000  # a lstat each


def test_a_digest_asks_of_each_image_once_and_opens_none_that_it_remembers(
    bench: million.Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images = ImageSet("test", bench.data, bench.test_rows)
    known = Digests(tmp_path / "memo.json")
    made = million.with_digest(images, known).digest
    assert (tmp_path / "memo.json").stat().st_size < 200  # whatever the number of images
    counts = calls(monkeypatch, "stat")
    opened: list[object] = []
    monkeypatch.setattr("src.digests.contents", lambda root, paths: opened.append(paths))
    assert million.with_digest(images, known).digest == made and not opened
    assert counts["stat"] == 2000
    assert facts_of(images.root, [row.image_path for row in images.rows]).digest in next(iter(known.known))
