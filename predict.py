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
    """Members, their predictions (kept ones where nothing changed), the vote, prediction.json, a table."""
    import numpy as np
    from hydra.utils import instantiate

    from src import members, report, voting
    from src.files import digest_files, write_json

    if cfg.vote not in voting.RULES:
        raise ValueError(f"vote={cfg.vote} is no rule: choose one of {', '.join(voting.RULES)}")
    voters, left_out = members.find_members(Path(cfg.logs_dir), cfg.track.id, cfg.ensemble.stages)
    for folder, reason in left_out:
        print(f"left out {folder}: {reason}")
    datamodule = instantiate(cfg.datamodule)
    datamodule.prepare_data()
    datamodule.setup()
    names = [row.name for row in datamodule.rows]
    if len(set(names)) < len(names):
        raise ValueError(f"{datamodule.manifest} has images of the same name, the key of prediction.json: rename them")
    truth_path = Path(cfg.truth) if cfg.truth else datamodule.manifest
    truth = members.match_truth(members.read_truth(truth_path), names, truth_path)
    if truth and truth[0].max() >= len(voters[0].classes):
        raise ValueError(
            f"{truth_path} has the label {truth[0].max()}: the members know {len(voters[0].classes)} classes"
        )

    results = Path(cfg.results_dir) / f"track{cfg.track.id}"
    digest = digest_files(datamodule.data_root, [row.image_path for row in datamodule.rows]) + str(
        cfg.trainer.precision
    )
    probabilities = []
    for i, member in enumerate(voters, 1):
        known = members.stored(results / "members", member, digest)
        print(f"member {i} of {len(voters)}: {member.folder}{' (predictions kept)' if known is not None else ''}")
        if known is None:
            known = members.predict(member, cfg.datamodule, instantiate(cfg.trainer))
            members.store(results / "members", member, digest, names, known)
        probabilities.append(known)

    stack = np.stack(probabilities)
    ballot, votes = voting.RULES[cfg.vote](stack), stack.argmax(2)
    figures = report.accuracies(np.vstack([votes, ballot.labels]), *truth) if truth else []
    write_json(results / "prediction.json", dict(zip(names, ballot.labels.tolist(), strict=True)))
    print(report.members_table(voters, ballot, votes, figures))
    print(f"wrote {results / 'prediction.json'}: {len(names)} images, {len(voters)} members, vote={cfg.vote}")


if __name__ == "__main__":
    cli.start(main)
