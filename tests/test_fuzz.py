"""Mutated files: whatever a disk or a stranger makes of them ends in a sentence or in the right value (slow).

Each kind has 2,000 mutants, in a process of its own, so that a crash or a hang is a failure and not the end.
"""

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import save

from tests.conftest import ROOT, sign

pytestmark = pytest.mark.slow

MUTANTS = 2000
SECONDS = 60  # that one mutant may take


def mutated(data: bytes, rng: random.Random) -> bytes:
    """A file cut off, with bits flipped (its beginning most of all), or with bytes put in or over others."""
    changed, kind = bytearray(data), rng.random()
    if kind < 0.25:
        return data[: rng.randrange(len(data))]
    if kind < 0.85:
        for _ in range(rng.choice([1, 1, 2, 8, 64])):
            reach = min(len(data), 200) if rng.random() < 0.5 else len(data)
            changed[rng.randrange(reach)] ^= 1 << rng.randrange(8)
        return bytes(changed)
    at, count = rng.randrange(len(data)), rng.randrange(1, 64)
    return bytes(changed[:at] + rng.randbytes(count) + changed[at + rng.choice([0, count]) :])


def photo(ending: str, *options: int) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    return cv2.imencode(ending, cv2.GaussianBlur(noise, (0, 0), 3), options)[1].tobytes()


def mask() -> bytes:
    return cv2.imencode(".png", np.pad(np.full((60, 80), 255, np.uint8), ((30, 30), (40, 40))))[1].tobytes()


def rows() -> bytes:
    names = [("grass/car/a.jpg", 0, "car", 0), ("water/car/b.jpg", 0, "car", 1), ("grass/dog/c.jpg", 1, "dog", 0)]
    keys = ("image_path", "label", "label_name", "domain")
    return json.dumps([dict(zip(keys, name, strict=True)) for name in names]).encode()


def use_image(path: Path) -> None:
    from src.data.images import decode_image

    image = decode_image(path)
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 and image.size <= 3e8
    decode_image(path, 32)


def use_mask(path: Path) -> None:
    from src.data.mask_files import decode_mask, decode_pair

    decoded = decode_mask(path)
    assert decoded.dtype == bool and decoded.ndim == 2
    whole = path.with_name("photo.jpg")
    if not whole.exists():
        whole.write_bytes(photo(".jpg"))
    image, reduced = decode_pair(whole, path, 32)
    assert image.shape[:2] == reduced.shape


def use_manifest(path: Path) -> None:
    from src.data.manifest import read_manifest

    for row in read_manifest(path):
        assert not os.path.isabs(row.image_path) and ".." not in row.image_path.split("/")
        assert row.label is None or (type(row.label) is int and row.label >= 0)


def use_label_map(path: Path) -> None:
    from src.data.manifest import read_label_map

    labels = read_label_map(path)
    assert len(set(labels.values())) == len(labels) and all(type(i) is int and i >= 0 for i in labels.values())


def use_truth(path: Path) -> None:
    from src.prediction.image_sets import match_truth, read_truth

    truth = match_truth(read_truth(path), ["1.jpg"], path)
    assert truth is None or (truth.label >= 0).all()


def use_weights(path: Path) -> None:
    from src.runs.weights import load_weights, read_weights

    read_weights(path)
    load_weights(path, {"head": torch.nn.Linear(4, 3)})


def use_kept(path: Path) -> None:
    from src.prediction.kept import Task, stored

    kept = stored(Task(None, [], path, "k" * 64))  # type: ignore[arg-type] # the member is not looked at
    assert kept is None or np.array_equal(kept, KEPT)


def use_run(path: Path) -> None:
    """A whole run whose config.yaml is the mutant, once as it is and once signed as if it had ended so."""
    from src.prediction.members import Member, read_member, rebuild

    run = path.parent / "run"
    if not run.exists():
        shutil.copytree(os.environ["FUZZED_RUN"], run)
    whole = (Path(os.environ["FUZZED_RUN"]) / "config.yaml").read_bytes()
    shutil.copy(path, run / "config.yaml")
    sign(run, files={"config.yaml": "0" * 64} if path.read_bytes() != whole else {})
    assert isinstance(read_member(run), str) or path.read_bytes() == whole
    sign(run, files={})
    member = read_member(run)
    assert isinstance(member, Member | str)
    if isinstance(member, Member):
        try:
            rebuild(member)
        except ValueError as error:
            assert str(error)


KEPT = np.linspace(0, 1, 16, dtype=np.float32).reshape(2, 8)


def kept() -> bytes:
    from src.prediction.kept import Task, store

    path = Path(os.environ["FUZZED"]) / "whole.npz"
    store(Task(None, [], path, "k" * 64), ["a.jpg", "b.jpg"], KEPT)  # type: ignore[arg-type] # as above
    return path.read_bytes()


KINDS: dict[str, tuple[Callable[[], bytes], Callable[[Path], None]]] = {
    "jpeg": (lambda: photo(".jpg"), use_image),
    "png": (lambda: photo(".png"), use_image),
    "webp": (lambda: photo(".webp", cv2.IMWRITE_WEBP_QUALITY, 80), use_image),
    "bmp": (lambda: photo(".bmp"), use_image),
    "mask": (mask, use_mask),
    "manifest": (rows, use_manifest),
    "label map": (lambda: json.dumps({"car": 0, "dog": 1, "bird": 2}).encode(), use_label_map),
    "truth": (lambda: json.dumps({f"{i}.jpg": i for i in range(8)}).encode(), use_truth),
    "weights": (lambda: save({"head.weight": torch.ones(3, 4), "head.bias": torch.ones(3)}), use_weights),
    "kept predictions": (kept, use_kept),
    "config.yaml": (lambda: (Path(os.environ["FUZZED_RUN"]) / "config.yaml").read_bytes(), use_run),
}


def attack(kind: str, folder: Path) -> None:
    """Use every mutant of a kind; an exception other than a user's error is a failure, with the mutant kept."""
    import signal
    import warnings

    make, use = KINDS[kind]
    data, rng = make(), random.Random(kind)
    path = folder / "mutant"
    warnings.simplefilter("ignore")
    refused = 0
    for _ in range(MUTANTS):
        path.write_bytes(mutated(data, rng))
        signal.alarm(SECONDS)
        try:
            use(path)
        except (ValueError, OSError) as error:
            assert isinstance(error, OSError) or type(error) is ValueError, repr(error)
            assert str(error)
            refused += 1
    signal.alarm(0)
    print(f"{kind}: {MUTANTS} mutants, {refused} refused")


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_ends_in_a_sentence_or_in_the_right_value(kind: str, trained: Path, tmp_path: Path) -> None:
    run = next((trained / "track1/baseline").iterdir())
    words = [
        sys.executable,
        "-c",
        f"from pathlib import Path; from tests.test_fuzz import attack; attack({kind!r}, Path({str(tmp_path)!r}))",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FUZZED_RUN": str(run), "FUZZED": str(tmp_path)}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
