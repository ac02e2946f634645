"""The eight classes and the textures of their surfaces: polygons, each with a tone.

The unit of the plane is arbitrary and y points down; the tones are 1 body, 2 second colour, 3 accent.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from src.datamodules.synthetic.painting import Field, Points, Shape, box, ellipse, noise, polygon, slope

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


# A class's index is its id in track 1; track 2 counts from the other end, as the challenge's two maps differ too.
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
