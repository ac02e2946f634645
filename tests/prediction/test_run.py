import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file

import predict as predict_script
from src import cli
from src.prediction.kept import Task, store, stored
from src.prediction.run import collect
from tests.conftest import command, sign

Predict = Callable[..., Path]


def kept(results: Path, run: Path, images: str = "test") -> dict[str, np.ndarray]:
    with np.load(results / f"members/baseline/{run.name}.{images}.npz") as file:
        return dict(file)


@pytest.mark.slow
def test_predictions_do_not_depend_on_batch_size_or_number_of_processes(
    two_members: list[Path], predict: Predict, places: list[str], tmp_path: Path
) -> None:
    labels, made = [], []
    for size in (1, 7, 64):
        results = predict(f"datamodule.batch_size={size}", "tta=mixing")
        labels.append((results / "prediction.json").read_text())
        made.append(kept(results, two_members[0]))
        shutil.rmtree(results)
    words = ["track=1", "ensemble=baselines", "scale=demo", *places, f"results_dir={tmp_path / 'two'}", "tta=mixing"]
    done = command("predict.py", *words, "trainer=ddp_cpu", "datamodule.num_workers=0")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("wrote ") == done.stdout.count("member 1 of 2") == 1  # one process speaks
    labels.append((tmp_path / "two/track1/prediction.json").read_text())
    made.append(kept(tmp_path / "two/track1", two_members[0]))
    assert not list((tmp_path / "two").rglob(".rank*"))
    assert len(set(labels)) == 1
    for other in made[1:]:
        assert other["names"].tolist() == made[0]["names"].tolist()
        # A batch of one takes another path through the convolutions: the last bits differ.
        assert np.allclose(other["probabilities"], made[0]["probabilities"], atol=1e-5)


def trainer_of(rank: int, ranks: int) -> SimpleNamespace:
    strategy = SimpleNamespace(barrier=lambda name: None, broadcast=lambda word: "call")
    return SimpleNamespace(world_size=ranks, global_rank=rank, is_global_zero=rank == 0, strategy=strategy)


def test_rows_of_all_ranks_come_in_the_images_order_and_none_is_missing(tmp_path: Path) -> None:
    def batch(*places: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(places), torch.tensor(places).float()[None, :, None].expand(2, -1, 3)

    shares = [[batch(0, 2), batch(4)], [batch(1, 3)]]
    assert collect(trainer_of(1, 2), tmp_path, shares[1], 5) is None
    made = collect(trainer_of(0, 2), tmp_path, shares[0], 5)
    assert made is not None and made.shape == (2, 5, 3) and made[1, :, 2].tolist() == [0, 1, 2, 3, 4]
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        ValueError, match=r"\.rank1-call\.npz is missing: results_dir must be a folder that all machines share"
    ):
        collect(trainer_of(0, 2), tmp_path, shares[0], 5)
    for places in ((0, 1, 3), (0, 1, 1)):
        with pytest.raises(ValueError, match="3 rows came back for 3 images"):
            collect(trainer_of(0, 1), tmp_path, [batch(*places)], 3)


