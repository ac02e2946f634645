"""A small data set in the NICO challenge's layout: drawn objects on drawn contexts, with the truth beside it.

    python -m src.datamodules.synthetic OUT [--seed 0] [--scale 1.0] [--strays N]

writes `OUT/data` (what the challenge ships) and `OUT/truth` (labels, contexts and foreground masks of every
image). The class of an object is its shape; colour, texture and pose are drawn without looking at the class.
The context paints the background and touches the object a little. Track 1 tests on two contexts that training
never shows, track 2 trains each class mostly in two contexts of its own and tests it in the other four: a
classifier that leans on the background does well in training and fails there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

VERSION = 1  # of the pictures: raise it with every change that alters a byte of the output
JPEG_QUALITY = 92
SIDES = (96, 161)  # a picture's sides in pixels, lowest and one past the highest
FOREGROUND = (0.13, 0.35)  # the share of the picture that an object is scaled to
CELL = {"track1_train": 38, "track1_test": 40, "track2_train": 70, "track2_test": 20}  # images a class and context

Pixels = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
Shape = tuple[int, int]
Colours = Sequence[tuple[int, int, int]]


# Painting


def noise(rng: np.random.Generator, shape: Shape, cells: Shape = (4, 4), octaves: int = 3) -> Field:
    """Smooth noise of several octaves: (H, W) float32 that spans [0, 1]; `cells` are the coarsest grid's."""
    total: Field = np.zeros(shape, np.float32)
    for octave in range(octaves):
        grid = rng.random((cells[0] << octave, cells[1] << octave), dtype=np.float32)
        total += cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC) * np.float32(0.5**octave)
    return cv2.normalize(total, total, 0, 1, cv2.NORM_MINMAX).astype(np.float32, copy=False)


def slope(rng: np.random.Generator, shape: Shape) -> Field:
    """A plane that rises from 0 to 1 across the picture in a random direction: (H, W) float32."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.ogrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    plane: Field = (x * np.cos(angle) + y * np.sin(angle)).astype(np.float32)
    return cv2.normalize(plane, plane, 0, 1, cv2.NORM_MINMAX).astype(np.float32, copy=False)


def ramp(rng: np.random.Generator, field: Field, colours: Colours, jitter: float = 18) -> Pixels:
    """Colour a (H, W) field in [0, 1] through a ramp of jittered RGB colours: (H, W, 3) uint8."""
    stops = np.asarray(colours) + rng.normal(0, jitter, 3) + rng.normal(0, jitter / 2, (len(colours), 3))
    place = np.linspace(0, 1, len(colours))
    table = np.stack([np.interp(np.linspace(0, 1, 256), place, stop) for stop in stops.T], axis=1)
    indices = cv2.merge([(field * 255).astype(np.uint8)] * 3)
    return cv2.LUT(indices, np.clip(table, 0, 255).astype(np.uint8)[None]).astype(np.uint8, copy=False)


def ellipse(x: float, y: float, rx: float, ry: float, start: float = 0, stop: float = 360) -> Points:
    """Points (n, 2) of an ellipse's arc between two angles in degrees, clockwise from the right (y points down)."""
    angle = np.radians(np.linspace(start, stop, 25))
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def polygon(*points: tuple[float, float]) -> Points:
    """Points (n, 2) from corners."""
    return np.array(points, np.float64)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """Points (4, 2) of an upright rectangle."""
    return polygon((left, top), (right, top), (right, bottom), (left, bottom))


LEAF = polygon((-1, 0), (-0.4, -0.45), (0.3, -0.4), (1, 0), (0.3, 0.4), (-0.4, 0.45))
BLADE = polygon((-0.07, 1), (0.07, 1), (0.03, -0.3), (0.0, -1))
STONE = polygon((-1, 0.1), (-0.6, -0.6), (0.1, -0.8), (0.8, -0.5), (1, 0.2), (0.4, 0.7), (-0.5, 0.7))
TUFT = ellipse(0, 0, 1, 1)[::2]
BLOCK = box(-0.6, -1, 0.6, 1)
RIPPLE = polygon((-1, 0), (-0.3, -0.06), (0.4, -0.05), (1, 0), (0.3, 0.07), (-0.5, 0.06))


