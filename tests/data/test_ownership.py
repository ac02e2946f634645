"""Which data set a manifest belongs to: no data set meets another's manifest or label map."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from src.data.manifest import Row, read_manifest, write_manifest
from src.data.splits import Split, SplitRule, holdout, leave_context_out
from src.datamodules.nico import NicoDataModule

TRAIN = "train"
MAP = "labels.json"


def split_in_half(rows: Sequence[Row], contexts: Sequence[str]) -> Split:
    return holdout(rows, contexts, fraction=0.5, seed=0)


def without_sea(rows: Sequence[Row], contexts: Sequence[str]) -> Split:
    return leave_context_out(rows, contexts, contexts=["sea"], fraction=0.5, seed=0)


def tree(root: Path, *classes: str, contexts: Sequence[str] = ("dim", "sea"), each: int = 3) -> Path:
    """Files in a data set's layout; nothing here decodes them."""
    for context in contexts:
        for name in classes:
            for i in range(each):
                path = root / TRAIN / context / name / f"{i}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()
    (root / "test").mkdir(exist_ok=True)
    (root / "test/t.jpg").touch()
    return root


def start(root: Path | str, folder: Path, part: str = "train", track: int = 1, **words: object) -> NicoDataModule:
    """What a start does with its data before anything is trained."""
    layout = {
        "name": f"track{track}", "train_dir": TRAIN, "test_dir": "test", "label_map": MAP,
        "layout": "<context>/<class>",
    }  # fmt: skip
    settings: dict[str, object] = {
        "split": split_in_half, "train_transform": None, "eval_transform": None, "size": 32, "batch_size": 2,
        "num_workers": 0, "timeout": 0, "persistent_workers": False, "seed": 0, "pairs": None, "masks": None,
        "mask_root": None, "native_pixels": 1, "max_pixels": 10**8, "on_bad_image": "stop", "max_bad_share": 0.1,
        "rebuild": False, "check": True,
    }  # fmt: skip
    settings |= words
    made = NicoDataModule(data_root=str(root), manifest_dir=str(folder), track=layout, part=part, **settings)  # type: ignore[arg-type]
    made.prepare_data()
    made.setup()
    return made


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def manifest(folder: Path, root: Path, **changed: object) -> Path:
    """A manifest made by hand of a tree, with ids in the reverse order of the names; keys of every row replaced."""
    names = sorted({path.parent.name for path in (root / TRAIN).glob("*/*/*")}, reverse=True)
    contexts = sorted(path.name for path in (root / TRAIN).iterdir())
    rows = []
    for path in sorted((root / TRAIN).glob("*/*/*")):
        name, context = path.parent.name, path.parent.parent.name
        row = {"image_path": str(path.relative_to(root)), "label": names.index(name), "label_name": name}
        rows.append({**row, "domain": contexts.index(context), **changed})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "track1_train_label.json").write_text(json.dumps(rows))
    return folder / "track1_train_label.json"


def test_nothing_is_written_into_the_users_folders(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "car", "dog")
    before = files(root)
    assert start(root, tmp_path / "m").classes == ["car", "dog"]
    assert files(root) == before
    assert set(files(tmp_path / "m")) == {"data_root.json", "track1_label_map.json", "track1_train_label.json"}


def test_the_users_label_map_wins_over_the_one_that_was_made(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "car", "dog")
    start(root, tmp_path / "m")
    (root / MAP).write_text('{"dog": 0, "car": 1}')
    assert start(root, tmp_path / "m", rebuild=True).classes == ["dog", "car"]


@pytest.mark.parametrize("first", ["{}", "a", "link"])
def test_one_data_root_spelled_in_any_way_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    root = tree(tmp_path / "a", "car", "dog")
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    start(first.format(root), tmp_path / "m")
    record = json.loads((tmp_path / "m/data_root.json").read_text())
    assert record == {"track1": os.path.realpath(root), "manifests": os.path.realpath(tmp_path / "m")}
    before = files(tmp_path / "m")
    for spelling in (f"{root}/", "a", "./a", "link", f"{tmp_path}/m/../a"):
        start(spelling, tmp_path / "m")
        assert files(tmp_path / "m") == before, spelling


def test_data_sets_of_one_name_never_meet(tmp_path: Path) -> None:
    made = {}
    folder = tmp_path / "m"
    for i, classes in enumerate((("car", "dog"), ("hen", "cow"), ("dog", "owl"), ("car", "dog"))):
        root = tree(tmp_path / str(i) / "nico", *classes)
        if i:
            with pytest.raises(
                ValueError,
                match=r"belongs to the data root .*manifest.rebuild=true, needed this once, makes them there",
            ):
                start(root, folder)
            with pytest.warns(UserWarning, match=r"belongs to the data root .*0/nico and is not used for"):
                made[root] = start(root, folder, rebuild=True)
        else:
            made[root] = start(root, folder)
    assert len({one.store.folder for one in made.values()}) == 4
    assert (
        made[tmp_path / "0/nico"].store.folder == folder and made[tmp_path / "1/nico"].store.folder == folder / "nico"
    )
    before = files(folder)
    for root, one in made.items():
        if one.store.folder == folder:
            again = start(root, folder)
        else:
            with pytest.warns(UserWarning, match="is not used for"):
                again = start(root, folder)
        assert (again.store.folder, again.classes, again.store.label_map) == (
            one.store.folder,
            one.classes,
            one.store.label_map,
        )
    assert files(folder) == before


