"""Let the finished runs of a track vote on its test images: `python predict.py track=1 ensemble=all`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import hydra
from omegaconf import DictConfig

from src import cli, kinds
from src.sweeps.jobs import in_sweep, run_job

if TYPE_CHECKING:  # loaded when there is something to do: --help answers at once
    import torch

    from src.datamodules.nico import NicoDataModule
    from src.prediction.image_sets import ImageSet
    from src.prediction.kept import Probabilities
    from src.prediction.members import LeftOut, Member
    from src.prediction.run import OpenImages, Predictor
    from src.prediction.settings import PredictionSettings
    from src.report.evaluation import Beside, Evaluation


@hydra.main(version_base="1.3", config_path="conf", config_name="predict")
def main(cfg: DictConfig) -> None:
    """Predict, or hand a sweep's job to a process of its own."""
    if in_sweep():
        run_job("predict.py", cfg)
        return
    with cli.clear_errors():
        kinds.check_kinds()
        predict(cfg)


def predict(cfg: DictConfig) -> None:
    """Members, their predictions (kept ones where nothing changed), the vote, and what a person reads about it."""
    cli.say("predict.py: loading PyTorch")
    import numpy as np

    from src.distributed import check_launch
    from src.prediction import export, image_sets, selection, soups
    from src.prediction.run import Predictor
    from src.prediction.settings import read_settings
    from src.runs.directory import resolved

    settings = read_settings(resolved(cfg))
    if settings.export:
        export.check_format(settings.export)
    if settings.object_masks and not settings.object_masks.is_dir():
        raise FileNotFoundError(
            f"object_masks={settings.object_masks} is no folder: name one whose masks mirror data_root, or leave it out"
        )
    trainer, tta = cli.instantiate(cfg.trainer), cli.instantiate(cfg.tta)
    check_launch(trainer.world_size)
    open_images: OpenImages = partial(cli.instantiate, cfg.datamodule)
    digests = settings.digests()
    cli.say(f"looking for members in {settings.logs_dir}")
    voters, left_out = selection.find_members(settings.logs_dir, settings.data_name, settings.wanted, digests)
    if trainer.is_global_zero:
        say(left_out)
    if settings.select == "soup":
        voters = soups.make_soups(voters, settings.folder / "soups")
    # Unreadable training images are left out one by one, too: there is no need to decode all of them beforehand.
    training = open_images(part="train", on_bad_image="stop")
    predictor = Predictor(open_images, training, tta, trainer, settings, digests)
    if settings.export:
        hand_over(settings, voters, open_images, training, predictor)
        if not settings.report:
            return
    sets, why_not = images_of(settings, open_images, training, voters)
    sets = [image_sets.with_digest(images, digests) for images in sets]
    voters, stacks, failed = predictor.predict(voters, sets)
    others, their_stacks = compared(settings, predictor, voters, sets)
    if not trainer.is_global_zero:
        return  # the other ranks' rows are with rank 0
    say(failed)
    stacks = [np.concatenate(both) for both in zip(stacks, their_stacks, strict=True)] if others else stacks
    evaluation, beside = evaluated(settings, voters, [*left_out, *failed], sets, stacks, why_not, others)
    show(evaluation, beside, open_images, cfg, trainer.strategy.root_device)


def compared(
    settings: PredictionSettings, predictor: Predictor, voters: list[Member], sets: list[ImageSet]
) -> tuple[list[Member], list[Probabilities]]:
    """The other finished networks that a report compares with the members, and what they make of the image sets."""
    from src.prediction import selection

    if not (settings.report or settings.logged) or all(images.truth is None for images in sets):
        return [], []
    others = selection.find_beside(settings.logs_dir, settings.data_name, settings.compare, voters, predictor.digests)
    try:
        others, stacks, _ = predictor.predict(others, sets) if others else ([], [], [])
    except ValueError as error:  # not one of them could: the members' report does not need them
        print(f"no other network is compared with the members: {error}")
        return [], []
    return others, stacks


def say(left_out: LeftOut) -> None:
    """Name the runs that do not vote."""
    for folder, reason in left_out:
        print(f"left out {folder}: {reason}")


def hand_over(
    settings: PredictionSettings,
    voters: list[Member],
    open_images: OpenImages,
    training: NicoDataModule,
    predictor: Predictor,
) -> None:
    """Write the members' networks, or all in one; for export=hf each with a model card, and figures if possible."""
    from src.prediction import image_sets
    from src.prediction.export import export
    from src.prediction.voting_network import export_ensemble

    assert settings.export is not None
    if settings.export == "onnx_ensemble":
        export_ensemble(voters, settings)
        return
    main = predictor.trainer.is_global_zero  # the other ranks only help to predict
    networks = export(voters, settings.folder / "export", settings.export) if main else []
    if settings.export == "hf":
        from src.report.card import write_cards

        sets, why_not = image_sets.held_out_images(training, voters)
        if settings.truth:
            sets.insert(0, image_sets.test_images(open_images(), settings.truth, voters[0].classes))
        members, stacks, failed = predictor.predict(voters, sets) if sets else (voters, [], [])
        if not main:
            return
        say(failed)
        folders = [path.parent for voter, path in zip(voters, networks, strict=True) if voter in members]
        write_cards(members, folders, sets, stacks, why_not, settings)