def scatter(
    rng: np.random.Generator,
    picture: Pixels,
    outline: Points,
    count: int,
    size: tuple[float, float],
    colours: Colours,
    rows: tuple[float, float] = (0, 1),
    tilt: float = np.pi,
    jitter: float = 16,
) -> None:
    """Draw `count` convex outlines in place, in random colours, sizes and tilts, the far (upper) ones first.

    `picture` is (H, W, 3) uint8, or (H, W, 4) with the object's mask as the fourth channel: what is drawn hides
    the object, so the mask is cleared there. `size` is in shorter sides of the picture, `rows` in heights.
    """
    height, width = picture.shape[:2]
    centre = rng.uniform((0, rows[0] * height), (width, rows[1] * height), (count, 2))
    centre = centre[np.argsort(centre[:, 1])]
    angle, radius = rng.uniform(-tilt, tilt, count), rng.uniform(*size, count) * min(height, width)
    turn = np.stack([np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)], axis=1).reshape(-1, 2, 2)
    points = outline @ turn * radius[:, None, None] + centre[:, None]
    shades = np.asarray(colours)[rng.integers(len(colours), size=count)] + rng.normal(0, jitter, (count, 1))
    tints = np.clip(shades + rng.normal(0, jitter / 2, (count, 3)), 0, 255)
    for corners, tint in zip((points * 16).astype(np.int32), tints.tolist(), strict=True):
        cv2.fillConvexPoly(picture, corners, tint, cv2.LINE_AA, shift=4)


def light(picture: Pixels, gain: Field | float, tint: Sequence[float] = (1, 1, 1), glare: Field | float = 0) -> None:
    """Multiply the RGB of a (H, W, 3 or 4) uint8 picture by gain x tint and add `glare`, in place, saturating."""
    flat = np.ones(picture.shape[:2], np.float32)
    lit = cv2.multiply(picture[..., :3], cv2.merge([flat * (gain * part) for part in tint]), dtype=cv2.CV_32F)
    picture[..., :3] = cv2.add(lit, cv2.merge([flat * glare] * 3), dtype=cv2.CV_8U)


# Contexts: a ground (the background without the object), and a cover (what the context does to the whole scene)


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


# Objects: polygons in a plane of any unit (y points down), each with a tone: 1 body, 2 second colour, 3 accent

Part = tuple[Points, int]


def airplane(rng: np.random.Generator) -> list[Part]:
    """From above: two pairs of swept wings across a body."""
    span, sweep, body = rng.uniform(0.75, 1.05), rng.uniform(0.1, 0.5), rng.uniform(0.13, 0.19)
    chord, tail = rng.uniform(0.32, 0.48), rng.uniform(0.3, 0.45)
    wings = polygon((0.25, 0), (0.25 - sweep, span), (0.08 - sweep, span), (0.25 - chord, 0))
    fins = polygon((-0.68, 0), (-0.85, tail), (-1.0, tail), (-0.95, 0))
    parts = [(wing * (1, side), 2) for wing in (wings, fins) for side in (-1, 1)]
    return [*parts, (ellipse(0, 0, 1, body), 1), (ellipse(0.72, 0, 0.14, body * 0.6), 3)]


