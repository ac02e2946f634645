"""Networks of the chain before a sample of the images: their maps of evidence, and their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from src.data.datasets import Images
from src.data.manifest import read_manifest
from src.data.mask_files import names_of
from src.prediction.image_sets import ImageSet, Truth
from src.prediction.members import Member, rebuild
from src.prediction.run import OpenImages
from src.report.chain import chain, moved
from src.report.where import evidence_map, share_on
from src.runs.records import read_config

AT_ONCE = 8  # images in a pass: back through a ResNet-50, one of 448 pixels takes about half a GB


class Look(NamedTuple):
    """What networks find in n images.

    Attributes:
        images: the images.
        maps: each network's evidence for an image's own class, (n, h, w) float32 on the CPU; None of one without a map.
        area: share of each image that the object takes, (n,); NaN where its mask says nothing.
        shares: each network's share of the evidence on the object, (n,), NaN likewise; None of one without a map.
    """

    images: ImageSet
    maps: list[torch.Tensor | None]
    area: npt.NDArray[np.float64]
    shares: list[npt.NDArray[np.float64] | None]


def sample(images: ImageSet, count: int, seed: int) -> ImageSet:
    """At most `count` readable images of a set whose truth is known, equally many of each context as far as they reach.

    Without contexts, of each class.
    """
    assert images.truth is not None
    label, contexts = images.truth
    of = np.array(contexts) if any(contexts) else label
    readable = np.flatnonzero(~np.isin(images.names, list(images.unreadable)))
    order = np.random.default_rng(seed).permutation(readable)
    turn, seen = np.empty(len(order), int), dict[object, int]()
    for k, i in enumerate(order):
        turn[k] = seen[of[i]] = seen.get(of[i], -1) + 1
    kept = np.sort(order[np.argsort(turn, kind="stable")[:count]])
    truth = Truth(label[kept], [contexts[i] for i in kept])
    return images._replace(rows=[images.rows[i] for i in kept], truth=truth, unreadable=())


def masks_of(members: Sequence[Member], logs_dir: Path) -> dict[str, Path]:
    """The masks that the last of the members' runs to have any was trained with, by image path; {} without one."""
    for folder in reversed(chain(members, logs_dir)):
        config = read_config(folder)
        manifest = config.get("masks")
        if not isinstance(manifest, str) or manifest == "none":
            continue
        path = moved(Path(manifest), config, logs_dir)
        root = Path(config.get("mask_root") or path.parent)
        return {row.image_path: root / row.image_seg_path for row in read_manifest(path) if row.image_seg_path}
    return {}


def with_masks(images: ImageSet, folder: Path | None, known: Mapping[str, Path]) -> ImageSet:
    """The images whose mask is known, and its path as theirs.

    Args:
        images: the images.
        folder: of masks that mirrors the data root, as stage=wsss has its truth_dir.
        known: other masks, by image path, for what the folder lacks.
    """
    found: dict[int, Path] = {}
    for i, row in enumerate(images.rows):
        # By the second name first: the first may be another image's.
        places = [folder / name for name in reversed(names_of(row.image_path))] if folder else []
        places += [known[row.image_path]] if row.image_path in known else []
        there = next((place for place in places if place.is_file()), None)
        if there:
            found[i] = there.absolute()
    rows = [images.rows[i]._replace(image_seg_path=str(path)) for i, path in found.items()]
    truth = images.truth and Truth(images.truth.label[list(found)], [images.truth.contexts[i] for i in found])
    return images._replace(rows=rows, truth=truth)


def pixels_of(
    images: ImageSet, member: Member, size: int, open_images: OpenImages, max_pixels: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Images of at least one row as a member would see them at a size, and their masks.

    Returns:
        (N, 3, size, size) uint8, and (N, size, size) bool, True on the object, or everywhere if it is not known.

    Raises:
        OSError, ValueError: an image or a mask cannot be read.
    """
    transform = open_images(**member.view).eval_transform
    assert transform is not None
    root = Path() if images.rows[0].image_seg_path else None  # with_masks has whole paths
    dataset = Images(images.rows, images.root, root, transform(size=size), 0, max_pixels=max_pixels)
    examples = [dataset[0, i] for i in range(len(images.rows))]
    masks = [one.mask for one in examples if one.mask is not None]
    image = torch.from_numpy(np.stack([one.pixels[0] for one in examples])).permute(0, 3, 1, 2)
    return image, torch.from_numpy(np.stack(masks)) if masks else torch.ones_like(image[:, 0], dtype=torch.bool)


def look(
    images: ImageSet, members: Sequence[Member], open_images: OpenImages, max_pixels: int, device: torch.device
) -> Look:
    """Map the evidence that members find in images, which have truth, for each image's own class.

    A mask without background says nothing: with it all evidence would lie on the object.

    Raises:
        OSError, ValueError: an image or a mask cannot be read.
    """
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    maps: list[torch.Tensor | None] = []
    shares: list[npt.NDArray[np.float64] | None] = []
    area = np.empty(0)
    for member in members:
        if str(member.view) not in seen:
            seen[str(member.view)] = pixels_of(images, member, member.size, open_images, max_pixels)
        image, mask = seen[str(member.view)]
        own = mask.float().mean((1, 2)).double()
        silent = own == 1
        own[silent] = torch.nan
        area = area if len(area) else own.numpy()
        maps.append(maps_of(member, image, images.label, device))
        share = None if maps[-1] is None else share_on(maps[-1], mask).double().masked_fill(silent, torch.nan)
        shares.append(None if share is None else share.numpy())
    return Look(images, maps, area, shares)


def maps_of(
    member: Member, image: torch.Tensor, label: npt.NDArray[np.int64], device: torch.device
) -> torch.Tensor | None:
    """evidence_map of a member for images (N, 3, H, W) uint8 and classes (N,), on the CPU: (N, h, w), or None."""
    network = rebuild(member).to(device)
    made = []
    for part, own in zip(torch.split(image, AT_ONCE), torch.split(torch.from_numpy(label), AT_ONCE), strict=True):
        maps = evidence_map(network, part.to(device).float() / 255, own.to(device))
        if maps is None:
            return None
        made.append(maps.cpu())
    return torch.cat(made) if made else None


@torch.inference_mode()
def features_of(member: Member, image: torch.Tensor, device: torch.device) -> npt.NDArray[np.float32]:
    """What a member's head sees of images (N, 3, H, W) uint8: (N, C)."""
    network = rebuild(member).to(device)
    parts = [network.normalised(part.to(device).float() / 255) for part in torch.split(image, AT_ONCE)]
    return np.concatenate([network.backbone(part).float().cpu().numpy() for part in parts])
