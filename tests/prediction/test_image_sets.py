import json
import os
from pathlib import Path

import pytest

from src.data.manifest import Row
from src.digests import Digests
from src.prediction.image_sets import (
    check_label_names,
    draw_bank,
    folder_images,
    match_truth,
    read_truth,
    rows_of,
    with_digest,
)


@pytest.mark.parametrize("label", ["1.7", '"car"', "-1", "true"])
def test_truth_that_is_no_label(tmp_path: Path, label: str) -> None:
    (tmp_path / "t.json").write_text(f'{{"a.jpg": {label}}}')
    with pytest.raises(ValueError, match="t.json gives a.jpg the label .*: expected an id"):
        read_truth(tmp_path / "t.json")


def test_truth_from_an_object_and_with_a_gap(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text('{"a.jpg": 1, "b.jpg": 0}')
    rows = read_truth(tmp_path / "t.json")
    matched = match_truth(rows, ["b.jpg", "a.jpg"], tmp_path)
    assert matched is not None and matched[0].tolist() == [0, 1] and matched[1] == ["", ""]
    with pytest.raises(ValueError, match=r"has no label for 1 of 2 test images \(first: c.jpg\)"):
        match_truth(rows, ["a.jpg", "c.jpg"], tmp_path)
    assert match_truth([Row("a.jpg")], ["a.jpg"], tmp_path) is None


def test_any_folder(data: Path, tmp_path: Path) -> None:
    source = sorted((data / "data/public_dg_0416/public_test_flat").glob("*.jpg"))[:2]
    (tmp_path / "b/c").mkdir(parents=True)
    (tmp_path / "b/c/deep.JPG").write_bytes(source[0].read_bytes())
    (tmp_path / "top.jpg").write_bytes(source[1].read_bytes())
    (tmp_path / "cut.jpg").write_bytes(source[1].read_bytes()[:300])
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.jpg").write_text("no image")
    images = folder_images(tmp_path)
    assert images.names == ["b/c/deep.JPG", "cut.jpg", "top.jpg"]
    before = with_digest(images, Digests()).digest
    os.utime(tmp_path / "top.jpg", (1, 1))
    assert with_digest(images, Digests()).digest == before
    (tmp_path / "top.jpg").write_bytes(source[0].read_bytes())
    assert with_digest(images, Digests()).digest != before
    with pytest.raises(FileNotFoundError, match="the folder .*nowhere does not exist"):
        folder_images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image found in .*empty or below: expected files with"):
        folder_images(tmp_path / "empty")
    (tmp_path / "empty/out.jpg").symlink_to(source[0])
    with pytest.raises(ValueError, match="leads out of"):
        folder_images(tmp_path / "empty")


def test_the_bank_depends_on_the_seed_alone() -> None:
    rows = [Row(f"{i:03d}.jpg", label=0) for i in range(50)]
    paths = [row.image_path for row in rows[:40]]
    drawn = [row.image_path for row in draw_bank(rows, paths, 8, seed=0)]
    assert len(set(drawn)) == 8 and set(drawn) <= set(paths)
    assert [row.image_path for row in draw_bank(rows[::-1], paths[::-1], 8, seed=0)] == drawn
    assert [row.image_path for row in draw_bank(rows, paths, 8, seed=1)] != drawn
    assert len(draw_bank(rows, paths, 1000, seed=0)) == 40
    with pytest.raises(
        ValueError, match=r"1 images of the members' split are not in the training manifest \(first: x\)"
    ):
        rows_of(rows, ["000.jpg", "x"])


def test_truth_is_read_from_the_files_that_users_have(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps([{"image_path": "a/x.jpg", "label": 2, "domain": "water"}]))
    truth = match_truth(read_truth(tmp_path / "manifest.json"), ["x.jpg"], tmp_path)
    assert truth is not None and truth.label.tolist() == [2] and truth.contexts == ["water"]


def test_truth_says_how_its_numbers_are_read_and_takes_names_of_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.json").write_text('{"a.jpg": "dog", "b.jpg": "car"}')
    assert [row.label for row in read_truth(tmp_path / "t.json", ["car", "dog"])] == [1, 0]
    assert not capsys.readouterr().out
    (tmp_path / "t.json").write_text('{"a.jpg": 1, "b.jpg": "car"}')
    assert [row.label for row in read_truth(tmp_path / "t.json", ["car", "dog"])] == [1, 0]
    assert "t.json: its numbers are read as class ids (0 is 'car', 1 is 'dog')" in capsys.readouterr().out
    (tmp_path / "t.json").write_text('{"a.jpg": "owl"}')
    with pytest.raises(ValueError, match="t.json gives a.jpg the label 'owl': expected an id >= 0, or a class's name"):
        read_truth(tmp_path / "t.json", ["car", "dog"])


@pytest.mark.parametrize("second", ["t/x.jpg", "./t/x.jpg", "t//x.jpg"])
def test_truth_with_an_image_twice_is_refused_and_no_rebuild_promised(tmp_path: Path, second: str) -> None:
    rows = [{"image_path": "t/x.jpg", "label": 0}, {"image_path": second, "label": 1}]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    with pytest.raises(ValueError, match=r"t.json lists 1 image\(s\) more than once .*label 0 and then 1") as error:
        read_truth(tmp_path / "t.json")
    assert "rebuild" not in str(error.value)


def test_an_id_of_another_map_than_the_runs_is_refused_by_the_name_beside_it() -> None:
    classes, where = ["ant", "bear"], Path("test.json")
    check_label_names([Row("1.jpg", 1, "bear"), Row("2.jpg", 0), Row("3.jpg", None, "bear")], classes, where, "do this")
    check_label_names([Row("1.jpg", 0, "some other words for ant")], classes, where, "do this")
    with pytest.raises(
        ValueError, match=r"gives 1.jpg the label 0 and the class 'bear', which has the id 1 .*: do this"
    ):
        check_label_names([Row("1.jpg", 0, "bear")], classes, where, "do this")


def test_a_name_counts_where_the_label_is_null(tmp_path: Path) -> None:
    rows = [{"image_path": "a.jpg", "label": None, "label_name": "bear"}]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    assert [row.label for row in read_truth(tmp_path / "t.json", ["ant", "bear"])] == [1]


def test_a_pipe_among_images_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    made = with_digest(folder_images(tmp_path / "pipe.jpg"), Digests(None))
    assert made.names == ["pipe.jpg"] and "is a pipe, not an image file" in made.why_unreadable(0, 0)


def test_a_name_that_no_text_can_hold_is_refused(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xffz.jpg")).write_bytes(b"")
    with pytest.raises(ValueError, match="bytes that are not UTF-8: rename it"):
        folder_images(tmp_path)
