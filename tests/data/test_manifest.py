import json
import os
from pathlib import Path

import pytest

from src.data.checks import check_against_tree, check_links
from src.data.finding import find_sources
from src.data.layouts import FLAT, Layout, Part, Sources
from src.data.manifest import Row, read_label_map, read_manifest, write_manifest
from src.data.scan import scan_test, scan_train

TEST = Part("test", FLAT)
WITH_CONTEXTS = Sources(Part("train", "<context>/<class>"), None, TEST, "labels.json")
WITHOUT_CONTEXTS = Sources(Part("train", "<class>"), None, TEST, "labels.json")


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_scan_gives_the_challenges_keys(tmp_path: Path) -> None:
    touch(tmp_path, "train/water/fishing rod/b.JPEG", "train/autumn/car/a.jpg", "train/water/car/.hidden.jpg",
          "train/water/car/c.WebP", "train/water/car/notes.txt", "test/x.png")  # fmt: skip
    rows, labels = scan_train(tmp_path, WITH_CONTEXTS, "birds")
    write_manifest(tmp_path / "train.json", rows)
    write_manifest(tmp_path / "test.json", scan_test(tmp_path, WITH_CONTEXTS, "birds", dict))
    assert labels == {"car": 0, "fishing rod": 1}
    assert json.loads((tmp_path / "train.json").read_text()) == [
        {"image_path": "train/autumn/car/a.jpg", "label": 0, "label_name": "car", "domain": 0},
        {"image_path": "train/water/car/c.WebP", "label": 0, "label_name": "car", "domain": 1},
        {"image_path": "train/water/fishing rod/b.JPEG", "label": 1, "label_name": "fishing rod", "domain": 1},
    ]
    assert json.loads((tmp_path / "test.json").read_text()) == [{"image_path": "test/x.png", "image_name": "x.png"}]
    assert read_manifest(tmp_path / "train.json") == rows


def test_track_without_contexts_has_no_domain(tmp_path: Path) -> None:
    touch(tmp_path, "train/car/a.jpg", "train/bus/a.jpg")
    rows, _ = scan_train(tmp_path, WITHOUT_CONTEXTS, "birds")
    assert [row.domain for row in rows] == [None, None]
    write_manifest(tmp_path / "m.json", rows)
    assert all("domain" not in entry for entry in json.loads((tmp_path / "m.json").read_text()))


def test_users_label_map_decides_the_ids(tmp_path: Path) -> None:
    touch(tmp_path, "train/car/a.jpg", "train/bus/a.jpg")
    (tmp_path / "labels.json").write_text('{"car": 7, "bus": 3, "tram": 1}')
    rows, labels = scan_train(tmp_path, WITHOUT_CONTEXTS, "birds")
    assert {row.label_name: row.label for row in rows} == {"car": 7, "bus": 3}
    assert labels["tram"] == 1


def test_published_manifests_load(tmp_path: Path) -> None:
    entry = {"image_path": "public_dg_0416/train/dim/car/dim_000001.jpg", "label": 3, "label_name": "car", "domain": 1,
             "image_seg_path": "mask/dim_000001.png", "image_name": "dim_000001.jpg", "another_key": [1]}  # fmt: skip
    (tmp_path / "m.json").write_text(json.dumps([entry, {"image_path": "t/ab12.jpg", "image_name": "ab12.jpg"}]))
    first, second = read_manifest(tmp_path / "m.json")
    assert (first.label, first.domain, first.image_seg_path, first.name) == (
        3,
        1,
        "mask/dim_000001.png",
        "dim_000001.jpg",
    )
    assert (second.label, second.name) == (None, "ab12.jpg")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"car": 0, "bus": 0}', "gives the id 0 to two classes, 'car' and 'bus'"),
        ('{"bus": 0}', "lacks the class 'car'"),
        ('{"bus": 0,\n "car" 1}', "not valid JSON: .* line 2, column 8"),
        ("[1]", "is not a JSON object"),
    ],
)
def test_bad_label_map(tmp_path: Path, content: str, message: str) -> None:
    touch(tmp_path, "train/car/a.jpg", "train/bus/a.jpg")
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        scan_train(tmp_path, WITHOUT_CONTEXTS, "birds")


