"""The layout of a tree of images is found by its folders, or the setting that decides is named."""

from pathlib import Path

import pytest

from src.data.finding import find_sources
from src.data.layouts import FLAT, Layout, Part, Sources
from src.data.manifest import Row
from src.data.scan import scan_test, scan_train
from src.data.splits import holdout, leave_context_out
from src.data.tables import read_table
from src.overrides import folder_name, with_data_set

FOUND = Layout("birds")


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


def tree(root: Path, *folders: str, each: int = 2) -> Path:
    return touch(root, *(f"{folder}/{i}.jpg" for folder in folders for i in range(each)))


BY_CONTEXT = ("rock/car", "rock/dog", "sea/car", "sea/dog")


def parts_of(sources: Sources) -> tuple[Part | None, Part | None, Part | None]:
    return sources.train, sources.val, sources.test


@pytest.mark.parametrize(
    ("folders", "train", "val", "test"),
    [
        (["car", "dog"], (".", "<class>"), None, None),
        (["train/car", "train/dog"], ("train", "<class>"), None, None),
        (["Training/car", "Training/dog", "validation/car"], ("Training", "<class>"), ("validation", "<class>"), None),
        (["train/car", "train/dog", "val/dog", "test/car"],
         ("train", "<class>"), ("val", "<class>"), ("test", "<class>")),
        (BY_CONTEXT, (".", "<context>/<class>"), None, None),
        ([f"photos/{one}" for one in BY_CONTEXT], ("photos", "<context>/<class>"), None, None),
        ([f"train/{one}" for one in BY_CONTEXT] + ["test"], ("train", "<context>/<class>"), None, ("test", FLAT)),
        ([f"x/train/{one}" for one in BY_CONTEXT] + ["x/public_test_flat"],
         ("x/train", "<context>/<class>"), None, ("x/public_test_flat", FLAT)),
        ([f"train/{one}" for one in BY_CONTEXT] + ["test/sky/car", "test/sky/dog"],
         ("train", "<context>/<class>"), None, ("test", "<context>/<class>")),
        ([f"train/{one}" for one in BY_CONTEXT] + ["test/car", "test/dog"],
         ("train", "<context>/<class>"), None, ("test", "<class>")),
        (["train/car", "train/dog", "test/unknown"], ("train", "<class>"), None, ("test/unknown", FLAT)),
        (["train", "bus", "car"], (".", "<class>"), None, None),  # a class may be called train
        (["rock/train", "rock/car", "sea/train", "sea/car"], (".", "<context>/<class>"), None, None),
    ],
)  # fmt: skip
def test_layouts_that_are_found(
    tmp_path: Path,
    folders: list[str],
    train: tuple[str, str],
    val: tuple[str, str] | None,
    test: tuple[str, str] | None,
) -> None:
    found = parts_of(find_sources(tree(tmp_path, *folders), FOUND))
    assert found == tuple(Part(*part) if part else None for part in (train, val, test))


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["car/one", "car/two", "dog/three"], "several ways.*track.layout='<context>/<class>'.*'<class>/<context>'.*"),
        (["."], r"fit no layout: expected <class>/<image>.*found 1 folder\(s\) with images 0 deep"),
        (["a/b/c/d", "a/b/c/e", "a/f/g/h"], "fit no layout.*3 deep"),
        (["train/car", "train/dog", "training/car"], "both train and training.*track.train_dir="),
        (["val/car", "test/dog"], "no folder of training images.*track.train_dir="),
        (["train/car", "train/dog", "test/car", "a/car", "b/car", "c/car"], "other folders.*track.train_dir=train"),
        (["train/car", "train/dog", "val"], "are not laid out like those of"),
        (
            ["dg/train/sea/car", "dg/flat", "ood/train/car", "ood/flat"],
            "several data sets.*data=.*/dg or data=.*/ood.*track=1",
        ),
    ],
)
def test_what_fits_none_or_several_names_the_setting(tmp_path: Path, folders: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find_sources(tree(tmp_path, *folders), FOUND)


def test_an_empty_folder_and_none_at_all(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no image found .* expected <class>/<image>, .*found nothing"):
        find_sources(tmp_path, FOUND)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        find_sources(tmp_path / "none", FOUND)


def test_a_setting_decides(tmp_path: Path) -> None:
    tree(tmp_path, "car/one", "car/two", "dog/three")
    sources = find_sources(tmp_path, Layout("birds", layout="<class>/<context>"))
    rows, labels = scan_train(tmp_path, sources, "birds")
    assert labels == {"car": 0, "dog": 1}
    assert {(row.label_name, row.domain_name, row.domain) for row in rows} == {
        ("car", "one", 0), ("car", "two", 2), ("dog", "three", 1)
    }  # fmt: skip
    rows, labels = scan_train(tmp_path, find_sources(tmp_path, Layout("birds", layout="<class>/**")), "birds")
    assert labels == {"car": 0, "dog": 1} and {row.domain for row in rows} == {None} and len(rows) == 6
    rows, labels = scan_train(tmp_path, find_sources(tmp_path, Layout("birds", layout="<context>/<class>")), "birds")
    assert labels == {"one": 0, "three": 1, "two": 2}
    tree(tmp_path, "a/b/rock/car", "a/b/sea/car")
    sources = find_sources(tmp_path, Layout("birds", train_dir="a/b"))
    assert sources.train == Part("a/b", "<context>/<class>")


def test_a_yaml_of_five_lines_is_taken_as_it_stands(tmp_path: Path) -> None:
    tree(tmp_path, "pictures/rock/car", "unseen")
    sources = find_sources(tmp_path, Layout("birds", "pictures", None, "unseen", "ids.json", "<context>/<class>"))
    assert parts_of(sources) == (Part("pictures", "<context>/<class>"), None, Part("unseen", FLAT))
    assert sources.label_map == "ids.json"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "manifests", "debug", "x" * 61, 3])
