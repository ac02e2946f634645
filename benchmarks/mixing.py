"""Images a second of each mix on one thread, beside the same written image by image, and the memory that it takes.

    python -m benchmarks.mixing [--rounds 5]

The code beside which ours is measured is this benchmark's own: the equations of docs/method.md, sections 5 and 6, in a
loop over images. It cuts each image into its parts (foreground and background by the mask; low and high frequencies,
own and partner's, by a complex transform, a shift, a box and the way back for each of the equation's four terms),
stacks lists of them, and mixes those. Amplitudes are mixed pair by pair, both ways. It is given normalised pixels; the
mixes here are given pixels, which the module normalises afterwards: that is timed on neither side. Both end with the
same numbers, which is checked.

Batches have the data module's order in memory (channels_last), the loop's the usual one. Rounds alternate between the
two; times are this process's CPU seconds, which other processes disturb less than the clock's; the table has their
medians. Memory is what a mix holds at its peak beside the batch that it was given, in copies of that batch: the running
sum of the allocations and frees that PyTorch's profiler records. Buffers inside the FFT library are not among them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from src.fourier import mix_amplitude
from src.mixing.foreground import mix_regions
from src.mixing.spectrum import spectrum

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
LAM, OTHER_LAM = torch.tensor(0.3), torch.tensor(0.8)
Work = Callable[[], torch.Tensor]


class Line(NamedTuple):
    """A line of the table: a batch, its mix, the same image by image, and from the first result to the second."""

    title: str
    images: torch.Tensor
    ours: Work
    by_image: Work
    then: Callable[[torch.Tensor], torch.Tensor]


def normalise(x: torch.Tensor) -> torch.Tensor:
    """As a module's forward does."""
    return (x - MEAN) / STD


def foreground_by_image(z: torch.Tensor, mask: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
    """The context-based mix of normalised images."""
    inside, outside = [], []
    for image, of_image in zip(z, mask, strict=True):
        weight = of_image.float()[None]
        inside.append(weight * image)
        outside.append((1 - weight) * image)
    fore, back = torch.stack(inside), torch.stack(outside)
    mixed_fore = LAM * fore + (1 - LAM) * fore[partner]
    return mixed_fore + OTHER_LAM * back + (1 - OTHER_LAM) * back[partner]


def centred_box(height: int, width: int, ratio: float) -> torch.Tensor:
    """1 inside the low-pass box of a shifted spectrum."""
    box = torch.zeros(height, width)
    rows, columns = int(ratio * height / 2), int(ratio * width / 2)
    box[height // 2 - rows : height // 2 + rows + 1, width // 2 - columns : width // 2 + columns + 1] = 1
    return box


def filtered(image: torch.Tensor, box: torch.Tensor) -> torch.Tensor:
    """The part of (3, H, W) that a box over its shifted spectrum leaves."""
    transformed = torch.fft.fftshift(torch.fft.fft2(image), dim=(-2, -1))
    return torch.fft.ifft2(torch.fft.ifftshift(transformed * box, dim=(-2, -1))).real


def spectrum_by_image(z: torch.Tensor, partner: torch.Tensor, ratio: float) -> torch.Tensor:
    """The frequency-based mix of normalised images."""
    mixed = []
    box = centred_box(z.shape[2], z.shape[3], ratio)
    for own, place in zip(z, partner, strict=True):
        other = z[place]
        low = LAM * filtered(own, box) + (1 - LAM) * filtered(other, box)
        mixed.append(low + OTHER_LAM * filtered(own, 1 - box) + (1 - OTHER_LAM) * filtered(other, 1 - box))
    return torch.stack(mixed)


def amplitude_by_pair(x: torch.Tensor, ratio: float) -> torch.Tensor:
    """The amplitude mix of images 0 and 1, 2 and 3, ... both ways, clipped."""
    mixed = []
    box = centred_box(x.shape[2], x.shape[3], ratio)
    for pair in x.split(2):
        spectra = [torch.fft.fftshift(torch.fft.fft2(image), dim=(-2, -1)) for image in pair]
        amplitudes, phases = [s.abs() for s in spectra], [s.angle() for s in spectra]
        for own in (0, 1):
            weight = LAM * box
            amplitude = (1 - weight) * amplitudes[own] + weight * amplitudes[1 - own]
            back = torch.fft.ifftshift(amplitude * torch.exp(1j * phases[own]), dim=(-2, -1))
            mixed.append(torch.fft.ifft2(back).real.clamp(0, 1))
    return torch.stack(mixed)


def lines() -> list[Line]:
    """The table's lines: sizes, batches and ratios of docs/method.md, sections 5 and 6."""
    generator = torch.Generator().manual_seed(0)

    def batch(count: int, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        x = torch.rand(count, 3, side, side, generator=generator).to(memory_format=torch.channels_last)
        mask = torch.rand(count, side, side, generator=generator) > 0.5
        return x, mask, torch.randperm(count, generator=generator)

    def by_context(side: int, count: int) -> Line:
        x, mask, partner = batch(count, side)
        z = normalise(x).contiguous()
        return Line(
            "foreground",
            x,
            lambda: mix_regions(x, mask, partner, LAM, OTHER_LAM, MEAN),
            lambda: foreground_by_image(z, mask, partner),
            normalise,
        )

    def by_frequency(side: int, count: int, ratio: float) -> Line:
        x, _, partner = batch(count, side)
        z = normalise(x).contiguous()
        return Line(
            f"spectrum, r {ratio}",
            x,
            lambda: spectrum(x, partner, LAM, OTHER_LAM, ratio),
            lambda: spectrum_by_image(z, partner, ratio),
            normalise,
        )

    def amplitudes(side: int, count: int, ratio: float) -> Line:
        x, _, _ = batch(count, side)
        pixels, partner = x.contiguous(), torch.arange(count) ^ 1
        return Line(
            f"amplitude, r {ratio}",
            x,
            lambda: mix_amplitude(x, partner, LAM, ratio).clamp_(0, 1),
            lambda: amplitude_by_pair(pixels, ratio),
            lambda mixed: mixed,
        )

    return [
        by_context(224, 128),
        by_context(512, 48),
        by_frequency(224, 128, 0.5),
        by_frequency(224, 128, 0.9),
        by_frequency(512, 48, 0.5),
        by_frequency(512, 48, 0.9),
        amplitudes(512, 48, 0.2),
        amplitudes(512, 48, 1.0),
    ]


def peak_copies(work: Work, x: torch.Tensor) -> float:
    """The most that a call holds at once, its result included, in copies of x."""
    os.environ["KINETO_LOG_LEVEL"] = "99"  # the profiler would report its own stages
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "trace.json"
        profile.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak / (x.numel() * x.element_size())


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"medians of {options.rounds} rounds, CPU time of one thread")
    for line in lines():
        torch.testing.assert_close(line.then(line.ours()), line.by_image(), rtol=1e-3, atol=1e-3)
        times: dict[Work, list[float]] = {line.ours: [], line.by_image: []}
        for _ in range(options.rounds):
            for work, seconds in times.items():
                begin = time.process_time()
                work()
                seconds.append(time.process_time() - begin)
        count, side = len(line.images), line.images.shape[2]
        ours, by_image = (count / statistics.median(seconds) for seconds in times.values())
        print(
            f"{line.title:>17}, {count:3d} images of {side} px: {ours:5.0f} images/s, "
            f"{ours / by_image:4.1f} times the {by_image:4.0f} image by image; "
            f"peak memory {peak_copies(line.ours, line.images):.2f} copies of the batch",
            flush=True,
        )


if __name__ == "__main__":
    main()