def test_two_predictions_at_once_do_not_take_each_others_rows(tmp_path: Path) -> None:
    def batch(value: float, *places: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(places), torch.full((1, len(places), 2), value)

    def trainer(rank: int, call: str) -> SimpleNamespace:
        one = trainer_of(rank, 2)
        one.strategy.broadcast = lambda word: call
        return one

    collect(trainer(1, "a"), tmp_path, [batch(1.0, 1)], 2)
    collect(trainer(1, "b"), tmp_path, [batch(2.0, 1)], 2)
    for call, value in (("a", 1.0), ("b", 2.0)):
        made = collect(trainer(0, call), tmp_path, [batch(value, 0)], 2)
        assert made is not None and (made == value).all()


def test_members_together_are_members_alone(two_members: list[Path], predict: Predict) -> None:
    together = [kept(predict(), run)["probabilities"] for run in two_members]
    shutil.rmtree(two_members[0].parents[3] / "results")
    results = predict("members_at_once=1")
    for run, probabilities in zip(two_members, together, strict=True):
        assert np.array_equal(kept(results, run)["probabilities"], probabilities)
        assert probabilities.dtype == np.float32 and np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert not np.array_equal(*together)


def test_flip_is_the_mean_of_the_logits_of_both_sides(two_members: list[Path], predict: Predict, data: Path) -> None:
    from src.prediction.members import read_member, rebuild

    mirrored = kept(predict("tta=flip"), two_members[0])["probabilities"]
    member = read_member(two_members[0])
    assert not isinstance(member, str)
    from src.data.datasets import Images
    from src.data.manifest import Row
    from src.transforms import Evaluate

    root = data / "data/public_dg_0416/public_test_flat"
    rows = [Row(path.name) for path in sorted(root.iterdir())[:4]]
    images = Images(rows, root, None, Evaluate(32, crop_pct=0.95), 0)
    pixels = torch.stack([torch.from_numpy(images[0, i].pixels[0]) for i in range(4)]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        network = rebuild(member)
        expected = ((network(pixels) + network(pixels.flip(3))) / 2).softmax(1)
    assert np.allclose(mirrored[:4], expected, atol=1e-5)


def test_what_was_kept_is_made_again_when_anything_changed(
    two_members: list[Path], predict: Predict, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def made_again(*words: str) -> int:
        capsys.readouterr()
        predict(*words)
        printed = capsys.readouterr().out
        assert printed.count("(predictions kept)") + printed.count("(changed: predicting again)") == 2
        return printed.count("(changed: predicting again)")

    root = tmp_path / "data"
    shutil.copytree(data / "data", root)
    words = [f"data_root={root}"]
    predict(*words)
    assert made_again(*words) == 0
    assert made_again(*words, "vote=soft") == 0
    assert made_again(*words, "tta=flip") == 2
    assert made_again(*words, "tta=mixing") == 2
    assert made_again(*words, "tta=mixing", "tta.lam=0.02") == 2
    assert made_again(*words) == 2
    image = sorted((root / "public_dg_0416/public_test_flat").iterdir())[0]
    image.write_bytes(image.read_bytes() + b" ")
    assert made_again(*words) == 2


def test_a_member_that_predicts_nan(
    two_members: list[Path], predict: Predict, capsys: pytest.CaptureFixture[str]
) -> None:
    path = two_members[1] / "weights.safetensors"
    state = load_file(path)
    state["head.bias"][0] = torch.nan
    save_file(state, path)
    sign(two_members[1])
    predict()
    assert f"left out {two_members[1]}: it predicts NaN: remove the run or train it again" in capsys.readouterr().out
    shutil.rmtree(two_members[0])
    with pytest.raises(SystemExit, match="error: no member could predict; the first one, .*: it predicts NaN"):
        predict()


def test_a_network_that_cannot_look_at_the_images_does_not_stop_the_others(
    two_members: list[Path], predict: Predict, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from src.lightning_modules.classifier import Network as Rebuilt

    alone = json.loads((predict() / "members/baseline" / f"{two_members[0].name}.json").read_text())
    for path in (two_members[0].parents[3] / "results").rglob("*.npz"):
        path.unlink()
    forward, second = Rebuilt.forward, load_file(two_members[1] / "weights.safetensors")["head.bias"]

    def fails(network: Rebuilt, image: torch.Tensor) -> torch.Tensor:
        if torch.equal(network.head.bias, second):
            raise RuntimeError("Calculated padded input size per channel: (1 x 1)")
        return forward(network, image)

    monkeypatch.setattr(Rebuilt, "forward", fails)
    capsys.readouterr()
    results = predict()
    assert f"left out {two_members[1]}: Calculated padded input" in capsys.readouterr().out
    assert json.loads((results / "prediction.json").read_text()) == alone


def test_a_damaged_byte_of_kept_predictions_is_never_used(tmp_path: Path) -> None:
    task = Task(None, [], tmp_path / "kept.npz", "k" * 64)  # type: ignore[arg-type] # the member is not looked at
    probabilities = np.linspace(0, 1, 16, dtype=np.float32).reshape(2, 8)
    store(task, ["a.jpg", "b.jpg"], probabilities)
    whole = task.path.read_bytes()
    assert np.array_equal(stored(task), probabilities)  # type: ignore[arg-type] # it is there
    for place in range(len(whole)):
        task.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        kept = stored(task)
        assert kept is None or np.array_equal(kept, probabilities), place


@pytest.mark.slow
def test_an_image_that_cannot_be_read_stands_in_nobodys_way(
    two_members: list[Path], predict: Predict, data: Path, places: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(data / "data", root)
    words = [f"data_root={root}", f"truth={data / 'truth/track1_test_truth.json'}", "report=true"]
    results = predict(*words)
    whole = kept(results, two_members[0])["probabilities"]
    files = sorted((root / "public_dg_0416/public_test_flat").iterdir())
    for path, content in ((files[3], files[3].read_bytes()[:200]), (files[7], b"")):
        path.write_bytes(content)
    with pytest.raises(SystemExit, match=rf"error: 2 of {len(files)} test images cannot be read \({files[3].name}, "):
        predict(*words)
    prediction = json.loads((results / "prediction.json").read_text())
    assert sorted(prediction) == sorted(path.name for path in files)
    bad = [files[3].name, files[7].name]
    assert json.loads((results / "bad_images.json").read_text()) == bad
    assert json.loads((results / "ensemble.json").read_text())["unreadable"] == bad
    rows = kept(results, two_members[0])["probabilities"]
    others = np.delete(np.arange(len(files)), [3, 7])
    assert (rows[[3, 7]] < 0).all() and np.allclose(rows[others], whole[others], atol=1e-6)
    members = [json.loads((results / f"members/baseline/{run.name}.json").read_text()) for run in two_members]
    assert members[0][bad[0]] == rows[others].mean(0).argmax()  # a guess: the member's mean over the others
    # Whoever wants no guess gets nothing written.
    (results / "prediction.json").unlink()
    for strict in ("datamodule.on_bad_image=stop", "datamodule.max_bad_share=0.01"):
        with pytest.raises(
            SystemExit, match=rf"2 of {len(files)} images cannot be read .*nothing is written .{strict}"
        ):
            predict(*words, strict)
        assert not (results / "prediction.json").exists()
    # In two processes the same; a repaired file has its own prediction again.
    done = command("predict.py", "track=1", "ensemble=baselines", "scale=demo", *places, *words[:2], "trainer=ddp_cpu",
                   f"results_dir={tmp_path / 'two'}", "datamodule.num_workers=0")  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr and "2 of " in done.stderr
    assert json.loads((tmp_path / "two/track1/prediction.json").read_text()) == prediction
    for i in (3, 7):
        shutil.copy(data / "data/public_dg_0416/public_test_flat" / files[i].name, files[i])
    predict(*words)
    assert np.allclose(kept(results, two_members[0])["probabilities"], whole, atol=1e-6)
    assert not (results / "bad_images.json").exists()


def test_what_stood_in_an_images_way_need_not_be_its_file(
    two_members: list[Path], predict: Predict, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(data / "data", root)
    large = min((root / "public_dg_0416/public_test_flat").iterdir())
    cv2.imwrite(str(large), np.full((600, 500, 3), 90, np.uint8))
    words = [f"data_root={root}", f"truth={data / 'truth/track1_test_truth.json'}"]
    with pytest.raises(SystemExit, match=rf"1 of \d+ test images cannot be read \({large.name}\)"):
        predict(*words, "datamodule.max_pixels=299999")
    assert f"{large} has 500x600 pixels, more than datamodule.max_pixels=299999: " in capsys.readouterr().out
    with pytest.raises(SystemExit, match="1 of"):
        predict(*words, "datamodule.max_pixels=299999")
    assert "changed: predicting again" not in capsys.readouterr().out  # kept, as nothing changed
    results = predict(*words, "datamodule.max_pixels=300000")
    assert "changed: predicting again" in capsys.readouterr().out and not (results / "bad_images.json").exists()
    assert (kept(results, two_members[0])["probabilities"] >= 0).all()


def test_held_out_images_that_cannot_be_read_are_left_out_of_the_figures(
    two_members: list[Path], predict: Predict, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    shutil.copytree(data / "data", root)
    held_out = json.loads((two_members[0] / "split.json").read_text())["in_domain"]
    (root / held_out[0]).write_bytes(b"")
    for words in ((), ("ensemble=greedy", "ensemble.stages=[baseline]")):
        results = predict(f"data_root={root}", f"truth={data / 'truth/track1_test_truth.json'}", *words)
        assert f"1 images of in_domain could not be read (first: {held_out[0]}): skipped" in capsys.readouterr().out
        figures = json.loads((results / "figures.json").read_text())
        assert figures["in_domain"]["images"] == len(held_out) - 1


def test_a_training_image_that_cannot_be_read_is_not_mixed_in(
    two_members: list[Path], predict: Predict, data: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(data / "data", root)
    trained_on = json.loads((two_members[0] / "split.json").read_text())["train"]
    (root / trained_on[0]).write_bytes(b"")
    words = [f"data_root={root}", "tta=mixing", "tta.bank=100000"]
    with pytest.warns(UserWarning, match=f"1 training images cannot be read and are not mixed in .{trained_on[0]}"):
        results = predict(*words)
    assert (kept(results, two_members[0])["probabilities"] >= 0).all()


def test_not_one_image_can_be_read(two_members: list[Path], predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/cut.jpg").write_text("x")
    with pytest.raises(SystemExit, match=r"error: none of the 1 images below .* can be read \(first: cut.jpg\)"):
        predict(f"images={tmp_path / 'empty'}")


def test_a_folder_of_images(
    two_members: list[Path], predict: Predict, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = sorted((data / "data/public_dg_0416/public_test_flat").glob("*.jpg"))[:3]
    folder = tmp_path / "mine"
    (folder / "more").mkdir(parents=True)
    for path in source:
        shutil.copy(path, folder / "more")
    # The adaptive vote weighs members by all images that it sees; the mean probability looks at one image alone.
    results = predict(f"images={folder}", "top=3", "vote=soft")
    lines = (results / "images.csv").read_text().splitlines()
    assert lines[0] == "file,label,class,class_1,probability_1,class_2,probability_2,class_3,probability_3"
    assert [line.split(",")[0] for line in lines[1:]] == [f"more/{path.name}" for path in source]
    assert not (results / "prediction.json").exists()
    # The same images as in the test set, the same prediction.
    whole = json.loads((predict("vote=soft") / "prediction.json").read_text())
    assert [int(line.split(",")[1]) for line in lines[1:]] == [whole[path.name] for path in source]
    (folder / "cut.jpg").write_bytes(source[0].read_bytes()[:200])
    output = tmp_path / "out/answer.json"
    with pytest.raises(
        SystemExit, match=r"error: 1 of 4 images cannot be decoded and are left out of .*: cut.jpg"
    ) as end:
        predict(f"images={folder}", f"output={output}")
    assert end.value.code != 0
    rows = json.loads(output.read_text())
    assert len(rows) == 3 and set(rows[0]) == {"file", "label", "class", "top"} and len(rows[0]["top"]) == 5
    shares = [entry["probability"] for entry in rows[0]["top"]]
    assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1.00001
    with pytest.raises(SystemExit, match="error: output=x.txt: expected a name that ends in .csv or .json"):
        predict(f"images={folder}", "output=x.txt")
    with pytest.raises(SystemExit, match="error: images= only predicts"):
        predict(f"images={folder}", "report=true")


def test_without_test_images_the_held_out_ones_stand_in(
    configure: Callable[..., DictConfig], train_run: Callable[..., Path], data: Path, places: list[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    shutil.copytree(data / "data/public_dg_0416/train", tmp_path / "birds")
    found = ["track=found", f"data_root={tmp_path / 'birds'}"]
    words = ["ensemble=baselines", "scale=demo", *places[1:], *found, f"results_dir={tmp_path / 'results'}"]

    def predicted(*more: str) -> dict[str, Any]:
        with cli.clear_errors():
            predict_script.predict(configure("predict", *words, "datamodule.num_workers=0", *more))
        return json.loads((tmp_path / "results/birds/figures.json").read_text())

    run = train_run(*found, "stage=baseline", "trainer.max_epochs=1")
    held_out = json.loads((run / "split.json").read_text())["in_domain"]
    figures = predicted()
    assert set(figures) == {"test"} and figures["test"]["images"] == len(held_out)
    assert set(json.loads((tmp_path / "results/birds/prediction.json").read_text())) == set(held_out)
    said = capsys.readouterr().out
    assert "no test images: the figures called test are of the images held out from the training contexts" in said
    with pytest.raises(SystemExit, match="truth= labels test images, and there are none"):
        predicted("truth=labels.json")
    with pytest.raises(SystemExit, match="ensemble.select=greedy chooses on the held-out images"):
        predicted("ensemble=greedy", "ensemble.stages=[baseline]")
    run = train_run(
        *found, "stage=baseline", "trainer.max_epochs=1", "split=leave_context_out", "split.contexts=[rock]"
    )
    left_out = json.loads((run / "split.json").read_text())["out_of_domain"]
    figures = predicted("ensemble.split=leave_context_out*")
    assert figures["test"]["images"] == len(left_out) and "in_domain" in figures
    shutil.rmtree(tmp_path / "logs")
    train_run(*found, "stage=baseline", "trainer.max_epochs=1", "split=none")
    with pytest.raises(SystemExit, match="birds has no test images, and members hold out none .*images=<folder>"):
        predicted()
