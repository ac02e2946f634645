"""Stage distil: what the student is taught, by whom, and which teachers are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import yaml
from safetensors.torch import load_file, save_file

from src import cli
from src.callbacks.preemption import Preemption
from src.data.batch import Batch
from src.lightning_modules.classifier import Network
from src.lightning_modules.distillation import Distillation, Teacher, resized
from src.losses import distillation
from src.mixing import Settings
from src.mixing.mixup import Mixup
from src.mixing.none import NoMixing
from tests.conftest import sign

Train = Callable[..., Path]
SHORT = ("track=1", "stage=distil", "teachers=[baseline/*]")

ALL: Settings = {"probability": 1.0, "per_image": False, "until": 1.0}


def backbone() -> torch.nn.Module:
    return timm.create_model("resnet10t", num_classes=0, channels=[8, 8, 16, 16], stem_width=8)


def make(mixing: object, **changes: Any) -> Distillation:
    torch.manual_seed(0)
    settings = {"temperature": 2.0, "label_smoothing": 0.0, **changes}
    module = Distillation(
        backbone=backbone(), mixing=mixing, num_classes=5, contexts=[], mean=[0.5] * 3, std=[0.25] * 3,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.ConstantLR(optimizer), **settings,
    )  # fmt: skip
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    return module


def network() -> Network:
    return Network(backbone=backbone(), num_classes=5, mean=[0.4] * 3, std=[0.2] * 3).eval()


def batch() -> Batch:
    torch.manual_seed(1)
    position = torch.arange(6)
    return Batch(torch.rand(6, 3, 32, 32), position % 5, position % 2, position)


def test_teachers_label_the_pixels_that_the_student_sees_at_their_own_size() -> None:
    module = make(Mixup(alpha=2.0, **ALL))
    module.teachers = Teacher(network(), 32), Teacher(network(), 48)
    torch.manual_seed(3)
    loss = module.training_step(batch(), 0)
    torch.manual_seed(3)
    mixed = module.mixing(batch()).image
    assert not torch.equal(mixed, batch().image)
    larger = torch.nn.functional.interpolate(mixed, size=(48, 48), mode="bilinear", antialias=True)
    logits = torch.stack([module.teachers[0].network(mixed), module.teachers[1].network(larger)])
    torch.testing.assert_close(loss, distillation(make(Mixup(alpha=2.0, **ALL))(mixed), logits, 2.0))
    assert resized(mixed, 32) is mixed and resized(mixed, 8).shape == (6, 3, 8, 8)


def test_teachers_of_one_size_share_the_resized_images(monkeypatch: pytest.MonkeyPatch) -> None:
    module, sizes = make(NoMixing(**ALL)), []
    module.teachers = Teacher(network(), 48), Teacher(network(), 32), Teacher(network(), 48)
    image = batch().image
    expected = torch.stack([teacher.network(resized(image, teacher.size)) for teacher in module.teachers])
    monkeypatch.setattr(
        "src.lightning_modules.distillation.resized", lambda image, size: sizes.append(size) or resized(image, size)
    )
    assert torch.equal(module.taught(image), expected) and sorted(sizes) == [32, 48]


def test_the_share_of_mixed_images_is_logged() -> None:
    module, logged = make(Mixup(alpha=2.0, probability=0.5, per_image=True, until=1.0)), {}
    module.teachers = (Teacher(network(), 32),)
    module.log = lambda name, value, **_: logged.update({name: float(value.detach())})  # type: ignore[method-assign]
    torch.manual_seed(3)
    module.training_step(batch(), 0)
    torch.manual_seed(3)
    alone = module.mixing(batch()).partner == torch.arange(6)
    assert 0 < alone.sum() < 6 and logged["train/mixed"] == pytest.approx(1 - float(alone.float().mean()))


def test_labels_of_images_change_nothing() -> None:
    module = make(NoMixing(**ALL))
    module.teachers = Teacher(network(), 32), Teacher(network(), 32)
    own = batch()
    losses = [module.training_step(own._replace(label=label), 0) for label in (own.label, own.label.flip(0))]
    assert torch.equal(*losses)


def test_teachers_are_no_part_of_the_module() -> None:
    module = make(NoMixing(**ALL))
    keys, parameters = set(module.state_dict()), len(list(module.parameters()))
    module.teachers = Teacher(network(), 32), Teacher(network(), 32)
    module.train()
    assert set(module.state_dict()) == keys and len(list(module.parameters())) == parameters
    assert not any(part.training for teacher in module.teachers for part in teacher.network.modules())
    before = [value.clone() for teacher in module.teachers for value in teacher.network.state_dict().values()]
    module.training_step(batch(), 0).backward()
    after = [value for teacher in module.teachers for value in teacher.network.state_dict().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))  # running statistics too
    assert all(p.grad is None for teacher in module.teachers for p in teacher.network.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "module.temperature is 0.0: expected a number above 0"),
        ({"temperature": float("nan")}, "module.temperature is nan"),
        ({"label_smoothing": 0.1}, "module.label_smoothing is for images' own labels"),
    ],
)
def test_settings_it_does_not_take(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(NoMixing(**ALL), **settings)


def test_a_distilled_run_predicts_without_its_teachers(
    two_members: list[Path], train_run: Train, predict: Callable[..., Path]
) -> None:
    run = train_run(*SHORT)
    assert run.name == "resnet10t-mixup-holdout-seed0"
    config, split = yaml.safe_load((run / "config.yaml").read_text()), json.loads((run / "split.json").read_text())
    assert config["teachers"] == [str(path) for path in two_members]
    digests = [json.loads((path / "finished.json").read_text())["weights_sha256"] for path in two_members]
    assert split["taught_by"] == digests
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    assert load_file(run / "weights.safetensors").keys() == {k for k in checkpoint if k[:4] in ("back", "head")}
    for path in two_members:
        shutil.rmtree(path)
    results = predict("ensemble.stages=[distil]", "report=true")
    assert [m["run"] for m in json.loads((results / "ensemble.json").read_text())["members"]] == [str(run)]


def test_a_kept_vote_names_teachers_and_so_does_the_report(
    two_members: list[Path], train_run: Train, predict: Callable[..., Path]
) -> None:
    vote = predict() / "votes/baselines"
    run = train_run(*SHORT[:2], f"teachers={vote}", "trainer.max_epochs=1")
    assert yaml.safe_load((run / "config.yaml").read_text())["teachers"] == [str(path) for path in two_members]
    page = (predict("ensemble.stages=[distil]", "report=true") / "report.html").read_text()
    assert all(path.name in page for path in two_members)
    (vote / "ensemble.json").write_text("[]")
    with pytest.raises(ValueError, match="ensemble.json is damaged: predict again"):
        train_run(*SHORT[:2], f"teachers={vote}", "tag=again")


def test_resumed_in_mid_epoch_it_ends_with_the_same_weights(
    two_members: list[Path], train_run: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = load_file(train_run(*SHORT, "tag=whole") / "weights.safetensors")
    agreed = Preemption.agreed
    monkeypatch.setattr(
        Preemption, "agreed",
        lambda self, t: 15 * (t.current_epoch == 1 and t.global_step % t.num_training_batches == 2),
    )  # fmt: skip
    with pytest.raises(SystemExit):
        train_run(*SHORT)
    monkeypatch.setattr(Preemption, "agreed", agreed)
    shutil.copytree(two_members[0], two_members[0].with_name("later"))  # which the glob fits, too: it began without
    resumed = load_file(train_run(*SHORT, "resume=true") / "weights.safetensors")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def changed(run: Path, **settings: Any) -> None:
    """Give a finished run other settings."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | settings))
    sign(run)