def test_tracks_have_records_of_their_own(tmp_path: Path) -> None:
    a, b = tree(tmp_path / "a", "car", "dog"), tree(tmp_path / "b", "hen", "cow")
    start(a, tmp_path / "m", track=1)
    assert start(b, tmp_path / "m", track=2).store.folder == tmp_path / "m"
    record = json.loads((tmp_path / "m/data_root.json").read_text())
    assert record == {"track1": str(a), "track2": str(b), "manifests": str(tmp_path / "m")}


@pytest.mark.parametrize("check", [True, False])
def test_a_manifest_made_by_hand_is_adopted_by_the_root_that_it_fits_and_its_ids_count(
    tmp_path: Path, check: bool
) -> None:
    root, other = tree(tmp_path / "a", "car", "dog"), tree(tmp_path / "b", "hen", "cow")
    path = manifest(tmp_path / "m", root)
    text = path.read_bytes()
    with pytest.raises(ValueError, match="lists the images of another data root"):
        start(other, tmp_path / "m", check=check)
    assert set(files(tmp_path / "m")) == {path.name}
    assert start(root, tmp_path / "m", check=check).classes == ["dog", "car"]
    assert path.read_bytes() == text
    with pytest.raises(ValueError, match=f"belongs to the data root {root}"):
        start(other, tmp_path / "m", check=check)


def test_data_that_moved_take_their_manifests_along(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "car", "dog")
    path = manifest(tmp_path / "m", root)
    start(root, tmp_path / "m")
    shutil.move(root, tmp_path / "b")
    assert start(tmp_path / "b", tmp_path / "m").classes == ["dog", "car"]
    assert json.loads((tmp_path / "m/data_root.json").read_text())["track1"] == str(tmp_path / "b")
    shutil.move(tmp_path / "b", tmp_path / "c")
    os.unlink(tmp_path / "c" / read_manifest(path)[0].image_path)  # another data set, for all one knows
    with pytest.raises(ValueError, match="belongs to the data root"):
        start(tmp_path / "c", tmp_path / "m")


def test_a_project_that_is_copied_takes_its_manifests_along(tmp_path: Path) -> None:
    root = tree(tmp_path / "old/data", "car", "dog")
    manifest(tmp_path / "old/m", root)
    assert start(root, tmp_path / "old/m").classes == ["dog", "car"]
    start(root, tmp_path / "old/m", track=2)
    shutil.copytree(tmp_path / "old", tmp_path / "new")
    for own in (tmp_path / "new/data", root):  # the copy of the data, and what it is a copy of
        assert start(own, tmp_path / "new/m").classes == ["dog", "car"]
    start(tmp_path / "new/data", tmp_path / "new/m", track=2)
    other = tree(tmp_path / "third/data", "bird", "fish")
    with pytest.raises(ValueError, match="belongs to the data root"):
        start(other, tmp_path / "new/m")


def test_a_folder_that_may_only_be_read_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "a", "car", "dog")
    path = manifest(tmp_path / "m", root)

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("src.data.store.write_json", refuse)
    monkeypatch.setattr("src.data.store.write_record", refuse)
    assert start(root, tmp_path / "m").classes == ["dog", "car"]
    assert set(files(tmp_path / "m")) == {path.name}


@pytest.mark.parametrize("fault", ["split", "map", "twins", "no images"])
def test_a_start_that_fails_has_written_nothing(tmp_path: Path, fault: str) -> None:
    root = tree(tmp_path / "a", "car", "dog")
    words: dict[str, SplitRule] = {}
    if fault == "split":
        words["split"] = lambda rows, names: leave_context_out(rows, names, contexts=["x"], fraction=0.5, seed=0)
    elif fault == "map":
        (root / MAP).write_text('{"car": 0, "dog": 2}')
    elif fault == "twins":
        tree(root, "Car")
    else:
        shutil.rmtree(root / TRAIN)
    before = files(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError)):
        start(root, tmp_path / "m", **words)
    assert files(tmp_path) == before


