"""The rows of `python -m benchmarks.gpu`: what each measures, with the project's own configuration and modules."""

from __future__ import annotations

import contextlib
import gc
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch.utils.flop_counter import FlopCounterMode

import train
from benchmarks.gpu_bench import Bench, Figures
from benchmarks.gpu_meter import Enough, Meter
from src import cli
from src.data.batch import PixelBatch
from src.datamodules.nico import NicoDataModule
from src.runs.directory import Run

BACKBONES = ("resnet34", "densenet121", "wide_resnet50_2")
MIXINGS = ("foreground", "spectrum", "decoupled", "background", "amplitude", "background_amplitude", "mixup", "cutmix")
AUGMIX = "datamodule.train_transform.augmix.chains"


def card(bench: Bench) -> Figures:
    """What the machine can do at most."""
    side, size = (256, 2**20) if bench.tiny else (8192, 2**30)
    a, b = (torch.randn(side, side, device=bench.device) for _ in range(2))
    if bench.device.type == "cuda":
        a, b = a.bfloat16(), b.bfloat16()
    rate = 2 * side**3 / bench.timed(lambda: a @ b, 20)
    x, y = (torch.empty(size, dtype=torch.uint8, device=bench.device) for _ in range(2))
    copied = 2 * size / bench.timed(lambda: y.copy_(x), 20)
    host = torch.empty(size // 4, dtype=torch.uint8, pin_memory=bench.device.type == "cuda")
    sent = len(host) / bench.timed(lambda: y[: len(host)].copy_(host, non_blocking=True))
    return {"matmul TFLOP/s": rate / 1e12, "copy GB/s": copied / 1e9, "host to device GB/s": sent / 1e9}


def fit(bench: Bench, cfg: DictConfig, datamodule: NicoDataModule, module: Any, inspected: int) -> tuple[Meter, Any]:
    """Train as train.py does until the meter has enough; the meter and the trainer."""
    trainer = train.make_trainer(cfg)
    warm, window = (1, 2) if bench.tiny else (4, 5)
    meter = Meter(bench.device, bench.seconds, warm, window, inspected)
    trainer.callbacks.append(meter)  # type: ignore[attr-defined] # Lightning adds it
    with contextlib.suppress(Enough):
        trainer.fit(module, datamodule)
    return meter, trainer


def steps(bench: Bench, *words: str, alone: bool = False, inspected: int = 0) -> Figures:
    """Steps of a stage with its batch at hand; half of the batch where the memory does not suffice.

    Args:
        words: of the command line.
        alone: time the network alone too, forward and backward.
        inspected: steps whose host reads and kernels are counted.
    """
    batch_size = int(bench.configure(*words).datamodule.batch_size)
    for part in (1, 2, 4):
        try:
            return steps_of(bench, [*words, f"datamodule.batch_size={batch_size // part}"], alone, inspected)
        except torch.OutOfMemoryError:
            if part == 4:
                raise
        gc.collect()  # the trainer and its module, which know each other
        torch.cuda.empty_cache()
    raise AssertionError


def steps_of(bench: Bench, words: list[str], alone: bool, inspected: int) -> Figures:
    """As steps, of one batch size."""
    cfg = bench.configure(*words)
    datamodule = bench.data(cfg)
    pl.seed_everything(cfg.seed, verbose=False)
    module = train.make_module(cfg, Run(Path(cfg.run_dir), None, False, None), None)
    side, batch_size = datamodule.last_size, int(cfg.datamodule.batch_size)
    flops = flops_of(bench, module, side) if alone else 0.0
    if cfg.compile:
        for network in module.children():
            network.compile()  # as train.py does
    meter, _ = fit(bench, cfg, datamodule, module, inspected)
    images = batch_size * (2 if datamodule.pairs else 1)
    milliseconds = meter.figures.pop("ms")
    made: Figures = {"px": side, "batch": images, "images/s": 1000 * images / milliseconds, "ms": milliseconds}
    if alone:
        module.to(bench.device).train()
        batch = torch.rand(batch_size, 3, side, side, device=bench.device).contiguous(memory_format=torch.channels_last)
        label = torch.zeros(batch_size, dtype=torch.long, device=bench.device)

        def backward() -> None:
            module.zero_grad()
            with bench.autocast():
                loss = F.cross_entropy(module(batch), label)
            loss.backward()

        def forward() -> None:
            with bench.autocast():
                module(batch)

        both, first = 1000 * bench.timed(backward), 1000 * bench.timed(forward)
        made |= {"forward ms": first, "backward ms": both - first, "outside %": 100 * (1 - both / milliseconds)}
        rate = flops * batch_size / (milliseconds / 1000) / 1e12
        made["of matmul %"] = 100 * rate / bench.figure("card", "matmul TFLOP/s")
    return made | meter.figures


def flops_of(bench: Bench, module: Any, side: int) -> float:
    """Floating-point operations of forward and backward pass, an image."""
    module.to(bench.device).train()
    untuned = torch.backends.cudnn.flags(benchmark=False)  # two images need no search for the fastest convolution
    with untuned, FlopCounterMode(display=False) as counter, bench.autocast():
        module(torch.rand(2, 3, side, side, device=bench.device)).float().sum().backward()
    module.zero_grad()
    return counter.get_total_flops() / 2


def mixing(bench: Bench, name: str) -> Figures:
    """A strategy on a batch of finetune's."""
    cfg = bench.configure("stage=finetune", f"mixing={name}", "datamodule.size=224")
    datamodule = bench.data(cfg)
    pixels = datamodule.train_dataloader().batch
    batch = PixelBatch(*(part if part is None else part.to(bench.device) for part in pixels)).on_device()
    strategy = cli.instantiate(cfg.mixing)
    seconds = bench.timed(lambda: strategy(batch), 10)
    share = 100_000 * seconds / bench.figure("resnet34 224", "ms")
    made: Figures = {"px": datamodule.last_size, "batch": len(batch.label), "ms a batch": 1000 * seconds}
    return made | {"of resnet34's step %": share}


def maps(bench: Bench) -> Figures:
    """wsss's maps of a batch of images at their own size, over the published scales and flips."""
    cfg = bench.configure("stage=wsss", "masks=none")
    module = cli.instantiate(cfg.module).to(bench.device).eval()
    datamodule = bench.data(cfg)
    pixels = next(iter(datamodule.predict_dataloader()))
    batch = type(pixels)(*(part.to(bench.device) for part in pixels)).on_device()
    torch.backends.cudnn.benchmark = False  # as while masks are made
    with torch.inference_mode(), bench.autocast():
        seconds = bench.timed(lambda: module.predict_step(batch, 0), 2)
    return {"batch": len(batch.position), "images/s": len(batch.position) / seconds, "ms a batch": 1000 * seconds}


def crf(bench: Bench) -> Figures:
    """Masks by the CRF in processes, from maps that are there."""
    import cv2
    import numpy as np

    from benchmarks.masks import make, picture

    rng, rough = np.random.default_rng(0), []
    processes, count = (1, 2) if bench.tiny else (16, 384)
    with tempfile.TemporaryDirectory(dir=bench.folder) as name:
        for i in range(16):
            image, foreground = picture(rng)
            cv2.imwrite(str(Path(name, f"{i}.jpg")), image)
            rough.append(foreground)
        rate = make(Path(name), rough, count, processes, report=False)
    return {"processes": processes, "masks/s": rate}


def loading(bench: Bench, *words: str) -> Figures:
    """Images a second of the loader alone."""
    cfg = bench.configure("stage=finetune", "datamodule.size=224", *words)
    datamodule = bench.data(cfg, at_hand=False)
    loader = datamodule.train_dataloader()
    images, begin, skip = 0, 0.0, 0 if bench.tiny else 2 * datamodule.workers
    for epoch in range(1000):
        loader.sampler.set_epoch(epoch)
        for i, batch in enumerate(loader):
            if epoch == 0 and i <= skip:  # the workers start
                begin = time.perf_counter()
                continue
            images += len(batch.label)
            seconds = time.perf_counter() - begin
            if seconds > bench.seconds:
                return {"px": datamodule.last_size, "workers": datamodule.workers, "images/s": images / seconds}
    raise AssertionError


def waiting(bench: Bench) -> Figures:
    """A training that reads its images, and the share of its time that it waits for them."""
    cfg = bench.configure("stage=finetune", "datamodule.size=224", "trainer.profiler=simple")
    datamodule = bench.data(cfg, at_hand=False)
    module = train.make_module(cfg, Run(Path(cfg.run_dir), None, False, None), None)
    meter, trainer = fit(bench, cfg, datamodule, module, 0)
    durations = trainer.profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]
    timed_steps = len(meter.windows) * meter.window
    waited = sum(durations[meter.warm + 1 :][:timed_steps]) / timed_steps
    batch = int(cfg.datamodule.batch_size)
    made: Figures = {"px": datamodule.last_size, "batch": batch, "workers": datamodule.workers}
    return made | {"images/s": 1000 * batch / meter.figures["ms"], "wait %": 100_000 * waited / meter.figures["ms"]}