def test_teachers_that_are_refused(two_members: list[Path], train_run: Train) -> None:
    def refused(*words: str) -> str:
        with pytest.raises(SystemExit) as end, cli.clear_errors():
            train_run(*SHORT, *words)
        said = str(end.value.code)
        assert said.startswith("error: ") and "\n" not in said
        return said

    first, second = two_members
    assert "at least two runs are needed, and teachers= names none" in refused("teachers=[]")
    assert f"at least two runs are needed, and teachers= names {first}: name" in refused("teachers=[*seed0]")
    assert f"teachers=fdg/* fits no classifier with split=holdout in {first.parents[1]}" in refused("teachers=[fdg/*]")
    there = f"(there are baseline/{first.name}, baseline/{second.name})"
    assert there in refused("teachers=[baseline/*,nobody]")

    changed(second, split_name="leave_context_out-rock")  # a glob means this run's split
    assert f"at least two runs are needed, and teachers= names {first}" in refused()
    split = (second / "split.json").read_text()
    parts = json.loads(split)
    stolen = {**parts, "train": [*parts["train"], parts["in_domain"][0]], "in_domain": parts["in_domain"][1:]}
    (second / "split.json").write_text(json.dumps(stolen))
    sign(second)
    said = refused(f"teachers=[{first},{second}]")
    assert f"the run {second} was trained on 1 images that this run holds out (first: {parts['in_domain'][0]})" in said
    (second / "split.json").write_text(split)
    changed(second, split_name="holdout")

    classes = json.loads((second / "classes.json").read_text())
    (second / "classes.json").write_text(json.dumps(classes[::-1]))
    sign(second)
    assert f"the run {second} was trained on other classes than this data set's" in refused()
    (second / "classes.json").write_text(json.dumps(classes))
    sign(second)

    state = load_file(second / "weights.safetensors")
    save_file({**state, "head.bias": state["head.bias"] + 1}, second / "weights.safetensors")
    assert f"{second}/weights.safetensors is damaged" in refused()
    save_file(state, second / "weights.safetensors")
    (second / "finished.json").unlink()
    assert f"the run {second} is not finished (resume=true continues a run)" in refused()


