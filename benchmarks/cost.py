"""What the whole recipe costs on one track: GPU-hours, the bytes that a step moves, and how far several GPUs help.

    python -m benchmarks.cost [--measured benchmarks/h200.json] [--images 88866] [--test-images 14000]

Step times are those that `python -m benchmarks.gpu` measured on a card. What it has no row for is an estimate from the
network's FLOPs, at the share of the card's matmul rate that the nearest measured row of resnet34 reaches; it is marked
with ~. Epochs, sizes, batches and backbones are those of conf/.

Several GPUs share a step's batch. A step then takes as long as its kernels with their share of the images, but no less
than the host takes to start them all, and the all-reduce of the gradients (a ring) on top: an estimate, as no step of
several GPUs was measured. In truth part of the all-reduce runs during the backward pass.
"""

from __future__ import annotations

import argparse
import math
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

from src import cli
from src.files import read_json

BACKBONES = ("resnet34", "densenet121", "wide_resnet50_2")
MEMBERS = 10  # of stage adapt, for each backbone
LINKS = {"NVLink, 450 GB/s": 450e9, "100 Gb Ethernet": 12.5e9}
CLUSTERS = {"8 GPUs, NVLink": (8, 450e9), "4 x 8, 100 Gb Ethernet": (32, 12.5e9)}
SCALED = {
    "wsss, resnet50, 448 px": "wsss",
    "finetune, resnet34, 224 px": "resnet34 224",
    "finetune, wide_resnet50_2, 224 px": "wide_resnet50_2 224",
    "moco, resnet34, 224 px": "moco",
    "fdg, resnet34, 512 px": "fdg",
    "adapt, resnet34, 512 px": "adapt",
}
"""Steps whose kernels were timed, and their rows."""
FILE = 51_000  # bytes of a JPEG of 500x375, as of benchmarks/loader.py


class Job(NamedTuple):
    """A stage's training: network, side, images of a step and of all runs' epochs, passes of each."""

    stage: str
    model: str
    size: int
    batch: int
    images: int
    passes: int


@cache
def network(model: str, size: int) -> tuple[float, int]:
    """FLOPs of an image, forward and backward, and parameters."""
    made = timm.create_model(model, num_classes=0)
    with FlopCounterMode(display=False) as counter:
        made(torch.zeros(1, 3, size, size)).sum().backward()
    return float(counter.get_total_flops()), sum(p.numel() for p in made.parameters())


class Rates:
    """Images a second of a step, measured or estimated.

    Args:
        rows: of `python -m benchmarks.gpu`.
    """

    def __init__(self, rows: dict[str, dict[str, Any]]) -> None:
        self.rows, self.peak = rows, rows["card"]["matmul TFLOP/s"] * 1e12

    def of(self, job: Job) -> tuple[float, bool]:
        """Images a second, and whether that is measured."""
        staged = self.rows.get(job.stage)
        if staged and job.model == ("resnet50" if job.stage in ("baseline", "wsss") else "resnet34"):
            return float(staged["images/s"]), True
        row = self.rows.get(f"{job.model} {job.size}")
        if row and job.stage in ("finetune", "adapt", "baseline"):
            return float(row["images/s"]), True
        flops, _ = network(job.model, job.size)
        return self.share(job) * self.peak / (flops * job.passes), False

    def share(self, job: Job) -> float:
        """Of the matmul rate: what resnet34 reaches in this stage, or in finetune at the nearest size."""
        staged = self.rows.get(job.stage)
        if staged and job.stage in ("moco", "fdg"):
            return float(staged["images/s"]) * network("resnet34", int(staged["px"]))[0] * job.passes / self.peak
        sizes = {
            int(name.split()[1]): row
            for name, row in self.rows.items()
            if name.startswith("resnet34 ") and name.split()[1].isdigit()
        }
        nearest = min(sizes, key=lambda size: abs(size - job.size))
        return float(sizes[nearest]["of matmul %"]) / 100


def jobs(images: int) -> list[Job]:
    """What is trained for one track."""
    made = []
    for stage, passes, models in (
        ("baseline", 1, ("resnet50",)),
        ("wsss", 1, ("resnet50",)),
        ("moco", 3, BACKBONES),  # the query forward and back, the key forward: two and two thirds
        ("finetune", 1, BACKBONES),
        ("fdg", 2, BACKBONES),
        ("adapt", 1, BACKBONES),
    ):
        for model in models:
            cfg = cli.composed("train", f"stage={stage}", f"model={model}", "track=1")
            epochs, size = int(cfg.trainer.max_epochs), cfg.datamodule.size
            steps = [(0, size)] if isinstance(size, int) else [tuple(pair) for pair in size]
            batch = int(cfg.datamodule.batch_size) * (2 if stage == "fdg" else 1)
            for (begin, side), (end, _) in zip(steps, [*steps[1:], (epochs, 0)], strict=True):
                many = images * (end - begin) * {"fdg": 2, "adapt": MEMBERS}.get(stage, 1)
                made.append(Job(stage, model, int(side), batch, many, passes))
    return made


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measured", type=Path, default=Path(__file__).with_name("h200.json"))
    parser.add_argument("--images", type=int, default=88866, help="to train on (track 1 of the challenge)")
    parser.add_argument("--test-images", type=int, default=14000)
    options = parser.parse_args()
    measured = read_json(options.measured)
    rates = Rates(measured["rows"])
    print(f"{measured['machine']['card']}, {options.images} images\n")
    print(hours(jobs(options.images), rates, options))
    print(f"\n{traffic(jobs(options.images), rates)}")
    print(f"\n{scaling(measured['rows'])}")