def prediction(bench: Bench) -> Figures:
    """Eleven members that share a pass over images at hand."""
    from src.prediction.run import Panel
    from src.prediction.tta import Plain

    side, count, members = (32, 4, 2) if bench.tiny else (224, 64, 11)
    cfg = bench.configure("stage=adapt")
    bench.data(cfg)
    networks = [cli.instantiate(cfg.module) for _ in range(members)]
    panel = Panel(networks, Plain(), [str(i) for i in range(count)], torch.empty(0, 3, side, side, dtype=torch.uint8))
    panel.to(bench.device).eval()
    pixels = torch.randint(0, 256, (count, 1, side, side, 3), dtype=torch.uint8, device=bench.device)
    facts = (torch.arange(count, device=bench.device) for _ in range(3))
    batch = PixelBatch(pixels, *facts, None, None).on_device()
    torch.backends.cudnn.benchmark = True
    with torch.inference_mode(), bench.autocast():
        seconds = bench.timed(lambda: panel.predict_step(batch, 0))
    return {"px": side, "batch": count, "members": members, "images/s": count / seconds, "ms a batch": 1000 * seconds}


def trained(model: str, side: int, *words: str, inspected: int = 0) -> Callable[[Bench], Figures]:
    """Steps of stage finetune with a backbone at a size, and its network alone."""
    every = ["stage=finetune", f"model={model}", f"datamodule.size={side}", *words]

    def row(bench: Bench) -> Figures:
        chosen = [word for word in every if not (bench.tiny and word.startswith("model="))]
        return steps(bench, *chosen, alone=True, inspected=inspected)

    return row


