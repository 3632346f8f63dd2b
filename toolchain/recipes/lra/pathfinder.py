"""Pathfinder on 32 x 32 pixels, by a generator of its own: are the two discs on one path?

Two long dashed curves and some short ones that distract. Of a positive image both discs are at the
ends of one long curve; of a negative one each curve has one. The classes are as frequent, and
nothing but following the dashes tells them apart: discs lie on curve ends in both.

Published: Linsley et al., arXiv 1805.08315, section 3; Tay et al., arXiv 2011.04006, section 2.1
(curves of 6, 9 or 14 dashes). The images are this generator's, not those of the public archive.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SIZE = 32
CLASSES = ("apart", "connected")
DASH, PERIOD = 1.5, 3.0  # pixels: a dash, and a dash with the gap after it
TURN = 0.45  # radians, standard deviation of the turn from one dash to the next
HALF_WIDTH = 0.55  # pixels
CLEARANCE = 3.0  # pixels between the centre lines of two curves, and of a curve and itself
DISC = 1.6  # radius
MARGIN = 1.5  # pixels that every curve keeps from the border
_TRIES = 60

Points = NDArray[np.float64]
_GRID = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"), -1).reshape(-1, 2)


def curve(dashes: int, taken: Points, random: np.random.Generator) -> Points | None:
    """Starts of a random curve's dashes and its last end, (dashes + 1, 2); None if it got stuck.

    Args:
        taken: (n, 2), points of other curves to keep clear of.
    """
    points = [random.uniform(MARGIN, SIZE - 1 - MARGIN, 2)]
    if not _clear(points[0], taken):
        return None
    angle = random.uniform(0, 2 * np.pi)
    for step in range(dashes):
        others = np.concatenate([taken, np.array(points[:-2]).reshape(-1, 2)])
        for _ in range(8):
            turned = angle + random.normal(0, TURN if step else 0)
            end = points[-1] + PERIOD * np.array([np.cos(turned), np.sin(turned)])
            inside = (end > MARGIN).all() and (end < SIZE - 1 - MARGIN).all()
            middle = (points[-1] + end) / 2
            if inside and _clear(end, others) and _clear(middle, others):
                angle = turned
                points.append(end)
                break
        else:
            return None
    return np.array(points)


def _clear(point: Points, others: Points) -> bool:
    return not len(others) or bool(((others - point) ** 2).sum(1).min() > CLEARANCE**2)


def _along(points: Points) -> Points:
    """Points of a curve and those half-way between them."""
    return np.concatenate([points, (points[:-1] + points[1:]) / 2])


def _curves(dashes: int, random: np.random.Generator) -> list[Points] | None:
    """Two long curves, then up to six short ones; None if the long ones did not fit."""
    found: list[Points] = []
    taken = np.empty((0, 2))
    wanted = [dashes] * 2 + [max(2, dashes // 3)] * int(random.integers(2, 7))
    for number, length in enumerate(wanted):
        for _ in range(_TRIES if number < 2 else 5):
            points = curve(length, taken, random)
            if points is not None:
                found.append(points)
                taken = np.concatenate([taken, _along(points)])
                break
        else:
            if number < 2:
                return None
    return found


def image(connected: bool, dashes: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """A grey image, uint8 (32, 32)."""
    found = None
    while found is None:
        found = _curves(dashes, random)
    starts = np.concatenate([points[:-1] for points in found])
    steps = np.concatenate([np.diff(points, axis=0) for points in found]) * (DASH / PERIOD)
    level = _lines(starts, starts + steps)
    first, second = found[:2]
    ends = (first[0], first[-1]) if connected else (first[0], second[0])
    for end in ends:
        distance = np.sqrt(((_GRID - end) ** 2).sum(1))
        level = np.maximum(level, np.clip(DISC + 0.5 - distance, 0, 1))
    return np.round(255 * level).astype(np.uint8).reshape(SIZE, SIZE)


def _lines(starts: Points, ends: Points) -> Points:
    """Coverage of each pixel by the dashes, 0 .. 1, (1024,)."""
    along = ends - starts  # (n, 2)
    offset = _GRID[:, None] - starts  # (1024, n, 2)
    part = np.clip((offset * along).sum(-1) / (along**2).sum(-1), 0, 1)
    distance = np.sqrt(((offset - part[..., None] * along) ** 2).sum(-1)).min(1)
    coverage: Points = np.clip(HALF_WIDTH + 0.5 - distance, 0, 1)
    return coverage


def generate(
    count: int, seed: int, dashes: int = 14
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """So many images as rows of pixels, uint8 (count, 1024), and their classes (count,)."""
    random = np.random.default_rng([seed, dashes])
    labels = random.permutation(np.arange(count) % 2).astype(np.uint8)
    images = [image(bool(label), dashes, random).reshape(-1) for label in labels]
    return np.stack(images), labels