def images_of(
    settings: PredictionSettings, open_images: OpenImages, training: NicoDataModule, voters: list[Member]
) -> tuple[list[ImageSet], str]:
    """What members look at, test images (or those of a folder) first, and why there is no held-out part."""
    from src.prediction import image_sets

    if settings.images:
        shown = image_sets.folder_images(settings.images)
    else:
        tests = open_images()
        if not tests.store.sources.has_test:
            return without_test(settings, image_sets.instead_of_test(training, voters))
        shown = image_sets.test_images(tests, settings.truth, voters[0].classes)
    asked = shown.truth is not None or settings.report or settings.logged
    if not settings.chooses and (settings.images or not asked):
        return [shown], ""
    needed_by = f"ensemble.select={settings.select}" if settings.chooses else ""
    held_out, why_not = image_sets.held_out_images(training, voters, needed_by)
    return [shown, *held_out], why_not


def without_test(settings: PredictionSettings, sets: list[ImageSet]) -> tuple[list[ImageSet], str]:
    """What members look at in a data set without test images, and why there is no other held-out part."""
    if settings.truth:
        raise ValueError("truth= labels test images, and there are none: leave it out, as held-out images have labels")
    if len(sets) > 1:
        return sets, ""
    if settings.chooses:
        raise ValueError(
            f"ensemble.select={settings.select} chooses on the held-out images, which stand in for test images here: "
            "its figures would come from the images it chose on; use another ensemble, or split=leave_context_out"
        )
    return sets, "the held-out images stand in for test images"


def evaluated(
    settings: PredictionSettings,
    voters: list[Member],
    left_out: LeftOut,
    sets: list[ImageSet],
    stacks: list[Probabilities],
    why_not: str,
    others: list[Member],
) -> tuple[Evaluation, Beside]:
    """The vote on every image set with its figures; and what the others said, who follow the voters in `stacks`."""
    from src.prediction import voting
    from src.prediction.unreadable import check_unreadable, settle
    from src.report.evaluation import Beside, EvaluatedSet, evaluate_all

    guess = [settings.images is None, *(False for _ in sets[1:])]  # a challenge wants a label for every test image
    settled = [
        settle(images, stack, settings.max_pixels, one) for images, stack, one in zip(sets, stacks, guess, strict=True)
    ]
    if not settings.images:
        check_unreadable(settled[0][0], settings.on_bad_image, settings.max_bad_share)
    beside = Beside(others, {images.name: stack[len(voters) :].argmax(2) for images, stack in settled})
    settled = [(images, stack[: len(voters)]) for images, stack in settled]
    choice = voting.Choice(list(range(len(voters))), [])
    if settings.chooses:
        images, stack = next(one for one in settled if one[0].name == "in_domain")
        choice = voting.SELECTIONS[settings.select](stack, images.label, settings.rounds)
    votes = [
        EvaluatedSet(images, stack, voting.elect(stack, settings.vote, choice.members)) for images, stack in settled
    ]
    return evaluate_all(settings, voters, left_out, choice, votes, why_not), beside


def show(
    evaluation: Evaluation, beside: Beside, open_images: OpenImages, cfg: DictConfig, device: torch.device
) -> None:
    """Write and print what was asked for.

    Raises:
        ValueError: images could not be read; everything is written.
    """
    from src.locks import locked
    from src.report import results

    settings = evaluation.settings
    if settings.images:
        results.write_images(evaluation.test, evaluation.members[0].classes, settings.top, settings.output)
        return
    with locked(settings.folder):  # two predictions at once write one after another
        results.write_evaluation(evaluation)
        if settings.report or settings.logged:
            from src.report.evidence import add_evidence  # matplotlib, jinja2 and scikit-learn are an extra
            from src.report.logged import log
            from src.report.page import make_page, write_page

            page = make_page(evaluation, beside, open_images)
            add_evidence(page, evaluation, beside, open_images, device)
            if settings.report:
                write_page(page, settings.folder / "report.html")
                results.keep_report(settings)
            log(evaluation, page, open_images, cli.instantiate(cfg.logger).values())
    if evaluation.test.images.unreadable:
        raise ValueError(results.unreadable_words(evaluation))


if __name__ == "__main__":
    cli.start(main, "predict")