def bird(rng: np.random.Generator) -> list[Part]:
    """From the side: body, head, beak, tail, wing and legs."""
    plump, head, lift = rng.uniform(0.34, 0.5), rng.uniform(0.2, 0.28), rng.uniform(0.3, 0.5)
    tail, beak = rng.uniform(0.35, 0.65), rng.uniform(0.18, 0.4)
    wing = polygon((0.3, -0.05), (-0.1, plump * 0.75), (-0.75, rng.uniform(-0.3, 0.3)), (-0.3, -plump * 0.6))
    legs = [(box(x, plump * 0.8, x + 0.07, plump + 0.35), 3) for x in (-0.08, 0.12)]
    return [
        *legs,
        (polygon((-0.4, -0.15), (-0.65 - tail, -0.2), (-0.6 - tail, 0.15), (-0.4, 0.25)), 2),
        (
            polygon(
                (0.62 + head * 0.7, -lift - 0.1),
                (0.62 + head + beak, -lift),
                (0.62 + head * 0.7, -lift + 0.12),
            ),
            3,
        ),
        (ellipse(0, 0, 0.68, plump), 1),
        (ellipse(0.58, -lift, head, head), 1),
        (
            polygon((0.2, -plump * 0.8), (0.58, -lift - head * 0.8), (0.75, -lift + head * 0.5), (0.5, 0.15)),
            1,
        ),
        (wing, 2),
        (ellipse(0.64, -lift - 0.03, 0.05, 0.05), 3),
    ]


def cactus(rng: np.random.Generator) -> list[Part]:
    """A column with two bent arms."""
    thick, reach = rng.uniform(0.2, 0.28), rng.uniform(0.5, 0.72)
    parts: list[Part] = [(box(-thick, -0.8, thick, 1), 1), (ellipse(0, -0.8, thick, thick), 1)]
    for side in (-1, 1):
        y, top, arm = rng.uniform(-0.1, 0.5), rng.uniform(0.4, 0.75), thick * rng.uniform(0.6, 0.8)
        bough = [box(0, y - arm, reach, y + arm), box(reach - arm, y - top, reach + arm, y)]
        knobs = [ellipse(reach, y, arm, arm), ellipse(reach, y - top, arm, arm)]
        parts += [(points * (side, 1), 1) for points in bough + knobs]
    return [*parts, (box(-0.06, -0.75, 0.06, 0.95), 2), (box(-0.4, 0.9, 0.4, 1.15), 3)]


def car(rng: np.random.Generator) -> list[Part]:
    """From the side: cabin over body, two wheels, panes."""
    roof, hood, wheel = rng.uniform(0.38, 0.6), rng.uniform(0.2, 0.5), rng.uniform(0.2, 0.27)
    body = polygon((-1, 0.4), (-1, 0.05), (-0.9, -0.02), (0.85, -0.02), (1.05, 0.15), (1.05, 0.4))
    cabin = polygon((-0.85, 0), (-0.6, -roof), (0.3, -roof), (hood + 0.25, 0))
    panes = [polygon((-0.66, -0.04), (-0.5, -roof + 0.1), (-0.2, -roof + 0.1), (-0.2, -0.04))]
    panes += [polygon((-0.1, -0.04), (-0.1, -roof + 0.1), (0.22, -roof + 0.1), (hood + 0.05, -0.04))]
    wheels = [ellipse(x, 0.4, wheel, wheel) for x in (-0.58, 0.6)]
    hubs = [ellipse(x, 0.4, wheel * 0.45, wheel * 0.45) for x in (-0.58, 0.6)]
    return [(cabin, 1), (body, 1), *((p, 3) for p in panes + wheels), *((p, 2) for p in hubs)]


def chair(rng: np.random.Generator) -> list[Part]:
    """A seat on four legs with a back of two rails."""
    tall, leg, wide = rng.uniform(0.75, 1.1), rng.uniform(0.09, 0.14), rng.uniform(0.45, 0.6)
    deep, rise = rng.uniform(0.3, 0.5), rng.uniform(0.12, 0.25)
    seat = polygon((-wide, 0), (wide, 0), (wide + deep, rise), (-wide + deep * 0.4, rise + 0.12))
    feet = [
        (-wide, 0, 0.75),
        (wide - leg, 0, 0.75),
        (wide + deep - leg, rise, 1),
        (-wide + deep * 0.4, rise, 1),
    ]
    legs = [(box(x, y, x + leg, bottom), 3) for x, y, bottom in feet]
    rails = [(box(-wide, -tall * y, wide, -tall * y + 0.3), 2) for y in (1, 0.5)]
    posts = [(box(x, -tall, x + leg, 0.1), 1) for x in (-wide, wide - leg)]
    return [*legs, *rails, *posts, (seat, 1)]


