"""The six contexts: a ground (the background), and a cover (what the context does to the whole scene)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from src.datamodules.synthetic.painting import (
    BLADE,
    BLOCK,
    LEAF,
    RIPPLE,
    STONE,
    TUFT,
    Pixels,
    Shape,
    light,
    noise,
    ramp,
    scatter,
    slope,
)


def autumn_ground(rng: np.random.Generator, shape: Shape) -> Pixels:
    """Warm blurred foliage, often with trunks, under many leaves."""
    colours = [(58, 38, 22), (140, 82, 34), (205, 132, 44), (170, 60, 28)]
    picture = ramp(rng, noise(rng, shape, (3, 3)), colours)
    if rng.random() < 0.5:
        trunks = [(62, 46, 34), (88, 70, 54), (40, 32, 28)]
        scatter(rng, picture, BLOCK * (0.15, 1.6), int(rng.integers(1, 5)), (0.4, 0.7), trunks, (0, 0.4), 0.12)
    leaves = [(214, 120, 30), (188, 52, 24), (232, 178, 50), (140, 80, 30), (120, 110, 40)]
    scatter(rng, picture, LEAF, int(rng.integers(50, 130)), (0.02, 0.07), leaves)
    return picture


def autumn_cover(rng: np.random.Generator, scene: Pixels) -> None:
    """Some leaves fall in front of the object; the light is warm."""
    leaves = [(224, 130, 30), (198, 52, 24), (240, 190, 60)]
    scatter(rng, scene, LEAF, int(rng.integers(2, 10)), (0.025, 0.06), leaves)
    light(scene, rng.uniform(0.85, 1.1), (1.08, 0.98, 0.85))


def dim_ground(rng: np.random.Generator, shape: Shape) -> Pixels:
    """Dusk: dark walls and out-of-focus lamps."""
    picture = ramp(rng, noise(rng, shape, (2, 2), 2), [(30, 30, 62), (74, 62, 104), (104, 84, 90)], 22)
    blocks = [(30, 28, 40), (52, 46, 58), (70, 56, 50)]
    scatter(rng, picture, BLOCK, int(rng.integers(2, 8)), (0.15, 0.4), blocks, (0.2, 0.8), 0.05)
    lamps = np.zeros_like(picture)
    colours = [(255, 190, 90), (255, 240, 200), (255, 90, 70), (120, 190, 255)]
    scatter(rng, lamps, TUFT, int(rng.integers(4, 16)), (0.015, 0.08), colours, (0, 0.7))
    return cv2.add(picture, cv2.GaussianBlur(lamps, (0, 0), 2.0)).astype(np.uint8, copy=False)


def dim_cover(rng: np.random.Generator, scene: Pixels) -> None:
    """Darkness with a pool of light, and the grain of a long exposure."""
    pool = 0.6 + 0.7 * noise(rng, scene.shape[:2], (2, 2), 1)  # a pool of light somewhere in the dark
    grain = rng.normal(0, 6, scene.shape[:2]).astype(np.float32)
    light(scene, pool * np.float32(rng.uniform(0.5, 0.85)), (0.9, 0.92, 1.15), grain)


def grass_ground(rng: np.random.Generator, shape: Shape) -> Pixels:
    """A meadow of blades, with or without flowers."""
    picture = ramp(rng, noise(rng, shape, (4, 3)), [(34, 70, 22), (70, 124, 40), (128, 160, 62), (96, 140, 40)])
    blades = [(50, 110, 30), (96, 158, 48), (150, 186, 80), (34, 80, 26), (170, 170, 90)]
    scatter(rng, picture, BLADE, int(rng.integers(120, 220)), (0.05, 0.14), blades, (0, 1.05), 0.5)
    flowers = [(244, 240, 230), (246, 214, 60), (200, 90, 190)]
    scatter(rng, picture, TUFT, int(rng.integers(0, 24)), (0.01, 0.025), flowers)
    return picture


def grass_cover(rng: np.random.Generator, scene: Pixels) -> None:
    """Blades stand in front of the lower part of the object."""
    blades = [(60, 126, 34), (110, 170, 56), (44, 92, 30)]
    scatter(rng, scene, BLADE, int(rng.integers(10, 30)), (0.06, 0.13), blades, (0.5, 1.1), 0.5)
    light(scene, rng.uniform(0.9, 1.1), (0.96, 1.06, 0.9))


def outdoor_ground(rng: np.random.Generator, shape: Shape) -> Pixels:
    """A street: sky, houses with windows, trees, and a floor with lines."""
    skies = [
        [(70, 130, 205), (190, 220, 240)],
        [(150, 160, 172), (222, 224, 226)],
        [(110, 150, 210), (246, 214, 180)],
    ]
    floors = [
        [(120, 118, 116), (168, 164, 158)],
        [(170, 146, 110), (206, 186, 150)],
        [(96, 96, 104), (140, 134, 128)],
    ]
    horizon = int(shape[0] * rng.uniform(0.35, 0.65))
    climb = np.linspace(0, 0.7, shape[0], dtype=np.float32)[:, None]
    picture = ramp(rng, climb + 0.3 * noise(rng, shape, (3, 2)), skies[rng.integers(3)])
    walls = [(176, 110, 90), (214, 200, 176), (120, 130, 146), (232, 228, 220), (150, 84, 70)]
    top, bottom = horizon / shape[0] - 0.25, horizon / shape[0]
    scatter(rng, picture, BLOCK, int(rng.integers(2, 7)), (0.15, 0.4), walls, (top, bottom), 0)
    panes = [(60, 70, 86), (240, 226, 160), (90, 110, 130)]
    scatter(rng, picture, BLOCK, int(rng.integers(20, 60)), (0.015, 0.04), panes, (top - 0.1, bottom), 0)
    trees = [(60, 96, 50), (84, 120, 60), (50, 76, 56)]
    scatter(rng, picture, TUFT, int(rng.integers(0, 10)), (0.06, 0.16), trees, (bottom - 0.12, bottom))
    picture[horizon:] = ramp(rng, noise(rng, shape, (6, 2), 4), floors[rng.integers(3)])[horizon:]
    lines = [(236, 234, 226), (74, 72, 72), (200, 170, 60)]
    scatter(rng, picture, RIPPLE, int(rng.integers(2, 9)), (0.15, 0.6), lines, (bottom + 0.05, 1), 0.25)
    return picture


def outdoor_cover(rng: np.random.Generator, scene: Pixels) -> None:
    """Sun glare from one side, and at times a post in front of the object."""
    glare = rng.uniform(0, 70) * slope(rng, scene.shape[:2])
    posts = [(60, 62, 66), (190, 190, 186), (110, 84, 60)]
    scatter(rng, scene, BLOCK * (0.03, 1), int(rng.integers(0, 2)), (0.5, 1.0), posts, (0.3, 0.9), 0.03)
    light(scene, rng.uniform(0.95, 1.15), (1.04, 1.0, 0.96), glare)


def rock_ground(rng: np.random.Generator, shape: Shape) -> Pixels:
    """Rough ground with stones and their shadows."""
    tones = [
        [(70, 68, 66), (140, 136, 130), (190, 184, 174)],
        [(84, 62, 50), (150, 118, 94), (196, 168, 140)],
    ]
    palette = tones[rng.integers(2)]
    picture = ramp(rng, noise(rng, shape, (4, 4), 5), palette)
    count, shadow = int(rng.integers(15, 60)), [(46, 44, 44)]
    state = rng.bit_generator.state  # the same stones twice: their dark undersides, then the stones themselves
    scatter(rng, picture, STONE * 1.12 + (0.08, 0.12), count, (0.03, 0.14), shadow, jitter=8)
    rng.bit_generator.state = state
    scatter(rng, picture, STONE, count, (0.03, 0.14), palette, jitter=22)
    grain = rng.normal(0, 9, shape).astype(np.float32)
    light(picture, 0.85 + 0.3 * noise(rng, shape, (8, 8), 3), glare=grain)
    return picture


def rock_cover(rng: np.random.Generator, scene: Pixels) -> None:
    """A hard shadow falls across the scene."""
    shade = slope(rng, scene.shape[:2]) + 0.15 * noise(rng, scene.shape[:2], (6, 6), 2) > rng.uniform(0.5, 1.1)
    light(scene, np.where(shade, np.float32(rng.uniform(0.55, 0.8)), np.float32(1.03)))


def water_ground(rng: np.random.Generator, shape: Shape) -> Pixels:
    """Waves that grow towards the viewer, with foam."""
    tones = [[(8, 50, 92), (30, 110, 150), (150, 206, 220)], [(14, 70, 70), (50, 138, 130), (176, 220, 200)]]
    palette = tones[rng.integers(2)]
    depth = np.linspace(0.6, 1.6, shape[0], dtype=np.float32)[:, None]  # waves grow towards the viewer
    swell = noise(rng, shape, (7, 3), 2) + 0.5 * noise(rng, shape, (14, 3), 2)
    waves = np.sin(swell * np.float32(rng.uniform(10, 20)) / depth)
    picture = ramp(rng, np.clip(0.4 + 0.25 * waves + 0.25 * (swell - 0.7), 0, 1), palette)
    scatter(rng, picture, RIPPLE, int(rng.integers(20, 70)), (0.04, 0.22), [*palette, (226, 240, 244)], tilt=0.1)
    return picture


def water_cover(rng: np.random.Generator, scene: Pixels) -> None:
    """Below a waterline the object sways, and foam drifts in front."""
    height, width = scene.shape[:2]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    line = height * rng.uniform(0.3, 0.8)  # below it, everything is seen through the moving surface
    sunk = np.clip((y - line) / (0.15 * height), 0, 1).astype(np.float32)
    sway = np.sin(y * np.float32(rng.uniform(0.4, 0.9)) + 3 * noise(rng, (height, width), (3, 2), 1))
    scene[:] = cv2.remap(
        scene, x + sunk * sway * np.float32(0.012 * width), y, cv2.INTER_LINEAR, None, cv2.BORDER_REFLECT
    )
    light(scene, 1 - 0.25 * sunk, (0.85, 1.0, 1.08), 18 * sunk)
    foam = [(226, 240, 244), (120, 190, 206)]
    scatter(rng, scene, RIPPLE, int(rng.integers(2, 9)), (0.05, 0.15), foam, (0.4, 1), 0.08)


class Context(NamedTuple):
    """How a context looks behind an object, and what it does to the scene (H, W, 4) with the object in it."""

    ground: Callable[[np.random.Generator, Shape], Pixels]
    cover: Callable[[np.random.Generator, Pixels], None]


CONTEXTS = {
    "autumn": Context(autumn_ground, autumn_cover),
    "dim": Context(dim_ground, dim_cover),
    "grass": Context(grass_ground, grass_cover),
    "outdoor": Context(outdoor_ground, outdoor_cover),
    "rock": Context(rock_ground, rock_cover),
    "water": Context(water_ground, water_cover),
}