@pytest.mark.parametrize("change", ["class added", "class removed", "class renamed", "context added", "image removed"])
def test_the_command_that_the_message_names_mends_it(tmp_path: Path, change: str) -> None:
    root = tree(tmp_path / "a", "car", "dog", "hen")
    start(root, tmp_path / "m")
    if change == "class added":
        tree(root, "ape")
    elif change == "context added":
        tree(root, "car", contexts=["rock"])
    elif change == "image removed":
        (root / TRAIN / "sea/dog/1.jpg").unlink()
    for context in ("dim", "sea"):
        if change == "class removed":
            shutil.rmtree(root / TRAIN / context / "dog")
        elif change == "class renamed":
            (root / TRAIN / context / "dog").rename(root / TRAIN / context / "wolf")
    with pytest.raises(ValueError, match=r"no longer matches its tree: .*; manifest.rebuild=true rewrites it"):
        start(root, tmp_path / "m")
    made = start(root, tmp_path / "m", rebuild=True)
    again = start(root, tmp_path / "m")
    assert again.classes == made.classes == sorted({path.name for path in (root / TRAIN).glob("*/*")})
    assert {row.image_path for row in again.rows} == {str(p.relative_to(root)) for p in (root / TRAIN).glob("*/*/*")}


def test_classes_without_an_image_to_learn_from_are_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "car", "dog")
    tree(root, "eel", contexts=["sea"])
    (root / MAP).write_text('{"car": 0, "dog": 1, "eel": 2, "fox": 3}')
    with (
        pytest.warns(UserWarning, match=f"^the class 'fox' of the label map {root / MAP} has no image$"),
        pytest.warns(UserWarning, match="^the class 'eel' of .* has images only in the held-out part"),
    ):
        start(root, tmp_path / "m", split=without_sea)


@pytest.mark.parametrize("ids", [(2002, 2016), (0, 2**62), (7, 3)])
def test_ids_of_contexts_may_have_gaps(tmp_path: Path, ids: tuple[int, int]) -> None:
    root = tree(tmp_path / "a", "car", "dog")
    path = manifest(tmp_path / "m", root)
    of = {"dim": ids[0], "sea": ids[1]}
    rows = [row._replace(domain=of[row.image_path.split("/")[1]]) for row in read_manifest(path)]
    write_manifest(path, rows)
    made = start(root, tmp_path / "m", split=without_sea)
    assert sorted(made.contexts) == ["dim", "sea"]
    assert all(made.contexts[row.domain] == row.image_path.split("/")[1] for row in made.rows)  # type: ignore[index]
    assert {made.rows[i].image_path.split("/")[1] for i in made.parts.out_of_domain} == {"sea"}


@pytest.mark.parametrize(("key", "value"), [("domain", True), ("domain", 2.0), ("domain", -1), ("domain", 10**30),
                                            ("label", False), ("label", -1), ("label", 1.5)])  # fmt: skip
def test_ids_are_whole_numbers(tmp_path: Path, key: str, value: object) -> None:
    root = tree(tmp_path / "a", "car", "dog")
    path = manifest(tmp_path / "m", root, **{key: value})
    with pytest.raises(ValueError, match=f"entry 0 of {path} has the {key} "):
        start(root, tmp_path / "m")


def test_class_folders_that_are_all_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    assert start(tree(tmp_path / "a", "10", "2", "0", "1"), tmp_path / "m").classes == ["0", "1", "2", "10"]
    assert start(tree(tmp_path / "b", "10", "2", "x"), tmp_path / "n").classes == ["10", "2", "x"]


def test_a_label_map_with_a_key_twice_is_refused_by_name(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "car", "dog")
    (root / MAP).write_text('{"car": 0, "dog": 1, "car": 2}')
    with pytest.raises(ValueError, match=rf"{MAP} .*the key 'car' appears twice in an object"):
        start(root, tmp_path / "m")


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("spell", ["/", "./", "//", "/./"])
@pytest.mark.parametrize("key", [None, "label", "domain"])
def test_an_image_that_is_listed_twice_is_refused(tmp_path: Path, check: bool, spell: str, key: str | None) -> None:
    root = tree(tmp_path / "a", "car", "dog")
    path = manifest(tmp_path / "m", root)
    rows = json.loads(path.read_text())
    double = {**rows[0], "image_path": rows[0]["image_path"].replace("/", spell)}
    if spell == "./":
        double["image_path"] = f"./{rows[0]['image_path']}"
    if key:
        double[key] = 1 - rows[0][key]
    path.write_text(json.dumps([*rows, double, double]))
    with pytest.raises(ValueError, match=rf"{path} lists 1 image\(s\) more than once .*entries 0 and {len(rows)}.*"
                       + (f"the {key} " if key else "") + ".*manifest.rebuild=true"):  # fmt: skip
        start(root, tmp_path / "m", check=check)
    assert len(start(root, tmp_path / "m", rebuild=True).rows) == len(rows)


def test_a_mask_manifest_with_an_image_twice_names_the_stage_that_makes_it(tmp_path: Path) -> None:
    root = tree(tmp_path / "a", "car", "dog")
    rows = start(root, tmp_path / "m").rows
    masks = tmp_path / "masks.json"
    write_manifest(masks, [*rows, rows[0]])
    with pytest.raises(ValueError, match=rf"{masks} lists 1 image\(s\) more than once .*make the masks again with"):
        start(root, tmp_path / "m", masks=str(masks))