def fish(rng: np.random.Generator) -> list[Part]:
    """From the side: body, forked tail, fins, eye."""
    deep, tail, fin = rng.uniform(0.3, 0.52), rng.uniform(0.3, 0.5), rng.uniform(0.15, 0.35)
    return [
        (polygon((-0.55, 0), (-1.15, -tail), (-0.95, 0), (-1.15, tail)), 2),
        (polygon((-0.4, -deep * 0.6), (-0.2, -deep - fin), (0.3, -deep * 0.8)), 2),
        (polygon((-0.2, deep * 0.7), (-0.3, deep + fin), (0.2, deep * 0.8)), 2),
        (ellipse(0.05, 0, 0.8, deep), 1),
        (polygon((0.2, 0.02), (-0.2, -0.12), (-0.2, 0.22)), 2),
        (ellipse(0.5, -deep * 0.25, 0.08, 0.08), 3),
    ]


def hot_air_balloon(rng: np.random.Generator) -> list[Part]:
    """An envelope with gores over a basket on ropes."""
    round_, drop, basket = rng.uniform(0.66, 0.82), rng.uniform(0.7, 0.95), rng.uniform(0.14, 0.22)
    ropes = [polygon((x * round_, 0.2), (x * 2 * basket, drop), (x * 2 * basket - 0.06, drop)) for x in (-0.5, 0.5)]
    neck = polygon((-round_ * 0.92, 0), (round_ * 0.92, 0), (0.2, 0.62), (-0.2, 0.62))
    gores = [ellipse(0, -0.3, round_ * x, 0.78) for x in (0.62, 0.25)]
    return [
        *((rope, 3) for rope in ropes),
        (neck, 1),
        (ellipse(0, -0.3, round_, 0.78), 1),
        (gores[0], 2),
        (gores[1], 1),
        (box(-basket, drop, basket, drop + 0.28), 3),
    ]


def umbrella(rng: np.random.Generator) -> list[Part]:
    """A scalloped dome on a stick with a hook."""
    dome, stick, ribs = rng.uniform(0.6, 0.85), rng.uniform(0.7, 0.95), int(rng.integers(3, 6))
    edge = np.linspace(-1, 1, ribs + 1)
    cuts = [ellipse(x, 0, 1 / ribs, 0.16, 180, 360) for x in (edge[1:] + edge[:-1]) / 2]
    canopy = np.concatenate([ellipse(0, 0, 1, dome, 180, 360), *cuts[::-1]])
    hook = np.concatenate([ellipse(0.15, stick, 0.2, 0.22, 0, 180), ellipse(0.15, stick, 0.1, 0.1, 180, 0)])
    middle = np.concatenate([ellipse(0, 0, 0.35, dome, 180, 360), polygon((0.3, -0.12), (-0.3, -0.12))])
    return [(box(-0.05, -dome - 0.1, 0.05, stick), 3), (hook, 3), (canopy, 1), (middle, 2)]


# A class's place is its id in track 1; track 2 counts from the other end, as the challenge's two maps differ too.
CLASSES: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "car": car,
    "hot air balloon": hot_air_balloon,
    "bird": bird,
    "chair": chair,
    "airplane": airplane,
    "umbrella": umbrella,
    "cactus": cactus,
    "fish": fish,
}


def stripes(rng: np.random.Generator, shape: Shape) -> Field:
    """Parallel bars: (H, W) float32 of 0 and 1."""
    wave = np.sin(slope(rng, shape) * np.float32(rng.uniform(40, 110)))
    return np.asarray(wave > rng.uniform(-0.5, 0.5), np.float32)