def test_names_that_no_data_set_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="track.name is"):
        find_sources(tmp_path, Layout(name))


def test_the_users_label_map_is_found_by_what_it_holds(tmp_path: Path) -> None:
    tree(tmp_path, "train/car", "train/dog")
    (tmp_path / "notes.json").write_text("[1]")
    (tmp_path / "others.json").write_text('{"car": 0, "cat": 1}')
    assert find_sources(tmp_path, FOUND).label_map is None
    (tmp_path / "ids.json").write_text('{"dog": 0, "car": 1, "cat": 2}')
    sources = find_sources(tmp_path, FOUND)
    assert scan_train(tmp_path, sources, "birds")[1] == {"dog": 0, "car": 1, "cat": 2}
    (tmp_path / "again.json").write_text('{"dog": 0, "car": 1}')
    with pytest.raises(ValueError, match="several label maps .*again.json, ids.json.*track.label_map=again.json"):
        find_sources(tmp_path, FOUND)


def test_test_images_in_class_folders_have_truth(tmp_path: Path) -> None:
    tree(tmp_path, "train/rock/car", "train/sea/car", "train/sea/dog", "train/rock/dog", "test/sky/dog", "test/sky/car")
    sources = find_sources(tmp_path, FOUND)
    labels = scan_train(tmp_path, sources, "birds")[1]
    rows = scan_test(tmp_path, sources, "birds", lambda: labels)
    assert rows[0] == Row("test/sky/car/0.jpg", 0, "car", "sky", "sky/car/0.jpg")  # names alone would be twice there
    assert [row.label for row in rows] == [0, 0, 1, 1]
    with pytest.raises(ValueError, match="test images of the class 'car', which training does not have"):
        scan_test(tmp_path, sources, "birds", lambda: {"dog": 0})


def test_flat_test_images_keep_their_names_and_know_no_truth(tmp_path: Path) -> None:
    tree(tmp_path, "train/car", "train/dog", "test")
    rows = scan_test(tmp_path, find_sources(tmp_path, FOUND), "birds", dict)
    assert rows == [Row(f"test/{i}.jpg", image_name=f"{i}.jpg") for i in range(2)]


def test_a_val_folder_is_the_held_out_part(tmp_path: Path) -> None:
    tree(tmp_path, *(f"train/{one}" for one in BY_CONTEXT), "val/rock/car", "val/sky/dog", each=3)
    rows, _ = scan_train(tmp_path, find_sources(tmp_path, FOUND), "birds")
    names = sorted({row.image_path.split("/")[1] for row in rows})
    parts = holdout(rows, names, fraction=0.2, seed=0)
    assert {rows[i].image_path.split("/")[0] for i in parts.train} == {"train"} and len(parts.train) == 12
    assert {rows[i].image_path[:8] for i in parts.in_domain} == {"val/rock"}
    assert {rows[i].image_path[:7] for i in parts.out_of_domain} == {"val/sky"}  # a context without training images
    assert holdout(rows, names, fraction=0.2, seed=1) == parts  # nothing is drawn
    parts = leave_context_out(rows, names, contexts=["sea"], fraction=0.2, seed=0)
    assert {rows[i].image_path[:9] for i in parts.out_of_domain} == {"train/sea"}
    assert {rows[i].image_path[:10] for i in parts.train} == {"train/rock"}
    assert {rows[i].image_path[:8] for i in parts.in_domain} == {"val/rock"}


