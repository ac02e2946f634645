import csv
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from src.callbacks.step_metrics import StepMetrics


@pytest.mark.parametrize("every", [1, 3, 1000])
def test_the_loss_between_epochs_is_the_mean_of_its_steps(train_run: Callable[..., Path], every: int) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["track=1", "stage=baseline", "logger=tensorboard", f"callbacks.steps.every_n_steps={every}"]
    run = train_run(*words)
    rows = list(csv.DictReader(open(run / "metrics.csv")))
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    points, speed = events.Scalars("step/loss"), events.Scalars("step/images_per_second")
    batches = int(rows[0]["step"])
    ends = [*range(every, batches, every), batches]
    assert [point.step for point in points] == ends + [batches + end for end in ends]
    sizes = [b - a for a, b in zip([0, *ends], ends, strict=False)]
    for i, row in enumerate(rows):
        own = points[i * len(ends) : (i + 1) * len(ends)]
        mean = sum(size * point.value for size, point in zip(sizes, own, strict=True)) / batches
        assert mean == pytest.approx(float(row["train/loss"]), rel=1e-4)
    assert all(math.isfinite(point.value) and point.value > 0 for point in speed) and len(speed) == len(points)
    assert not any("step/" in name for name in rows[0])  # metrics.csv is by epoch


def test_the_loss_is_whole_where_gradients_are_accumulated(train_run: Callable[..., Path]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    words = ["callbacks.steps.every_n_steps=1000", "trainer.accumulate_grad_batches=2"]  # a point an epoch
    run = train_run("track=1", "stage=baseline", "logger=tensorboard", *words)
    rows = list(csv.DictReader(open(run / "metrics.csv")))
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    points = [point.value for point in events.Scalars("step/loss")]
    assert points == pytest.approx([float(row["train/loss"]) for row in rows], rel=1e-4)


def test_a_number_of_steps_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"callbacks.steps.every_n_steps is 0: expected a whole number of at least 1"):
        StepMetrics(0)
