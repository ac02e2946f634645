"""Train one stage on one track, or sweep with -m: `python train.py track=1 stage=baseline`."""

import sys

import hydra
from omegaconf import DictConfig

from src import cli


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> None:
    """Train, or hand a sweep's job to a process of its own."""
    if not cli.run_sweep_job("train.py"):
        with cli.clear_errors():
            train(cfg)


def train(cfg: DictConfig) -> None:
    """Data, run directory, module, trainer; then the weights for the next stage."""
    import pytorch_lightning as pl

    from src.callbacks.randomness import KeyedRandomness
    from src.overrides import literal
    from src.prediction import members
    from src.runs import directory as runs
    from src.runs import lineage
    from src.runs.weights import load_weights, save_weights
    from src.stopping import request

    runs.check_settings(cfg)
    before = lineage.predecessors(cfg)
    cfg.init, cfg.masks = (literal(str(path)) if path else lineage.NONE for path in before)
    datamodule = cli.instantiate(cfg.datamodule)
    datamodule.prepare_data()
    datamodule.setup()
    cfg.dataset = {"num_classes": len(datamodule.classes), "contexts": literal(datamodule.contexts)}
    facts = (datamodule.classes, datamodule.split_paths)
    inherited = lineage.inheritance(before, cfg.model.model_name, *facts)
    members.check_rebuildable(runs.resolved(cfg), "this run's settings")
    with runs.claim(cfg, *facts, inherited) as run:
        if run.finished:
            print(f"{run.folder} is finished: nothing to do")
            return
        request.advice = "resume=true goes on"
        pl.seed_everything(cfg.seed, verbose=False)
        module = cli.instantiate(cfg.module)
        if before.init:
            load_weights(before.init / "weights.safetensors", {part: getattr(module, part) for part in cfg.init_parts})
        if cfg.compile:
            for network in module.children():
                network.compile()  # in place: the keys of checkpoints and weights stay as they are
        chosen = [callback for callback in cli.instantiate(cfg.callbacks).values() if callback is not None]
        callbacks = [KeyedRandomness(cfg.seed), *chosen]  # not a matter of choice: what a step draws depends on it
        trainer = cli.instantiate(cfg.trainer, callbacks=callbacks)
        for logger in trainer.loggers:
            logger.log_hyperparams(runs.resolved(cfg))
        if trainer.is_global_zero:
            counts = ", ".join(f"{len(paths)} {part}" for part, paths in datamodule.split_paths.items() if paths)
            processes = f"{trainer.world_size} process(es) on {trainer.strategy.root_device.type}"
            print(
                f"{'resuming' if run.checkpoint else 'training'} {run.folder}: {counts} images, {processes}", flush=True
            )
        trainer.fit(module, datamodule, ckpt_path=run.checkpoint, weights_only=True)
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        left = runs.left_to_do(trainer, runs.resolved(cfg))
        if cfg.predict and not left:
            trainer.predict(module, datamodule, return_predictions=False)
        if "wandb" in sys.modules:  # one W&B run for each run, finished before the process goes on
            sys.modules["wandb"].finish()
        if trainer.is_global_zero and not left:
            save_weights(run.folder / "weights.safetensors", {part: getattr(module, part) for part in module.exported})
            runs.finish(run, figures)
        if trainer.is_global_zero:
            print(f"{run.folder} {left}" if left else f"finished {run.folder}")


if __name__ == "__main__":
    cli.start(main)