def stage(name: str, *words: str) -> Callable[[Bench], Figures]:
    """Steps of a stage, with host reads and launches."""
    return lambda bench: steps(bench, f"stage={name}", *words, inspected=2)


COMPILED = (
    ("resnet34", 224), ("resnet34", 448), ("densenet121", 224), ("wide_resnet50_2", 224), ("resnet34", 512),
    ("wide_resnet50_2", 448), ("wide_resnet50_2", 512), ("densenet121", 448), ("densenet121", 512),
)  # fmt: skip
ROWS: dict[str, Callable[[Bench], Figures]] = {
    "card": card,
    **{f"{model} 224": trained(model, 224, inspected=2) for model in BACKBONES},
    "baseline": stage("baseline"),
    "moco": stage("moco"),
    "moco, one group": stage("moco", "module.num_splits=1"),
    "fdg": stage("fdg"),
    "wsss": stage("wsss", "masks=none", "callbacks.masks=null"),
    "adapt": stage("adapt"),
    **{f"mixing {name}": partial(mixing, name=name) for name in MIXINGS},
    "maps": maps,
    "masks": crf,
    "loading": lambda bench: loading(bench, "masks=none", f"{AUGMIX}=0"),
    "loading, mask": lambda bench: loading(bench, f"{AUGMIX}=0"),
    "loading, mask, AugMix": loading,
    "training from disk": waiting,
    "prediction": prediction,
    **{f"{model} {side}": trained(model, side) for side in (448, 512) for model in BACKBONES},
    **{f"{model} {side}, compiled": trained(model, side, "compile=true") for model, side in COMPILED},
}
"""In the order in which they are measured: what is cheap and tells most comes first, what compiles last."""