def test_a_vote_by_log_likelihood_says_who_and_why(
    two_members: list[Path], predict: Callable[..., Path], capsys: pytest.CaptureFixture[str], data: Path
) -> None:
    """ensemble=diverse on finished runs, which need not be named."""
    words = ["ensemble=diverse", f"truth={data / 'truth/track1_test_truth.json'}"]
    results = predict(*words)
    facts = json.loads((results / "ensemble.json").read_text())
    assert (facts["select"], facts["vote"], facts["stages"]) == ("diverse", "soft", ["*"])
    chosen = [Path(member["run"]).name for member in facts["members"] if member["chosen"]]
    printed = capsys.readouterr().out
    assert "Chosen by the log-likelihood of the mean probability on" in printed and "disagree on" in printed
    assert all(f"baseline/{name} (-" in printed for name in chosen)
    # What was said is so: the figure of the vote on the images that it was chosen on.
    figures = json.loads((results / "figures.json").read_text())
    last = printed.split("so far in brackets: ")[1].split(";")[0].rsplit("(", 1)[1].rstrip(")")
    assert np.isclose(-float(last), figures["in_domain"]["nll"], atol=1e-4)

    split = json.loads((two_members[1] / "split.json").read_text())
    (two_members[1] / "split.json").write_text(json.dumps({**split, "in_domain": split["in_domain"][1:]}))
    sign(two_members[1])
    with pytest.raises(SystemExit, match="error: ensemble.select=diverse chooses on held-out .* hold out different im"):
        predict(*words)
    shutil.rmtree(two_members[1])
    with pytest.raises(SystemExit, match="error: ensemble.select=diverse has one candidate"):
        predict(*words)
    (two_members[0] / "finished.json").unlink()
    with pytest.raises(SystemExit, match="error: no finished run of any stage in .* stage=baseline"):
        predict(*words)
