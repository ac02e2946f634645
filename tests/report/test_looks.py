import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from src.data.manifest import Row
from src.prediction.image_sets import ImageSet, Truth
from src.prediction.members import read_member
from src.prediction.selection import find_beside
from src.report.looks import sample, with_masks
from tests.report.test_page import Reader

Predict = Callable[..., Path]


def images(contexts: list[str], unreadable: tuple[str, ...] = ()) -> ImageSet:
    rows = [Row(f"a/{i}.jpg", image_name=f"{i}.jpg") for i in range(len(contexts))]
    label = np.arange(len(contexts)) % 2
    return ImageSet("test", Path("."), rows, Truth(label, contexts), unreadable)


def test_a_sample_has_equally_many_of_each_context() -> None:
    given = images(["grass"] * 50 + ["snow"] * 8 + ["rock"] * 2)
    taken = sample(given, 20, 0)
    assert taken.truth is not None and len(taken.rows) == 20
    assert {name: taken.truth.contexts.count(name) for name in ("grass", "snow", "rock")} == {
        "grass": 10,
        "snow": 8,
        "rock": 2,
    }
    for row, label, context in zip(taken.rows, *taken.truth, strict=True):  # the truth goes with its row
        i = int(row.name.removesuffix(".jpg"))
        assert label == i % 2 and context == given.truth.contexts[i]  # type: ignore[union-attr]
    assert sample(given, 20, 0).names == taken.names != sample(given, 20, 1).names
    assert len(sample(given, 999, 0).rows) == 60
    of_classes = sample(images([""] * 10), 4, 0)
    assert sorted(of_classes.label.tolist()) == [0, 0, 1, 1]
    assert "3.jpg" not in sample(images([""] * 6, ("3.jpg",)), 6, 0).names


def test_masks_of_a_folder_come_first(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("0.png", "1.jpg.png", "1.png"):
        (tmp_path / "a" / name).write_bytes(b"")
    (tmp_path / "known.png").write_bytes(b"")
    known = {"a/0.jpg": tmp_path / "known.png", "a/2.jpg": tmp_path / "known.png", "a/3.jpg": tmp_path / "gone.png"}
    found = with_masks(images(["x"] * 5), tmp_path, known)
    assert [Path(str(row.image_seg_path)).name for row in found.rows] == ["0.png", "1.jpg.png", "known.png"]
    assert found.names == ["0.jpg", "1.jpg", "2.jpg"] and len(found.label) == 3
    assert not with_masks(images(["x"]), None, {}).rows


def test_runs_beside_the_members(two_members: list[Path], tmp_path: Path) -> None:
    first, second = (read_member(folder) for folder in two_members)
    assert not isinstance(first, str) and not isinstance(second, str)
    assert find_beside(tmp_path / "logs", "track1", ["*"], [first]) == [second]
    assert find_beside(tmp_path / "logs", "track1", ["fdg"], [first]) == []
    assert find_beside(tmp_path / "logs", "track1", ["*"], [first, second]) == []
    split = json.loads((two_members[1] / "split.json").read_text())
    split["in_domain"] = split["in_domain"][1:]
    (two_members[1] / "split.json").write_text(json.dumps(split))
    from tests.conftest import sign

    sign(two_members[1])
    assert find_beside(tmp_path / "logs", "track1", ["*"], [first]) == []


def test_a_network_beside_the_members_is_compared(two_members: list[Path], predict: Predict, data: Path) -> None:
    truth = data / "truth/track1_test_truth.json"
    words = [f"truth={truth}", "ensemble.runs=['*seed0*']", "report=true"]
    results = predict(*words, f"object_masks={data / 'truth/masks'}")
    text = (results / "report.html").read_text()
    page = Reader(text)
    assert {"stages", "where", "features"} <= page.ids
    assert "on the object" in text and "nearest neighbours" in text
    # Seeds 0 and 1 of one recipe are one row, whoever of them votes.
    kept = results / f"members/baseline/{two_members[1].name}.test.npz"
    with np.load(kept, allow_pickle=False) as file:
        beside = dict(zip(file["names"].tolist(), file["probabilities"].argmax(1).tolist(), strict=True))
    labels = {row["image_path"].rsplit("/", 1)[-1]: row["label"] for row in json.loads(truth.read_text())}
    own = json.loads((results / f"members/baseline/{two_members[0].name}.json").read_text())
    mean = np.mean([np.mean([votes[name] == labels[name] for name in own]) for votes in (own, beside)])
    assert f"{100 * mean:.1f} (" in text and not page.open
    without = (predict(*words, "compare=[]") / "report.html").read_text()
    assert "No two of these networks can be compared" in without


def test_masks_that_cannot_be_read_leave_the_rest(
    two_members: list[Path], predict: Predict, data: Path, tmp_path: Path
) -> None:
    name = json.loads((data / "truth/track1_test_truth.json").read_text())[0]["image_path"]
    path = (tmp_path / "masks" / name).with_suffix(".png")
    path.parent.mkdir(parents=True)
    cv2.imwrite(str(path), np.zeros((3, 3), np.uint8))
    words = [f"truth={data / 'truth/track1_test_truth.json'}", "report=true", f"object_masks={tmp_path / 'masks'}"]
    text = (predict(*words) / "report.html").read_text()
    assert "could not be shown these images again" in text and "nearest neighbours" in text
    with pytest.raises(SystemExit, match="error: object_masks=.* is no folder"):
        predict(*words[:2], f"object_masks={tmp_path / 'none'}")
