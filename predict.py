"""Let the finished runs of a track vote on its test images: `python predict.py track=1 ensemble=all`."""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from src import cli


@hydra.main(version_base="1.3", config_path="conf", config_name="predict")
def main(cfg: DictConfig) -> None:
    """Predict, or hand a sweep's job to a process of its own."""
    if not cli.run_sweep_job("predict.py"):
        with cli.clear_errors():
            predict(cfg)


def predict(cfg: DictConfig) -> None:
    """Members, their predictions (kept ones where nothing changed), the vote, and what a person wants to read of it."""
    from src import export, image_sets, members, prediction, report, runs, voting
    from src.locks import locked

    settings, results = runs.resolved(cfg), Path(cfg.run_dir)
    report.check_settings(settings)
    trainer, tta = cli.instantiate(cfg.trainer), cli.instantiate(cfg.tta)
    voters, left_out = members.find_members(Path(cfg.logs_dir), cfg.track.id, cfg.ensemble.stages)
    for folder, reason in left_out if trainer.is_global_zero else []:
        print(f"left out {folder}: {reason}")
    if cfg.ensemble.select == "soup":
        voters = members.make_soups(voters, results / "soups")
    if cfg.export:
        export.export(voters, results / "export", cfg.export)
        return

    if cfg.images:
        shown = image_sets.folder_images(Path(cfg.images))
    else:
        shown = image_sets.test_images(cli.instantiate(cfg.datamodule), cfg.truth, voters[0].classes)
    # Of training images too those that cannot be read are left out one by one: no need to decode all of them before.
    training = cli.instantiate(cfg.datamodule, part="train", on_bad_image="stop")
    greedy = cfg.ensemble.select == "greedy"
    wanted = greedy or (not cfg.images and (shown.truth is not None or cfg.report or cfg.logger))
    held_out, why_not = image_sets.held_out_images(training, voters, greedy) if wanted else ([], "")
    how = prediction.how(cfg.datamodule, training, tta, settings, trainer, results / "members")
    voters, stacks, failed = prediction.predict_all(voters, [shown, *held_out], how)
    left_out += failed
    for folder, reason in failed if trainer.is_global_zero else []:
        print(f"left out {folder}: {reason}")
    if not trainer.is_global_zero:
        return  # the other ranks' rows are with rank 0
    unreadable = [
        prediction.unreadable(images, stack, how.max_pixels)
        for images, stack in zip((shown, *held_out), stacks, strict=True)
    ]
    if cfg.images:
        shown, stacks[0] = prediction.without_unreadable(shown, stacks[0])
    else:
        stacks[0] = prediction.with_guesses(stacks[0])
    for i, images in enumerate(held_out, 1):
        held_out[i - 1], stacks[i] = prediction.without_unreadable(images, stacks[i])
    chosen = list(range(len(voters)))
    if greedy:
        chosen = voting.greedy(stacks[1], held_out[0].label, cfg.ensemble.rounds)
    outcomes = [
        report.Outcome(images, stack, voting.elect(stack, cfg.vote, chosen))
        for images, stack in zip((shown, *held_out), stacks, strict=True)
    ]
    if cfg.images:
        report.write_images(outcomes[0], voters[0].classes, cfg.top, Path(cfg.output), unreadable[0])
        return
    findings = report.findings(voters, left_out, chosen, outcomes, settings, why_not, unreadable)
    with locked(results):  # of two predictions at once, one after the other writes
        report.write_findings(findings, results)
    if cfg.report or cfg.logger:
        from src import pages  # matplotlib and jinja2 are an extra

        page = pages.make_page(findings, cfg.datamodule, Path(cfg.logs_dir))
        pages.publish(
            page, results / "report.html" if cfg.report else None, cli.instantiate(cfg.logger) if cfg.logger else None
        )
    if findings.unreadable:
        raise ValueError(report.unreadable_words(findings, results))


if __name__ == "__main__":
    cli.start(main)
