"""Trees and tables that could be taken for another data set than they are, and what decides."""

from pathlib import Path

import pytest

from src.data.finding import find_sources
from src.data.layouts import FLAT, Layout, Part
from src.data.scan import scan_test, scan_train
from src.data.store import ManifestStore
from src.data.tables import read_table
from src.data.words import read_data_set
from src.overrides import with_data_set
from tests.data.test_layouts import FOUND, touch, tree


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        ([f"{one}/{name}" for one in ("photos", "test") for name in ("car", "dog")],
         "holds test and .*photos.*track.layout='<context>/<class>'.*track.train_dir=photos track.test_dir=test"),
        ([f"x/{one}/{name}" for one in ("train", "more") for name in ("car", "dog")], "or track.train_dir=x/train"),
        (["car", "dog", "test"], "track.train_dir=. track.layout='<class>'.*, or move .* into a folder train"),
        (["train", "test"], "holds train, test: set track.train_dir=. track.layout='<class>'"),
        (["train/car", "train/dog", "test/car", "test"], "test images in test lie in several depths"),
        ([f"{one}/{name}" for one in ("images", "masks") for name in ("car", "dog")],
         "holds masks/ beside images/, which look like masks of these images: choose the images with data=.*/images"),
        (["train/imgs/car", "train/imgs/dog", "train/annotations/car"], "annotations/ beside imgs"),
        (["images", "seg", "mask"], "holds mask/ and seg/ beside images/"),
    ],
)  # fmt: skip
def test_folders_that_are_called_as_parts_among_others_are_no_classes_unless_said(
    tmp_path: Path, folders: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        find_sources(tree(tmp_path, *folders), FOUND)


def test_a_class_may_be_called_mask(tmp_path: Path) -> None:
    assert find_sources(tree(tmp_path, "mask", "no mask"), FOUND).train == Part(".", "<class>")
    layout = Layout("x", ".", None, None, None, "<context>/<class>")
    chosen = find_sources(tree(tmp_path / "x", "images/car", "masks/car", "images/dog", "masks/dog"), layout)
    assert chosen.train == Part(".", "<context>/<class>")


def test_the_only_folder_of_a_test_folder_is_a_class_unless_its_name_says_nothing(tmp_path: Path) -> None:
    tree(tmp_path, "train/car", "train/dog", "test/bird")
    sources = find_sources(tmp_path, FOUND)
    with pytest.raises(ValueError, match="test images of the class 'bird', which training does not have"):
        scan_test(tmp_path, sources, "birds", lambda: {"car": 0, "dog": 1})


def test_no_image_is_of_two_parts(tmp_path: Path) -> None:
    tree(tmp_path, "car", "dog", "new")
    for layout in (Layout("x", ".", None, "new", None, "<class>"), Layout("x", test_dir="new")):
        with pytest.raises(ValueError, match="test images .*/new are training images as well"):
            find_sources(tmp_path, layout)
    tree(tmp_path / "linked", "train/car", "train/dog")
    (tmp_path / "linked/val").symlink_to("train")
    with pytest.raises(ValueError, match="held-out images .*/val are training images as well"):
        find_sources(tmp_path / "linked", FOUND)
    deeper = Layout("x", ".", None, "new", None, "<context>/<class>")
    assert find_sources(tmp_path, deeper).test == Part("new", FLAT)  # too high up to be training images


def test_links_that_lead_out_are_named_and_loops_are_not_followed(tmp_path: Path) -> None:
    tree(tmp_path / "x", "train/car", "train/dog")
    (tmp_path / "x/train/car/up").symlink_to("..")
    (tmp_path / "x/again").symlink_to(".")
    assert find_sources(tmp_path / "x", FOUND).train == Part("train", "<class>")
    tree(tmp_path / "y", "bird")
    (tmp_path / "x/train/bird").symlink_to(tmp_path / "y/bird")
    with pytest.raises(ValueError, match="train/bird leads out of the data root"):
        find_sources(tmp_path / "x", FOUND)


def test_images_of_a_class_may_lie_in_any_depth_where_folders_say_nothing(tmp_path: Path) -> None:
    tree(tmp_path, "train/car", "train/dog/2024/May", "val/car/may")
    sources = find_sources(tmp_path, Layout("birds", layout="<class>/**"))
    rows, labels = scan_train(tmp_path, sources, "birds")
    assert labels == {"car": 0, "dog": 1} and sorted(row.label_name or "" for row in rows) == ["car"] * 4 + ["dog"] * 2


def test_one_class_in_two_spellings_of_training_and_held_out_folders(tmp_path: Path) -> None:
    tree(tmp_path, "train/car", "train/dog", "val/Car")
    with pytest.raises(ValueError, match="'Car' .* and 'car' .*differ only in their case"):
        scan_train(tmp_path, find_sources(tmp_path, FOUND), "birds")


@pytest.mark.parametrize("folder", ["/tmp", "../x", "train/../train", "", 2016])
def test_folders_that_are_not_below_the_data_root(tmp_path: Path, folder: str) -> None:
    tree(tmp_path, "train/car", "train/dog")
    for layout in (Layout("birds", train_dir=folder), Layout("birds", train_dir=folder, layout="<class>")):
        with pytest.raises(ValueError, match="track.train_dir is .*: expected a path below the data root"):
            find_sources(tmp_path, layout)
    with pytest.raises(ValueError, match="no folder nope in .* track.train_dir names: found train"):
        find_sources(tmp_path, Layout("birds", train_dir="nope"))
    with pytest.raises(ValueError, match="track.table is 'x/t.csv': expected a file in the data root itself"):
        find_sources(tmp_path, Layout("birds", table="x/t.csv"))
    assert find_sources(tmp_path, Layout("birds", train_dir="./train/")).train == Part("train", "<class>")


def test_label_maps_of_tables_and_in_other_accents_are_found(tmp_path: Path) -> None:
    tree(tmp_path, "cafe\u0301", "dog")
    (tmp_path / "ids.json").write_text('{"caf\u00e9": 1, "dog": 0}', encoding="utf-8")
    assert find_sources(tmp_path, FOUND).label_map == "ids.json"
    (tmp_path / "t.csv").write_text("path,label\ndog/0.jpg,dog\ncafe\u0301/0.jpg,caf\u00e9\n", encoding="utf-8")
    sources = find_sources(tmp_path, Layout("birds", table="t.csv"))
    assert scan_train(tmp_path, sources, "birds")[1] == {"caf\u00e9": 1, "dog": 0}
    (tmp_path / "ids.json").unlink()
    (tmp_path / "label_map.json").write_text('{"dog": 0}')  # its name says that it is meant
    with pytest.raises(ValueError, match="lacks the class"):
        scan_train(tmp_path, find_sources(tmp_path, Layout("birds", table="t.csv")), "birds")
    (tmp_path / "label_map.json").write_text('{"dog": 0, "cat": 0}')
    with pytest.raises(ValueError, match="gives the id 0 to two classes"):
        find_sources(tmp_path, Layout("birds", table="t.csv"))


@pytest.mark.parametrize("names", [("trainA", "testA"), ("TrainingData", "TestData"), ("trainset", "testset")])
def test_words_that_are_written_together_name_parts_as_well(tmp_path: Path, names: tuple[str, str]) -> None:
    tree(tmp_path, *(f"{part}/{name}" for part in names for name in ("car", "dog")))
    sources = find_sources(tmp_path, FOUND)
    assert (sources.train, sources.test) == (Part(names[0], "<class>"), Part(names[1], "<class>"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("path,label\nx/1.jpg,car\n./x//1.jpg,dog\n", "1 image.s. more .*x/1.jpg, with label 'car' and 'dog'"),
        ("path,label,split\nx/1.jpg,car,train\nx/1.jpg,car,test\n", "with split 'train' and 'test'"),
        ("path,label\nx,car\n", "1 of the 1 images of .* are missing"),
        ("path,label\nt.csv,car\n", "have no image's extension .first: t.csv."),
    ],
)  # fmt: skip
def test_rows_of_a_table_that_are_not_one_image_each(tmp_path: Path, text: str, said: str) -> None:
    touch(tmp_path, "x/1.jpg")
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        read_table(tmp_path / "t.csv")


def test_tables_with_images_in_several_depths_and_separators_in_names(tmp_path: Path) -> None:
    touch(tmp_path, "0.jpg", "x/1.jpg", "X/y/2.jpg")
    (tmp_path / "t.csv").write_text('path;label;"a,b,c"\n0.jpg;car;1\nx/1.jpg;"a, ""b""";2\nX/y/2.jpg;it\u0027s;3\n')
    sources = find_sources(tmp_path, Layout("birds", table="t.csv"))
    assert set(scan_train(tmp_path, sources, "birds")[1]) == {"car", 'a, "b"', "it's"}
    with pytest.raises(ValueError, match="or data=.*/t.csv, a table there"):
        find_sources(tmp_path, FOUND)  # folders that fit no layout
    (tmp_path / "t.csv").write_bytes("path,label\n0.jpg,caf\u00e9\n".encode("latin-1"))
    with pytest.raises(ValueError, match="not UTF-8"):
        find_sources(tmp_path, Layout("birds", table="t.csv"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data="], "data= names no folder"),
        (["data=/a", "data=/b"], "data=/a and data=/b name two data sets"),
        (["data=/a", "data_root=/b"], "name two data sets"),
        (["data=/a.csv,/b.csv"], "no file /a.csv,/b.csv; of several tables each needs a command of its own"),
    ],
)
def test_words_that_name_no_data_set_or_two(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        with_data_set(words)


def test_commands_without_hydra_take_quotes_and_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_data_set([f"data='{tmp_path}/my birds'"]).root == tmp_path / "my birds"
    assert read_data_set(["data=~/birds", "track.layout='<class>/**'"])[:2] == (
        tmp_path / "birds", Layout("birds", layout="<class>/**")
    )  # fmt: skip


def test_a_table_that_says_other_things_than_its_manifest_is_noticed(tmp_path: Path) -> None:
    touch(tmp_path, "x/1.jpg", "x/2.jpg")
    table = tmp_path / "t.csv"

    def prepare(text: str, rebuild: bool = False, check: bool = True) -> None:
        table.write_text("path,label,context,split\n" + text)
        layout = Layout("birds", table="t.csv")
        ManifestStore(tmp_path, tmp_path / "manifests", layout, "train", rebuild).prepare(check, lambda: None)

    prepare("x/1.jpg,car,rock,\nx/2.jpg,dog,sea,\n")
    prepare("x/2.jpg,dog,sea,train\nx/1.jpg,car,rock,\n")
    for text, said in (
        ("x/1.jpg,dog,rock,\nx/2.jpg,dog,sea,\n", "1.jpg was of the class car and is of the class dog"),
        ("x/1.jpg,car,sea,\nx/2.jpg,dog,sea,\n", "was of the context rock and is of the context sea"),
        ("x/1.jpg,car,rock,\nx/2.jpg,dog,sea,val\n", "2.jpg was of the others and is of the held-out part"),
    ):
        with pytest.raises(ValueError, match=f"{said}; manifest.rebuild=true"):
            prepare(text)
        prepare(text, check=False)
        prepare(text, rebuild=True)
        prepare("x/1.jpg,car,rock,\nx/2.jpg,dog,sea,\n", rebuild=True)
