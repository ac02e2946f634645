"""Fields, shapes and strokes that the pictures are painted with."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
Shape = tuple[int, int]
Colours = Sequence[tuple[int, int, int]]


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