def test_missing_or_other_layout(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="data root .* does not exist"):
        find_sources(tmp_path / "nothing", Layout("birds", "train", None, None, None, "<class>"))
    touch(tmp_path, "pictures/car/a.jpg")
    with pytest.raises(FileNotFoundError, match="expects train/<context>/<class>/<image>, found pictures"):
        scan_train(tmp_path, WITH_CONTEXTS, "birds")
    touch(tmp_path, "train/car/a.jpg")
    with pytest.raises(ValueError, match="no training image found for birds"):
        scan_train(tmp_path, WITH_CONTEXTS, "birds")


def test_empty_class_folder_warns(tmp_path: Path) -> None:
    touch(tmp_path, "train/car/a.jpg")
    (tmp_path / "train" / "bus").mkdir()
    with pytest.warns(UserWarning, match="train/bus holds no image"):
        scan_train(tmp_path, WITHOUT_CONTEXTS, "birds")


@pytest.mark.parametrize("path", ["../secret.jpg", "a/../../b.jpg", "/etc/passwd", "a\\..\\b.jpg"])
def test_paths_that_leave_the_root_are_refused(tmp_path: Path, path: str) -> None:
    (tmp_path / "m.json").write_text(json.dumps([{"image_path": path, "label": 0}]))
    with pytest.raises(ValueError, match="entry 0 of .* relative to the data root"):
        read_manifest(tmp_path / "m.json")


def test_links_that_leave_the_root_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    touch(tmp_path, "elsewhere/car/a.jpg", "root/train/bus/a.jpg")
    os.symlink(root / "train/bus/a.jpg", root / "train/bus/inside.jpg")
    check_links(root, ["train/bus/a.jpg", "train/bus/inside.jpg"])
    os.symlink(tmp_path / "elsewhere/car", root / "train/car")
    for call in (
        lambda: scan_train(root, WITHOUT_CONTEXTS, "birds"),
        lambda: check_links(root, ["train/car/a.jpg"]),
    ):
        with pytest.raises(ValueError, match="leads out of the data root"):
            call()
    (root / "train/car").unlink()
    os.symlink(tmp_path / "elsewhere/car/a.jpg", root / "train/bus/b.jpg")
    with pytest.raises(ValueError, match="leads out of the data root"):
        check_links(root, ["train/bus/b.jpg"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"image_path": "a.jpg",}]', "not valid JSON: .* at line 1, column"),
        ('{"a": 1}', "expected a JSON list"),
        ('[{"image_path": "a.jpg"}, {"label": 1}]', "entry 1 of .* has no image_path"),
        ('[{"image_path": "a.jpg", "label": "car"}]', "entry 0 of .* has the label 'car'"),
    ],
)
def test_broken_manifest(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "m.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / "m.json")


def test_manifest_that_no_longer_matches(tmp_path: Path) -> None:
    old, new = [Row("a.jpg"), Row("b.jpg")], [Row("b.jpg"), Row("c.jpg")]
    with pytest.raises(
        ValueError, match=r"1 of its images are gone \(first: a.jpg\) and 1 images are not in it.*rebuild"
    ):
        check_against_tree(tmp_path / "m.json", old, new)
    check_against_tree(tmp_path / "m.json", old, list(reversed(old)))


@pytest.mark.slow
def test_a_hundred_thousand_rows(tmp_path: Path) -> None:
    rows = [Row(f"train/{i % 6}/{i % 60}/{i}.jpg", i % 60, str(i % 60), i % 6) for i in range(100_000)]
    write_manifest(tmp_path / "m.json", rows)
    assert read_manifest(tmp_path / "m.json") == rows


def test_label_map_round_trip(tmp_path: Path) -> None:
    (tmp_path / "l.json").write_text('{"fishing rod": 12, "été": 0}', encoding="utf-8")
    assert read_label_map(tmp_path / "l.json") == {"fishing rod": 12, "été": 0}
