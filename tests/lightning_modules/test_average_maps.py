"""Stage average_maps: what is averaged, what the run hands on, and which runs are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from src import cli
from src.data.batch import FullSizeBatch
from src.data.manifest import read_manifest
from src.data.mask_files import decode_mask
from src.files import digest_of
from src.lightning_modules.average_maps import AverageMaps
from src.prediction.members import read_network
from tests.conftest import masks_by_two_processes, sign

Train = Callable[..., Path]
QUICK = ("crf=none", "callbacks.masks.processes=1")
WSSS = ("track=1", "stage=wsss", "datamodule.batch_size=16", "trainer.max_epochs=1", *QUICK)
MEAN = ("track=1", "stage=average_maps", "trainer.max_epochs=0", *QUICK)


class Known(nn.Module):
    """Something with maps, the same for each batch."""

    def __init__(self, *maps: list[list[float]]) -> None:
        super().__init__()
        self.maps, self.map_settings = [torch.tensor(one) for one in maps], {"normalise": "range"}

    def predict_step(self, batch: Any, batch_idx: int) -> list[torch.Tensor]:
        return self.maps


@pytest.fixture
def wsss(two_members: list[Path], train_run: Train) -> Path:
    """A finished run of wsss, of the first of two baselines."""
    return train_run(*WSSS)


def copied(run: Path, name: str = "copy") -> Path:
    """A run of the same numbers beside `run`; its file of weights differs, as a copied network counts once."""
    copy = Path(shutil.copytree(run, run.with_name(name)))
    weights = copy / "weights.safetensors"
    save_file(load_file(weights), weights, {"name": name})
    sign(copy)
    return copy


def made(run: Path) -> dict[str, bytes]:
    rows = read_manifest(run / "track1_train_with_mask_label.json")
    return {row.image_path: (run / str(row.image_seg_path)).read_bytes() for row in rows}


def test_the_mean_of_two_known_maps() -> None:
    module = AverageMaps()
    module.networks.extend(
        [Known([[0.0, 1.0], [0.5, 0.25]], [[0.25, 0.5, 1.0]]), Known([[1.0, 1.0], [0.0, 0.75]], [[0.75, 0.0, 0.5]])]
    )
    first, second = module.predict_step(None, 0)
    assert first.tolist() == [[0.5, 1.0], [0.25, 0.5]] and second.tolist() == [[0.5, 0.25, 0.75]]
    assert module.map_settings == {"networks": [{"normalise": "range"}] * 2}
    with pytest.raises(ValueError, match="stage=average_maps has no networks: name finished runs of wsss"):
        AverageMaps().predict_step(None, 0)


@pytest.mark.slow
def test_a_network_is_read_as_its_run_ended_sign_included(wsss: Path) -> None:
    trained = torch.load(wsss / "last.ckpt", weights_only=True)["state_dict"]
    network = read_network(wsss)
    state = network.state_dict()
    assert state.keys() == trained.keys() and all(torch.equal(state[key], trained[key]) for key in state)
    assert not any(part.training for part in network.modules())
    metrics = json.loads((wsss / "finished.json").read_text())["metrics"]
    sign(wsss, metrics={**metrics, "sign/inverted": 1 - metrics["sign/inverted"]})
    image = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(read_network(wsss)(image), 1 - network(image))


@pytest.mark.slow
def test_the_mean_of_a_run_and_its_copy_has_the_runs_masks(wsss: Path, train_run: Train) -> None:
    copy = copied(wsss)
    run = train_run(*MEAN)
    assert run.parts[-2:] == ("average_maps", "holdout-seed0") and made(run) == made(wsss)
    # What it hands on: the networks, and the images that they saw.
    config, split = (yaml.safe_load((run / name).read_text()) for name in ("config.yaml", "split.json"))
    assert config["networks"] == [str(copy), str(wsss)]
    assert split["maps_from"] == [digest_of(one / "weights.safetensors") for one in (copy, wsss)]
    assert "taught_by" not in split
    own, theirs = load_file(run / "weights.safetensors"), load_file(wsss / "weights.safetensors")
    assert all(torch.equal(own[f"networks.{i}.{key}"], value) for i in (0, 1) for key, value in theirs.items())
    trained = train_run(
        "track=1", "stage=finetune", "init=none", "before_masks.stage=average_maps", "trainer.max_epochs=1"
    )
    manifest = yaml.safe_load((trained / "config.yaml").read_text())["masks"]
    assert manifest == str(run / "track1_train_with_mask_label.json")
    assert json.loads((trained / "split.json").read_text())["masks_from"] == digest_of(run / "weights.safetensors")
    train_run(*MEAN, "resume=true")  # finished: nothing to do

    # Another map among them is another mean: half of a map and of its opposite is .5 everywhere.
    metrics = json.loads((wsss / "finished.json").read_text())["metrics"]
    sign(wsss, metrics={**metrics, "sign/inverted": 1 - metrics["sign/inverted"]})
    both = read_network(wsss), read_network(copy)
    batch = FullSizeBatch(torch.rand(1, 3, 64, 64), torch.tensor([40]), torch.tensor([64]), torch.tensor([0]))
    module = AverageMaps()
    module.networks.extend(both)
    with torch.no_grad():
        mean = module.predict_step(batch, 0)[0]
        assert mean.shape == (40, 64)
        torch.testing.assert_close(2 * mean, sum(network.predict_step(batch, 0)[0] for network in both))


@pytest.mark.slow
def test_runs_that_are_refused(wsss: Path, train_run: Train, data: Path, tmp_path: Path) -> None:
    def refused(*words: str) -> str:
        with pytest.raises(SystemExit) as end, cli.clear_errors():
            train_run(*MEAN, *words)
        said = str(end.value.code)
        assert said.startswith("error: ") and "\n" not in said
        return said

    again = Path(shutil.copytree(wsss, wsss.with_name("again")))
    assert f"the runs {again} and {wsss} have the same weights, and one network would count twice" in refused()
    shutil.rmtree(again)
    track = wsss.parents[1]
    baseline = min((track / "baseline").iterdir())
    assert f"at least two runs are needed, and networks= names {wsss}: name finished runs with networks=" in refused()
    there = f"(there are wsss/{wsss.name})"
    assert f"networks=baseline/* fits no run of wsss with split=holdout in {track} {there}" in refused(
        "networks=[baseline/*]"
    )
    said = refused(f"networks=[{wsss},{baseline}]")
    assert f"the maps of {baseline} cannot be averaged (it is no run of wsss): leave it out" in said

    copy = copied(wsss)
    parts = json.loads((copy / "split.json").read_text())
    other = {**parts, "train": ["elsewhere/1.jpg"], "trained_on_before": []}
    (copy / "split.json").write_text(json.dumps(other))
    sign(copy)
    assert f"the run {copy} was trained on another data set: none of its images is in this one" in refused()
    (copy / "split.json").write_text(json.dumps({**parts, "train": [*parts["train"], parts["in_domain"][0]]}))
    sign(copy)
    assert f"the run {copy} was trained on 1 images that this run holds out" in refused()
    (copy / "split.json").write_text(json.dumps(parts))

    metrics = json.loads((copy / "finished.json").read_text())["metrics"]
    sign(copy, metrics={key: value for key, value in metrics.items() if key != "sign/inverted"})
    assert f"the maps of {copy} cannot be averaged (it lacks the decision on its sign)" in refused()
    sign(copy, metrics=metrics)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    for harm in ({"_target_": "os.system"}, {"_target_": "timm.create_model", "model_name": "hf-hub:them/net"}):
        module = {**config["module"], "backbone": {**config["module"]["backbone"], **harm}}
        (copy / "config.yaml").write_text(yaml.safe_dump({**config, "module": module}))
        sign(copy)
        assert f"the maps of {copy} cannot be averaged (its settings name " in refused()
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    sign(copy)
    state = load_file(copy / "weights.safetensors")
    save_file({**state, "head.1.bias": state["head.1.bias"] + 1}, copy / "weights.safetensors")
    assert f"{copy}/weights.safetensors is damaged" in refused()
    (copy / "finished.json").unlink()
    assert f"the run {copy} is not finished (resume=true continues a run)" in refused()


@pytest.mark.slow
def test_two_processes_write_the_same_masks(wsss: Path, train_run: Train, places: list[str]) -> None:
    train_run(*WSSS, "seed=1")
    run = train_run(*MEAN)
    alone = made(run)
    assert alone != made(wsss)
    assert f"making {len(alone)} masks" in masks_by_two_processes(run, *places, *MEAN)
    together = made(run)
    assert together.keys() == alone.keys()

    def mask(content: bytes) -> np.ndarray:
        path = run / "one.png"
        path.write_bytes(content)
        return decode_mask(path)

    assert all(np.mean(mask(alone[path]) == mask(together[path])) > 0.999 for path in alone)