TABLE = """\ufeffPath;Label;Context;Split
x/1.jpg;car;rock;train
x/2.jpg;dog;sea;
x/3.jpg;dog;sea;Val
x/4.jpg;car;sky;test
"""


def test_a_table_lists_the_images(tmp_path: Path) -> None:
    touch(tmp_path, *(f"x/{i}.jpg" for i in range(1, 6)))
    (tmp_path / "birds.csv").write_text(TABLE)
    sources = find_sources(tmp_path, Layout("birds", table="birds.csv"))
    rows, labels = scan_train(tmp_path, sources, "birds")
    assert labels == {"car": 0, "dog": 1}
    assert rows == [
        Row("x/1.jpg", 0, "car", 0, domain_name="rock"),
        Row("x/2.jpg", 1, "dog", 1, domain_name="sea"),
        Row("x/3.jpg", 1, "dog", 1, domain_name="sea", split="val"),
    ]
    assert scan_test(tmp_path, sources, "birds", lambda: labels) == [Row("x/4.jpg", 0, "car", "sky", "4.jpg")]
    assert find_sources(tmp_path, FOUND) == sources  # without a word of the table: one folder of images is no layout


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,class\nx/1.jpg,car\n", "no column 'label'.*found path, class"),
        ("path,label,label\nx/1.jpg,car,dog\n", "two columns 'label'"),
        ("path,label\nx/1.jpg\n", "line 2 of .* has 1 columns"),
        ("path,label\n../1.jpg,car\n", "line 2 of .* without .."),
        ("path,label\nx/1.jpg,car,red\n", "line 2 of .* has 3 columns and the first line 2: .* in quotes"),
        ("path,label\nx/1.jpg,c\x07ar\n", r"line 2 of .* has the label 'c.x07ar', which holds a control character"),
        ("path,label,context\nx/1.jpg,car,r\x07\n", "line 2 of .* has the context .* control character"),
        ("path,label\nx/1.jpg,\n", "line 2 .*has no label"),
        ("path,label,split\nx/1.jpg,car,holdout\n", "the split 'holdout': expected train, val or test"),
        ("path,label,context\nx/1.jpg,car,\n", "has no context"),
        ("path,label\nx/9.jpg,car\nx/8.jpg,car\n", "2 of the 2 images of .* are missing .first: .*x/9.jpg"),
        ("path,label\n", "lists no image"),
        ("", "is not a CSV of images"),
    ],
)
def test_tables_that_are_refused(tmp_path: Path, text: str, said: str) -> None:
    touch(tmp_path, "x/1.jpg")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        read_table(tmp_path / "t.csv")


def test_folders_and_a_table_at_once_are_two_candidates(tmp_path: Path) -> None:
    tree(tmp_path, "car", "dog")
    (tmp_path / "t.csv").write_text("path,label\ncar/0.jpg,car\n")
    with pytest.raises(
        ValueError, match="in folders .* a table .*data=.*t.csv or track.layout='<class>' track.train_dir="
    ):
        find_sources(tmp_path, FOUND)
    chosen = Layout("birds", train_dir=".", layout="<class>")
    assert find_sources(tmp_path, chosen).train == Part(".", "<class>")


def test_data_is_a_data_root_with_the_layout_that_is_found(tmp_path: Path) -> None:
    assert with_data_set(["data=/photos", "stage=moco"]) == ["track=found", "data_root=/photos", "stage=moco"]
    assert with_data_set(["track=1", "data=/photos"]) == ["track=1", "data_root=/photos"]
    table = ["track=found", "data_root=/x", "track.table=my birds.csv", "track.name=my_birds"]
    assert with_data_set(["data=/x/my birds.csv"]) == table
    assert with_data_set(["seed=1"]) == ["seed=1"]
    (tmp_path / "Fotos (2024)!").mkdir()
    assert folder_name(str(tmp_path / "Fotos (2024)!")) == "Fotos_2024"
    assert folder_name("/x/cafe\u0301") == folder_name("/x/caf\u00e9") == "caf\u00e9"
    assert Layout(folder_name("/")).check() is None


def test_empty_cells_behind_a_row_are_nothing(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.jpg")
    (tmp_path / "t.csv").write_text("path,label\nx/1.jpg,car,, \n")
    assert [line.label for line in read_table(tmp_path / "t.csv")] == ["car"]
