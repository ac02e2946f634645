"""Train one stage on one track, or sweep with -m: `python train.py track=1 stage=baseline`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from omegaconf import DictConfig, OmegaConf

from src import cli, kinds
from src.sweeps.jobs import figure_of, in_sweep, run_job

if TYPE_CHECKING:  # loaded when there is something to do: --help answers at once
    from pytorch_lightning import Trainer

    from src.datamodules.nico import NicoDataModule
    from src.runs.directory import Run


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Train, or hand a sweep's job to a process of its own; Hydra gets the figure of `objective`."""
    if in_sweep():
        return run_job("train.py", cfg)
    figure = None
    with cli.clear_errors():
        kinds.check_kinds()
        figure = train(cfg)
    return figure


def train(cfg: DictConfig) -> float | None:
    """Data, run directory, module, trainer; then the weights for the next stage. Returns the figure of `objective`."""
    cli.say("train.py: loading PyTorch")
    from src.data.splits import context_information
    from src.lightning_modules import backbone
    from src.overrides import literal
    from src.prediction import members
    from src.runs import directory, lineage, pretrained

    directory.check_settings(cfg)
    directory.keep_earlier_name(cfg)
    backbone.check_name(cfg.model)
    start = pretrained.start_of(cfg.model, Path(cfg.run_dir) if cfg.resume else None)
    before = lineage.predecessors(cfg)
    cfg.init, cfg.masks = (literal(str(path)) if path else lineage.NONE for path in (before.init, before.masks))
    if before.several:
        cfg[before.named_in] = [literal(str(path)) for path in before.several]
    cli.say(f"checking the images in {cfg.data_root}")
    datamodule = cli.instantiate(cfg.datamodule)
    datamodule.prepare_data()
    datamodule.setup()
    cfg.dataset = {
        "num_classes": len(datamodule.classes),
        "contexts": literal(datamodule.contexts),
        "images": len(datamodule.parts.train),
        "context_information": context_information([datamodule.rows[i] for i in datamodule.parts.train]),
    }
    directory.check_settings(cfg)
    cfg.model = literal(backbone.fitted(directory.resolved(cfg)["model"], datamodule.sizes.values()))
    facts = (datamodule.classes, datamodule.split_paths)
    inherited = lineage.inheritance(before, cfg.model.model_name, *facts)
    members.check_rebuildable(directory.resolved(cfg), "this run's settings")
    several = members.read_several(before.named_in, before.several)
    if start and not before.init:
        inherited = inherited._replace(weights_sha256=start)
        if not (cfg.resume and directory.is_begun(Path(cfg.run_dir))):
            pretrained.rehearse(*(directory.resolved(cfg)[name] for name in ("model", "pixels")))
    with directory.claim(cfg, *facts, inherited) as run:
        if run.finished:
            print(f"{run.folder} is finished: nothing to do")
        else:
            fit(cfg, run, datamodule, before.init, several)
    return figure_of(cfg)


def fit(cfg: DictConfig, run: Run, datamodule: NicoDataModule, init: Path | None, several: Mapping[str, Any]) -> None:
    """Train a run that this process has claimed, from the weights of the run `init`, to its end.

    `several` are the networks of earlier runs that the module works with, by the name of its attribute.
    """
    import pytorch_lightning as pl

    from src.distributed import check_launch
    from src.runs import directory
    from src.runs.summary import summary
    from src.runs.weights import save_weights
    from src.stopping import request

    request.advice = "resume=true continues it"
    pl.seed_everything(cfg.seed, verbose=False)
    module = make_module(cfg, run, init)
    for name, networks in several.items():
        setattr(module, name, networks)
    if cfg.compile:
        for network in module.children():
            network.compile()  # in place: the keys of checkpoints and weights stay as they are
    trainer = make_trainer(cfg)
    check_launch(trainer.world_size)
    if trainer.is_global_zero:
        counts = ", ".join(f"{len(paths)} {part}" for part, paths in datamodule.split_paths.items() if paths)
        tells = cfg.dataset.context_information
        counts += " images" if tells is None else f" images, whose contexts tell {100 * tells:.1f} % of the class"
        processes = f"{trainer.world_size} process(es) on {trainer.strategy.root_device.type}, {cfg.trainer.precision}"
        print(f"{'resuming' if run.checkpoint else 'training'} {run.folder}\n{counts}, {processes}", flush=True)
    if cfg.trainer.max_epochs:  # stages grabcut and average_maps have nothing to train
        trainer.fit(module, datamodule, ckpt_path=run.checkpoint, weights_only=True)
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    left = directory.left_to_do(trainer, directory.resolved(cfg))
    if cfg.predict and (not left or str(trainer.limit_predict_batches) != "1.0"):  # a debug run tries a part of it
        trainer.predict(module, datamodule, return_predictions=False)
    if "wandb" in sys.modules:  # one W&B run for each run, finished before the process goes on
        sys.modules["wandb"].finish()
    if trainer.is_global_zero:
        if not left:
            save_weights(run.folder / "weights.safetensors", {part: getattr(module, part) for part in module.exported})
            directory.finish(run, figures, trainer.current_epoch * getattr(module, "passes", 1))
        print(f"{run.folder} {left}" if left else summary(run.folder), flush=True)


def make_module(cfg: DictConfig, run: Run, init: Path | None) -> Any:
    """The module, with the weights that it starts from where no checkpoint will bring its own."""
    from src.runs.continuation import untrained_module
    from src.runs.directory import resolved
    from src.runs.pretrained import load_start
    from src.runs.weights import load_weights

    module = untrained_module(cfg)
    if init:
        load_weights(init / "weights.safetensors", {part: getattr(module, part) for part in cfg.init_parts})
        if cfg.model.pretrained or cfg.model.weights:
            print(f"model.pretrained and model.weights are not used: the run starts from {init} (init=none uses them)")
    elif run.checkpoint is None and (cfg.model.pretrained or cfg.model.weights):
        load_start(module.backbone, *(resolved(cfg)[name] for name in ("model", "pixels")))
    return module


def make_trainer(cfg: DictConfig) -> Trainer:
    """The trainer with the chosen callbacks and loggers."""
    from src.callbacks.randomness import KeyedRandomness
    from src.overrides import literal
    from src.runs.directory import resolved
    from src.runs.hyperparameters import METRICS, hyperparameters, log_hyperparameters

    # null is Lightning's default, which is not None for all.
    given = {name: literal(value) for name, value in resolved(cfg)["trainer"].items() if value is not None}
    chosen = [callback for callback in cli.instantiate(cfg.callbacks).values() if callback is not None]
    # Keyed draws are not a matter of choice: what a step draws depends on them.
    trainer: Trainer = cli.instantiate(OmegaConf.create(given), callbacks=[KeyedRandomness(cfg.seed), *chosen])
    stage = Path(cfg.run_dir).parent.name
    for logger in trainer.loggers:
        log_hyperparameters(logger, hyperparameters(stage, resolved(cfg), cli.command_words()[1:]), METRICS)
    return trainer


def expand(words: list[str]) -> list[str]:
    """The words of the command line with the protocols among them spelled out."""
    if not any("each_context" in word for word in words):
        return words
    from src.runs.protocol import each_context

    return each_context(words)


if __name__ == "__main__":
    cli.start(main, "train", expand)