def dots(rng: np.random.Generator, shape: Shape) -> Field:
    """A checked or dotted field: (H, W) float32 of 0 and 1."""
    waves = [np.sin(slope(rng, shape) * np.float32(rng.uniform(50, 110))) for _ in range(2)]
    return np.asarray(waves[0] * waves[1] > rng.uniform(0.2, 0.5), np.float32)


def mottle(rng: np.random.Generator, shape: Shape) -> Field:
    """Cloudy patches: (H, W) float32 in [0, 1]."""
    return noise(rng, shape, (6, 6), 3)


TEXTURES = (slope, slope, mottle, stripes, dots)


def place(rng: np.random.Generator, parts: list[Part], shape: Shape) -> Field:
    """Pose, scale and place an object off the centre: (H, W, 3) float32 coverage in [0, 1] of its three tones."""
    height, width = shape
    tilt, mirror = np.radians(rng.normal(0, 8)), rng.choice((-1, 1))
    pose = np.array([[mirror * rng.uniform(0.8, 1.1), rng.uniform(-0.1, 0.1)], [0, 1]])
    pose = pose @ np.array([[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]])
    posed = [(points @ pose, tone) for points, tone in parts]
    everything = np.concatenate([points for points, _ in posed])
    corner, extent = everything.min(axis=0), np.ptp(everything, axis=0)

    def paint(scale: float, offset: Points, size: Shape) -> Pixels:
        tones: Pixels = np.zeros(size, np.uint8)
        for points, tone in posed:
            cv2.fillPoly(tones, [np.round((points - corner) * scale + offset).astype(np.int32)], tone)
        return tones

    share = np.count_nonzero(paint(48.0, np.zeros(2), (160, 160))) / 48.0**2  # area in the object's own unit
    wanted = np.sqrt(rng.uniform(*FOREGROUND) * height * width / share)
    scale = min(wanted, 0.97 * width / extent[0], 0.97 * height / extent[1])
    room = np.array([width, height]) - extent * scale
    offset = room * rng.beta(0.35, 0.35, 2)  # at the sides rather than in the middle
    tones = paint(2 * scale, 2 * offset, (2 * height, 2 * width))
    layers = cv2.merge([(tones == tone) * np.uint8(255) for tone in (1, 2, 3)])
    coverage: Field = cv2.resize(layers, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    return coverage / np.float32(255)


def draw(rng: np.random.Generator, class_name: str, context: str) -> tuple[Pixels, Pixels]:
    """One picture of a class in a context.

    Returns:
        The picture, (H, W, 3) uint8 RGB with sides in `SIDES`, and its mask, (H, W) uint8, 255 where the object
        is seen and 0 elsewhere.
    """
    sides = rng.integers(*SIDES, 2)
    sides = np.maximum(sides, sides.max() * 4 // 5)  # a square from the middle still holds most of the object
    shape = (int(sides[0]), int(sides[1]))
    # The background is out of focus, as behind a photographed thing: a cue for the object in every context.
    sharp = CONTEXTS[context].ground(rng, shape)
    ground = cv2.GaussianBlur(sharp, (0, 0), rng.uniform(0.8, 2.8)).astype(np.uint8, copy=False)
    # Weather and camera: muted or rich, with a cast. Colour alone does not tell the context.
    grey = cv2.merge([cv2.cvtColor(ground, cv2.COLOR_RGB2GRAY)] * 3)
    rich = rng.uniform(0.25, 1)
    ground = cv2.addWeighted(ground, rich, grey, 1 - rich, 0).astype(np.uint8, copy=False)
    light(ground, rng.uniform(0.55, 0.95), rng.uniform(0.8, 1.2, 3).tolist())
    layers = place(rng, CLASSES[class_name](rng), shape)
    coverage = layers[..., 0] + layers[..., 1] + layers[..., 2]

    # Colours do not know the class or the context, but they are brighter than the place where the object lies.
    backdrop = np.array(cv2.mean(ground, (coverage > 0.5).astype(np.uint8))[:3])
    candidates = rng.uniform(30, 255, (24, 3))
    shortfall = np.maximum(backdrop.mean() + 40 - candidates.mean(axis=1), 0)
    colours = candidates[np.argsort(shortfall, kind="stable")[:6]].astype(np.float32)
    colours[2:4] += 0.4 * (colours[:2] - colours[2:4])  # the second tone leans to the body's: one solid thing
    weights = np.empty((3, 2, *shape), np.float32)
    for tone in range(3):
        texture = TEXTURES[rng.integers(len(TEXTURES))](rng, shape)
        weights[tone, 1] = texture * np.float32(rng.uniform(0.1, 0.5))
        weights[tone, 0] = 1 - weights[tone, 1]
        weights[tone] *= layers[..., tone]
    paint = cv2.transform(cv2.merge(list(weights.reshape(6, *shape))), colours.T)

    # Relief: the side of a part that faces the light is brighter. The shadow falls on the other side.
    sun = rng.uniform(-1, 1, 2)
    body = cv2.GaussianBlur(coverage, (0, 0), 3.0)
    rise = np.gradient(body, axis=1) * sun[0] + np.gradient(body, axis=0) * sun[1]
    gain = (1 + 3 * rise).astype(np.float32)
    shift = np.array([[1, 0, 8 * sun[0]], [0, 1, 8 * sun[1]]], np.float32)
    shadow = (1 - 0.4 * cv2.warpAffine(body, shift, shape[::-1])) * (1 - coverage)
    lit = cv2.multiply(paint, cv2.merge([gain] * 3))
    behind = cv2.multiply(ground, cv2.merge([shadow] * 3), dtype=cv2.CV_32F)
    scene: Pixels = np.empty((*shape, 4), np.uint8)
    scene[..., :3] = cv2.add(lit, behind, dtype=cv2.CV_8U)
    scene[..., 3] = np.minimum(coverage * 255, 255)
    CONTEXTS[context].cover(rng, scene)
    mask: Pixels = np.where(scene[..., 3] > 127, 255, 0).astype(np.uint8)
    return np.ascontiguousarray(scene[..., :3]), mask


# The data set

TRACK1_UNSEEN = ("outdoor", "water")
TRACK2_OWN = {
    "car": ("autumn", "dim"),
    "hot air balloon": ("grass", "water"),
    "bird": ("autumn", "outdoor"),
    "chair": ("autumn", "grass"),
    "airplane": ("dim", "outdoor"),
    "umbrella": ("dim", "water"),
    "cactus": ("outdoor", "rock"),
    "fish": ("rock", "water"),
}


class Track(NamedTuple):
    """A track's names in the challenge's layout, and its map from class to id."""

    folder: str
    label_map: str
    labels: dict[str, int]


TRACKS = {
    1: Track("public_dg_0416", "dg_label_id_mapping.json", {name: i for i, name in enumerate(CLASSES)}),
    2: Track(
        "public_ood_0412_nodomainlabel",
        "ood_label_id_mapping.json",
        {name: i for i, name in enumerate(reversed(CLASSES))},
    ),
}


class Cell(NamedTuple):
    """A number of pictures of one class in one context."""

    class_name: str
    context: str
    images: int


def plan(scale: float = 1.0, strays: int | None = None) -> dict[tuple[int, str], list[Cell]]:
    """What the data set of this scale holds: the cells of each (track, "train" or "test").

    `strays` training images of each class of track 2 lie in contexts that are not its own, dealt in turn; None: as
    many as leave nine tenths in its own.
    """
    count = {key: max(1, round(number * scale)) for key, number in CELL.items()}
    cells: dict[tuple[int, str], list[Cell]] = {(track, split): [] for track in TRACKS for split in ("train", "test")}
    for place_in_list, (name, own) in enumerate(TRACK2_OWN.items()):
        for context in CONTEXTS:
            split = "test" if context in TRACK1_UNSEEN else "train"
            cells[1, split].append(Cell(name, context, count[f"track1_{split}"]))
        others = [context for context in CONTEXTS if context not in own]
        cells[2, "train"] += [Cell(name, context, count["track2_train"]) for context in own]
        cells[2, "test"] += [Cell(name, context, count["track2_test"]) for context in others]
        elsewhere = 2 * count["track2_train"] // 9 if strays is None else strays
        for turn in range(4):
            context = others[(place_in_list + turn) % 4]
            cells[2, "train"].append(Cell(name, context, (elsewhere + 3 - turn) // 4))
    return cells


def place_of(track: int, split: str, cell: Cell, number: int, key: str) -> str:
    """An image's path below the data root, as the challenge names it; `number` counts a folder's pictures from 1."""
    folder = TRACKS[track].folder
    flat = hashlib.md5(key.encode(), usedforsecurity=False).hexdigest() + ".jpg"
    if split == "test":
        return f"{folder}/public_test_flat/{flat}"
    if track == 2:
        return f"{folder}/train/{cell.class_name}/{flat}"
    return f"{folder}/train/{cell.context}/{cell.class_name}/{cell.context}_{number:06d}.jpg"


def write(path: Path, suffix: str, pixels: Pixels, *flags: int) -> None:
    """Encode pixels to a file; its folder is made when missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(suffix, pixels, flags)[1].tobytes())


def write_split(root: Path, track: int, split: str, cells: list[Cell], seed: int) -> Iterator[int]:
    """Write a split's pictures, masks and truth below `root`; yields after every picture the number so far."""
    rows: list[dict[str, Any]] = []
    for cell in cells:
        for number in range(1, cell.images + 1):
            index = len(rows)
            rng = np.random.default_rng([seed, track, ("train", "test").index(split), index])
            picture, mask = draw(rng, cell.class_name, cell.context)
            path = place_of(track, split, cell, number, f"{seed} {track} {split} {index}")
            write(root / "data" / path, ".jpg", picture[..., ::-1], cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY)
            write(root / "truth" / "masks" / path.replace(".jpg", ".png"), ".png", mask)
            rows.append(
                {
                    "image_path": path,
                    "image_name": path.rpartition("/")[2],
                    "label": TRACKS[track].labels[cell.class_name],
                    "label_name": cell.class_name,
                    "domain": cell.context,
                }
            )
            yield index + 1
    truth = sorted(rows, key=lambda row: str(row["image_path"]))
    (root / "truth" / f"track{track}_{split}_truth.json").write_text(json.dumps(truth, indent=1) + "\n")


def write_track(root: Path, track: int, cells: dict[tuple[int, str], list[Cell]], seed: int, progress: bool) -> None:
    """Write one track below `root`, its progress on a single line that is redrawn on a terminal."""
    start, redraw = time.perf_counter(), progress and sys.stdout.isatty()
    counts = {split: sum(cell.images for cell in cells[track, split]) for split in ("train", "test")}
    for split, total in counts.items():
        for done in write_split(root, track, split, cells[track, split], seed):
            if redraw and done % 50 == 0:
                print(f"\rtrack {track}: {split} {done}/{total}", end="", flush=True)
    (root / "data" / TRACKS[track].label_map).write_text(json.dumps(TRACKS[track].labels, indent=1) + "\n")
    if progress:
        line = f"track {track}: {counts['train']} training and {counts['test']} test images"
        print(f"{chr(13) if redraw else ''}{line}, {time.perf_counter() - start:.1f} s", flush=True)


def is_complete(out: Path, card: dict[str, Any]) -> bool:
    """True when `out` holds the data set that `card` describes, False when it holds none.

    Raises:
        FileExistsError: `out` holds something else, which is never overwritten.
    """
    data, card_path = out / "data", out / "synthetic.json"
    if not card_path.exists():
        for folder in (data, out / "truth"):
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise FileExistsError(f"{folder} was not made by this command; choose another OUT or move it away")
    if not card_path.exists() or not data.exists():
        return False
    found = json.loads(card_path.read_text())
    differing = [f"{key}={found.get(key)}, not {value}" for key, value in card.items() if found.get(key) != value]
    if differing:
        raise FileExistsError(
            f"{out} holds a synthetic data set with {'; '.join(differing)}; remove {data} to make it anew"
        )
    images = sum(1 for _ in data.rglob("*.jpg"))
    if images != card["images"]:
        raise FileExistsError(f"{data} has {images} of its {card['images']} images; remove it to make it anew")
    return True


def generate(out: Path, seed: int = 0, scale: float = 1.0, progress: bool = True, strays: int | None = None) -> None:
    """Write the data set of both tracks below `out`, or nothing if it is already there.

    Args:
        out: receives `data`, `truth` and `synthetic.json`; other entries are left alone.
        seed: not negative; the same seed gives the same bytes on the same versions of numpy and OpenCV.
        scale: multiplies the number of pictures; greater than 0.
        progress: print what happens, one line a track.
        strays: training images of each class of track 2 in contexts that are not its own; None: nearly a tenth. The
            fewer, the more the background gives the class away in training.

    Raises:
        ValueError: a seed or strays below 0, or a scale that is not above 0.
        FileExistsError: `out` holds a data folder of another making, seed, scale or version, or an incomplete one.
    """
    if seed < 0:
        raise ValueError(f"seed is {seed}, but must not be negative")
    if not 0 < scale < float("inf"):
        raise ValueError(f"scale is {scale}, but must be greater than 0")
    if strays is not None and strays < 0:
        raise ValueError(f"strays is {strays}, but must not be negative")
    cells = plan(scale, strays)
    images = sum(cell.images for split in cells.values() for cell in split)
    card = {"version": VERSION, "seed": seed, "scale": scale, "images": images}
    if is_complete(out, card):
        if progress:
            print(f"{out} already holds this data set (seed {seed}, {images} images): nothing to do")
        return
    out.mkdir(parents=True, exist_ok=True)
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # on pictures of this size, handing work to threads costs more than it saves
    try:
        write_all(out, cells, card, progress)
    finally:
        cv2.setNumThreads(threads)


def write_all(out: Path, cells: dict[tuple[int, str], list[Cell]], card: dict[str, Any], progress: bool) -> None:
    """Write both tracks to a folder inside `out`, and move them into place when they are complete."""
    with tempfile.TemporaryDirectory(prefix=".synthetic-", dir=out) as scratch:
        root = Path(scratch)
        for track in TRACKS:
            write_track(root, track, cells, card["seed"], progress)
        (root / "synthetic.json").write_text(json.dumps(card, indent=1) + "\n")
        # The card first: from here on what lies in `out` is ours. The data last: if it is there, all is there.
        os.replace(root / "synthetic.json", out / "synthetic.json")
        if (out / "truth").exists():  # left by a run that was stopped here, or beside data that a user removed
            shutil.rmtree(out / "truth")
        os.replace(root / "truth", out / "truth")
        os.replace(root / "data", out / "data")  # refused by the system if somebody filled the folder meanwhile


def main() -> int:
    """Run the command line; the exit code is 1 when an input is refused."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("out", metavar="OUT", type=Path, help="folder that receives data/ and truth/")
    parser.add_argument("--seed", type=int, default=0, help="of every random draw (default 0)")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies the number of images (default 1)")
    parser.add_argument("--strays", type=int, help="training images of a class of track 2 in foreign contexts")
    arguments = parser.parse_args()
    try:
        generate(arguments.out, arguments.seed, arguments.scale, strays=arguments.strays)
    except (ValueError, OSError) as error:
        print(f"synthetic: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