def hours(todo: list[Job], rates: Rates, options: argparse.Namespace) -> str:
    """GPU-hours of each stage and backbone, and their sum."""
    sums: dict[tuple[str, str], list[float]] = {}
    for job in todo:
        rate, known = rates.of(job)
        entry = sums.setdefault((job.stage, job.model), [0.0, 1.0])
        entry[0] += job.images / rate / 3600
        entry[1] *= known
    rows = measured_masks(rates, options)
    for (stage, model), (total, known) in sums.items():
        name = f"{stage}, {model}" + (f", {MEMBERS} members" if stage == "adapt" else "")
        rows.append((name, total, bool(known)))
    lines = ["| | GPU-hours |", "|---|---|"]
    lines += [f"| {name} | {'' if known else '~'}{value:.1f} |" for name, value, known in rows]
    total = sum(value for _, value, _ in rows)
    lines.append(f"| all | ~{total:.0f} |")
    return "\n".join(lines)


def measured_masks(rates: Rates, options: argparse.Namespace) -> list[tuple[str, float, bool]]:
    """Masks and prediction."""
    rows, made = rates.rows, []
    seconds = options.images * max(1 / rows["maps"]["images/s"], 1 / rows["masks"]["masks/s"])
    made.append(("masks (maps, and the CRF on 16 cores beside)", seconds / 3600, True))
    eleven = rows["prediction"]
    scale = network("resnet34", 512)[0] / network("resnet34", 224)[0]
    seconds = options.test_images * scale / eleven["images/s"]
    seconds *= sum(network(model, 512)[0] for model in BACKBONES) / network("resnet34", 512)[0]
    made.append((f"prediction, {3 * (MEMBERS + 1)} members at 512 px", seconds / 3600, False))
    return made


def traffic(todo: list[Job], rates: Rates) -> str:
    """What a step moves."""
    lines = [
        "| a step of | batch | ms | all-reduced, MB | read, MB/s | to the device, MB/s | " + " | ".join(LINKS) + " |",
        "|---" * (6 + len(LINKS)) + "|",
    ]
    seen = set()
    for job in todo:
        key = (job.stage, job.model, job.size)
        if key in seen:
            continue
        seen.add(key)
        rate, known = rates.of(job)
        seconds, (_, parameters) = job.batch / rate, network(job.model, job.size)
        gradients = 4 * parameters  # float32, also under bf16-mixed
        pixels = job.batch * job.size**2 * (4 if job.stage != "moco" else 6)  # RGB and the mask; moco: two views
        shares = [f"{100 * 2 * gradients / link / seconds:.1f} %" for link in LINKS.values()]
        lines.append(
            f"| {job.stage}, {job.model}, {job.size} px | {job.batch} | {'' if known else '~'}{1000 * seconds:.0f} | "
            f"{gradients / 1e6:.0f} | {job.batch * FILE / seconds / 1e6:.0f} | {pixels / seconds / 1e6:.0f} | "
            f"{' | '.join(shares)} |"
        )
    return "\n".join(lines)


def scaling(rows: dict[str, dict[str, Any]]) -> str:
    """A step's time on several GPUs that share its batch."""
    bound = rows["resnet34 224"]  # by the host: its kernels take half of the step
    launch = bound["ms"] / bound["launches"]
    lines = [
        f"| a step of | kernels, ms | host, ms | GPUs that help | {' | '.join(CLUSTERS)} |",
        "|---" * (4 + len(CLUSTERS)) + "|",
    ]
    for name, key in SCALED.items():
        row = rows[key]
        kernel, host = row["kernel ms"], row["ms"] if row["kernel ms"] < row["ms"] / 2 else launch * row["launches"]
        gradients = 4 * network(name.split(", ")[1], 224)[1]
        cells = []
        for gpus, link in CLUSTERS.values():
            step = max(kernel / gpus, host) + 1000 * 2 * (gpus - 1) / gpus * gradients / link
            cells.append(f"{step:.0f} ms ({row['ms'] / step:.1f} times as fast)")
        most = math.ceil(kernel / host)  # with more, a step is the host's time, and the all-reduce
        lines.append(f"| {name} | {kernel:.0f} | {host:.0f} | {most} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
