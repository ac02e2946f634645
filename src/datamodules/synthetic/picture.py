"""One picture: an object in a context, with its mask."""

from __future__ import annotations

import cv2
import numpy as np

from src.datamodules.synthetic.contexts import CONTEXTS
from src.datamodules.synthetic.objects import CLASSES, TEXTURES, Part
from src.datamodules.synthetic.painting import Field, Pixels, Points, Shape, light

SIDES = (96, 161)  # a picture's sides in pixels, lowest and one past the highest
FOREGROUND = (0.13, 0.35)  # the share of the picture that an object is scaled to


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


def background(rng: np.random.Generator, context: str, shape: Shape) -> Pixels:
    """The ground of a context, out of focus and in some light: (H, W, 3) uint8."""
    # Out of focus, as behind a photographed object: a cue for the object in every context.
    sharp = CONTEXTS[context].ground(rng, shape)
    ground = cv2.GaussianBlur(sharp, (0, 0), rng.uniform(0.8, 2.8)).astype(np.uint8, copy=False)
    # Weather and camera: muted or rich, with a cast. Colour alone does not tell the context.
    grey = cv2.merge([cv2.cvtColor(ground, cv2.COLOR_RGB2GRAY)] * 3)
    rich = rng.uniform(0.25, 1)
    ground = cv2.addWeighted(ground, rich, grey, 1 - rich, 0).astype(np.uint8, copy=False)
    light(ground, rng.uniform(0.55, 0.95), rng.uniform(0.8, 1.2, 3).tolist())
    return ground


def colour(rng: np.random.Generator, layers: Field, backdrop: float) -> Field:
    """Paint an object's three tones (H, W, 3), two textured colours each: (H, W, 3) float32, 0 outside the object.

    Colours do not know the class or the context, but they are brighter than `backdrop`, the mean grey level of the
    place where the object is.
    """
    shape = layers.shape[:2]
    candidates = rng.uniform(30, 255, (24, 3))
    shortfall = np.maximum(backdrop + 40 - candidates.mean(axis=1), 0)
    colours = candidates[np.argsort(shortfall, kind="stable")[:6]].astype(np.float32)
    colours[2:4] += 0.4 * (colours[:2] - colours[2:4])  # the second tone is close to the body's: one solid thing
    weights = np.empty((3, 2, *shape), np.float32)
    for tone in range(3):
        texture = TEXTURES[rng.integers(len(TEXTURES))](rng, shape)
        weights[tone, 1] = texture * np.float32(rng.uniform(0.1, 0.5))
        weights[tone, 0] = 1 - weights[tone, 1]
        weights[tone] *= layers[..., tone]
    return cv2.transform(cv2.merge(list(weights.reshape(6, *shape))), colours.T).astype(np.float32, copy=False)


def compose(rng: np.random.Generator, paint: Field, coverage: Field, ground: Pixels) -> Pixels:
    """The painted object, lit from one side, in front of the ground on which it casts its shadow.

    Args:
        rng: draws the light's direction.
        paint: (H, W, 3) float32, the object's colours.
        coverage: (H, W) float32 in [0, 1], the object's share of each pixel.
        ground: (H, W, 3) uint8.

    Returns:
        (H, W, 4) uint8: RGB, and the object's mask.
    """
    # Relief: the side of a part that faces the light is brighter. The shadow falls on the other side.
    sun = rng.uniform(-1, 1, 2)
    body = cv2.GaussianBlur(coverage, (0, 0), 3.0)
    rise = np.gradient(body, axis=1) * sun[0] + np.gradient(body, axis=0) * sun[1]
    gain = (1 + 3 * rise).astype(np.float32)
    shift = np.array([[1, 0, 8 * sun[0]], [0, 1, 8 * sun[1]]], np.float32)
    shadow = (1 - 0.4 * cv2.warpAffine(body, shift, coverage.shape[::-1])) * (1 - coverage)
    lit = cv2.multiply(paint, cv2.merge([gain] * 3))
    behind = cv2.multiply(ground, cv2.merge([shadow] * 3), dtype=cv2.CV_32F)
    scene: Pixels = np.empty((*coverage.shape, 4), np.uint8)
    scene[..., :3] = cv2.add(lit, behind, dtype=cv2.CV_8U)
    scene[..., 3] = np.minimum(coverage * 255, 255)
    return scene


def draw(rng: np.random.Generator, class_name: str, context: str) -> tuple[Pixels, Pixels]:
    """One picture of a class in a context.

    Returns:
        The picture, (H, W, 3) uint8 RGB with sides in `SIDES`, and its mask, (H, W) uint8, 255 where the object
        is visible and 0 elsewhere.
    """
    sides = rng.integers(*SIDES, 2)
    sides = np.maximum(sides, sides.max() * 4 // 5)  # a square from the middle still holds most of the object
    shape = (int(sides[0]), int(sides[1]))
    ground = background(rng, context, shape)
    layers = place(rng, CLASSES[class_name](rng), shape)
    coverage = layers[..., 0] + layers[..., 1] + layers[..., 2]
    behind = cv2.mean(ground, (coverage > 0.5).astype(np.uint8))[:3]
    scene = compose(rng, colour(rng, layers, float(np.mean(behind))), coverage, ground)
    CONTEXTS[context].cover(rng, scene)
    mask: Pixels = np.where(scene[..., 3] > 127, 255, 0).astype(np.uint8)
    return np.ascontiguousarray(scene[..., :3]), mask
