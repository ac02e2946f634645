import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from src.files import digest_of
from src.prediction import class_activation, gather
from tests.conftest import command

Predict = Callable[..., Path]


def kept(results: Path, run: Path, images: str = "test") -> dict[str, np.ndarray]:
    with np.load(results / f"members/baseline/{run.name}.{images}.npz") as file:
        return dict(file)


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
    strategy = SimpleNamespace(barrier=lambda name: None)
    return SimpleNamespace(world_size=ranks, global_rank=rank, is_global_zero=rank == 0, strategy=strategy)


def test_rows_of_all_ranks_come_in_the_images_order_and_none_is_missing(tmp_path: Path) -> None:
    def batch(*places: int) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(places), torch.tensor(places).float()[None, :, None].expand(2, -1, 3)

    shares = [[batch(0, 2), batch(4)], [batch(1, 3)]]
    assert gather(trainer_of(1, 2), tmp_path, shares[1], 5) is None
    made = gather(trainer_of(0, 2), tmp_path, shares[0], 5)
    assert made is not None and made.shape == (2, 5, 3) and made[1, :, 2].tolist() == [0, 1, 2, 3, 4]
    assert not list(tmp_path.iterdir())
    with pytest.raises(
        ValueError, match=r"\.rank1\.npz is missing: results_dir must be a folder that all machines share"
    ):
        gather(trainer_of(0, 2), tmp_path, shares[0], 5)
    for places in ((0, 1, 3), (0, 1, 1)):
        with pytest.raises(ValueError, match="3 rows came back for 3 images"):
            gather(trainer_of(0, 1), tmp_path, [batch(*places)], 3)


def test_members_together_are_members_alone(two_members: list[Path], predict: Predict) -> None:
    together = [kept(predict(), run)["probabilities"] for run in two_members]
    shutil.rmtree(two_members[0].parents[3] / "results")
    results = predict("members_at_once=1")
    for run, probabilities in zip(two_members, together, strict=True):
        assert np.array_equal(kept(results, run)["probabilities"], probabilities)
        assert probabilities.dtype == np.float32 and np.allclose(probabilities.sum(1), 1, atol=1e-5)
    assert not np.array_equal(*together)


def test_flip_is_the_mean_of_the_logits_of_both_sides(two_members: list[Path], predict: Predict, data: Path) -> None:
    from src.members import read_member, rebuild

    mirrored = kept(predict("tta=flip"), two_members[0])["probabilities"]
    member = read_member(two_members[0])
    assert not isinstance(member, str)
    from src.datamodules.nico import Images
    from src.manifest import Row
    from src.transforms import Evaluate

    root = data / "data/public_dg_0416/public_test_flat"
    rows = [Row(path.name) for path in sorted(root.iterdir())[:4]]
    images = Images(rows, root, None, Evaluate(32, crop_pct=0.95), 0)
    pixels = torch.stack([torch.from_numpy(images[0, i].image) for i in range(4)]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        network = rebuild(member)
        expected = ((network(pixels) + network(pixels.flip(3))) / 2).softmax(1)
    assert np.allclose(mirrored[:4], expected, atol=1e-5)


def test_what_was_kept_is_made_anew_when_anything_changed(
    two_members: list[Path], predict: Predict, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def made_anew(*words: str) -> int:
        capsys.readouterr()
        predict(*words)
        printed = capsys.readouterr().out
        assert printed.count("(predictions kept)") + printed.count("(changed: made anew)") == 2
        return printed.count("(changed: made anew)")

    root = tmp_path / "data"
    shutil.copytree(data / "data", root)
    words = [f"data_root={root}"]
    predict(*words)
    assert made_anew(*words) == 0
    assert made_anew(*words, "vote=soft") == 0
    assert made_anew(*words, "tta=flip") == 2
    assert made_anew(*words, "tta=mixing") == 2
    assert made_anew(*words, "tta=mixing", "tta.lam=0.02") == 2
    assert made_anew(*words) == 2
    image = sorted((root / "public_dg_0416/public_test_flat").iterdir())[0]
    image.write_bytes(image.read_bytes() + b" ")
    assert made_anew(*words) == 2


def test_a_member_that_predicts_nan(two_members: list[Path], predict: Predict) -> None:
    path = two_members[1] / "weights.safetensors"
    state = load_file(path)
    state["head.bias"][0] = torch.nan
    save_file(state, path)
    done = json.loads((two_members[1] / "finished.json").read_text())
    (two_members[1] / "finished.json").write_text(json.dumps({**done, "weights_sha256": digest_of(path)}))
    with pytest.raises(SystemExit, match="error: the member .*seed1 predicts NaN: remove the run or train it again"):
        predict()


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.head = nn.Module(), nn.Linear(2, 3)
        self.mean, self.std = torch.zeros(3, 1, 1), torch.ones(3, 1, 1)
        self.backbone.forward_features = lambda image: image[:, :2]
        with torch.no_grad():
            self.head.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]]))


def test_class_activation_by_hand() -> None:
    image = torch.zeros(3, 3, 2, 2)
    image[0, 0] = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    image[1, 0], image[1, 1] = 9.0, torch.tensor([[0.0, 0.5], [0.0, 0.0]])
    image[2, 0] = 1.0
    maps = class_activation(Network(), image, torch.tensor([0, 1, 2]))
    assert maps is not None
    assert maps[0].tolist() == [[0.25, 0.5], [0.0, 1.0]]
    assert maps[1].tolist() == [[0.0, 1.0], [0.0, 0.0]]
    assert not maps[2].any()  # nothing speaks for class 2
    network = Network()
    network.backbone.forward_features = lambda image: image.flatten(2).transpose(1, 2)  # tokens
    assert class_activation(network, image, torch.tensor([0, 1, 2])) is None


def test_a_folder_of_images(
    two_members: list[Path], predict: Predict, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = sorted((data / "data/public_dg_0416/public_test_flat").glob("*.jpg"))[:3]
    folder = tmp_path / "mine"
    (folder / "more").mkdir(parents=True)
    for path in source:
        shutil.copy(path, folder / "more")
    results = predict(f"images={folder}", "top=3")
    lines = (results / "images.csv").read_text().splitlines()
    assert lines[0] == "file,label,class,class_1,probability_1,class_2,probability_2,class_3,probability_3"
    assert [line.split(",")[0] for line in lines[1:]] == [f"more/{path.name}" for path in source]
    assert not (results / "prediction.json").exists()
    # The same images as in the test set, the same prediction.
    whole = json.loads((predict() / "prediction.json").read_text())
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
