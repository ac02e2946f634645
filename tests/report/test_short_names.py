import pytest

from src.report.names import short_names, without_machine


def test_short_names_leave_out_what_all_have() -> None:
    names = ["adapt/resnet34-decoupled-r0.2-holdout-seed0", "adapt/resnet34-decoupled-r0.5-holdout-seed0",
             "fdg/resnet34-foreground-holdout-seed0"]  # fmt: skip
    assert short_names(names) == ["adapt decoupled r0.2", "adapt decoupled r0.5", "fdg foreground"]


@pytest.mark.parametrize("names", [["a/x-y", "a/y-x"], ["a/x", "a/x-y"], ["fdg/x-seed0"]])
def test_names_that_would_not_differ_stay_whole(names: list[str]) -> None:
    assert short_names(names) == names


def test_paths_of_a_machine_become_short() -> None:
    text = (
        "data_root: /home/someone/my-data/nico\nrun: /mnt/a/logs/track1/fdg/seed0, '/x/y'; see logs/a/b.csv, n/a, 1 / 2"
    )
    assert without_machine(text) == (
        "data_root: …/my-data/nico\nrun: …/fdg/seed0, '…/x/y'; see logs/a/b.csv, n/a, 1 / 2"
    )
    assert without_machine("python /home/me/project/train.py init=logs/a/b") == "python train.py init=logs/a/b"
    for same in ("https://arxiv.org/abs/2210.14783", "<context>/<class>", "<class>/**", "val/in_domain/accuracy"):
        assert without_machine(same) == same
