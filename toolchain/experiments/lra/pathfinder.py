"""Pathfinder on 32 x 32 pixels, by a generator of its own: are the two discs on one path?

Two long dashed curves and some short ones that distract. Of a positive image both discs are at the
ends of one long curve; of a negative one each curve has one. The classes are as frequent, discs lie
on curve ends in both, and as far apart: the distance of the discs alone, which would tell two of
three images right, says nothing here (`disc_places`).

A token is a pixel: its column and one of eight grey levels. The column is what a model with
positional embeddings knows; a scan from left to right and down would have to count to 32 for it.

Published: Linsley et al., arXiv 1805.08315, section 3; Tay et al., arXiv 2011.04006, section 2.1
(curves of 6, 9 or 14 dashes). The images are this generator's, not those of the public archive.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

SIZE = 32
CLASSES = ("apart", "connected")
LEVELS = 8
WORDS = tuple(f"{column}:{level}" for column in range(SIZE) for level in range(LEVELS))
DASH, PERIOD = 1.5, 3.0  # pixels: a dash, and a dash with the gap after it
TURN = 0.45  # radians, standard deviation of the turn from one dash to the next
HALF_WIDTH = 0.55  # pixels
CLEARANCE = 3.0  # pixels between the centre lines of two curves, and of a curve and itself
DISC = 1.6  # radius
MARGIN = 1.5  # pixels that every curve keeps from the border
ALIKE = 1.0  # pixels by which the discs' distance of the other class may differ
_TRIES = 60

_LOW, _HIGH = MARGIN, SIZE - 1 - MARGIN
_REACH = 2  # pixels from the middle of a dash that it covers: DASH / 2 + HALF_WIDTH + 0.5

Points = NDArray[np.float64]
_Point = tuple[float, float]
_GRID = np.stack(np.meshgrid(np.arange(SIZE), np.arange(SIZE), indexing="ij"), -1).reshape(-1, 2)
_NEAR = np.stack(np.meshgrid(*[np.arange(-_REACH, _REACH + 2)] * 2, indexing="ij"), -1)


class Taken:
    """Points of curves, in the cell where they lie and in the eight around it; cells are as wide as
    the clearance.

    Plain numbers: a curve is tried some hundred times per image, a point at a time, where NumPy's
    calls would take most of the time.
    """

    def __init__(self) -> None:
        self._cells: dict[tuple[int, int], list[_Point]] = {}

    def add(self, points: list[_Point]) -> None:
        """The points of a curve and those half-way between them."""
        middles = [((a + c) / 2, (b + d) / 2) for (a, b), (c, d) in pairwise(points)]
        for x, y in (*points, *middles):
            row, column = int(x / CLEARANCE), int(y / CLEARANCE)
            for i in (row - 1, row, row + 1):
                for j in (column - 1, column, column + 1):
                    self._cells.setdefault((i, j), []).append((x, y))

    def near(self, x: float, y: float) -> bool:
        """Whether one of them is too near to (x, y)."""
        return _any_near(x, y, self._cells.get((int(x / CLEARANCE), int(y / CLEARANCE)), ()))


def _any_near(x: float, y: float, points: Sequence[_Point]) -> bool:
    for a, b in points:  # noqa: SIM110 (any() takes twice as long)
        if (a - x) * (a - x) + (b - y) * (b - y) <= CLEARANCE**2:
            return True
    return False


def curve(dashes: int, taken: Taken, random: np.random.Generator) -> list[_Point] | None:
    """Starts of a random curve's dashes and its last end, dashes + 1; None if it got stuck.

    Args:
        taken: points of other curves to keep clear of.
    """
    x, y = random.uniform(_LOW, _HIGH, 2).tolist()
    if taken.near(x, y):
        return None
    points = [(x, y)]
    angle = random.uniform(0, 2 * math.pi)
    for step in range(dashes):
        own = points[:-2]
        for turn in random.normal(0, TURN if step else 0, 8).tolist():
            a, b = x + PERIOD * math.cos(angle + turn), y + PERIOD * math.sin(angle + turn)
            if not (_LOW < a < _HIGH and _LOW < b < _HIGH):
                continue
            c, d = (x + a) / 2, (y + b) / 2
            if _any_near(a, b, own) or _any_near(c, d, own):
                continue
            if not (taken.near(a, b) or taken.near(c, d)):
                angle, x, y = angle + turn, a, b
                points.append((x, y))
                break
        else:
            return None
    return points


def _curves(dashes: int, random: np.random.Generator) -> list[Points] | None:
    """Two long curves, then up to six short ones; None if the long ones did not fit."""
    curves: list[Points] = []
    taken = Taken()
    dashes_of_each = [dashes] * 2 + [max(2, dashes // 3)] * int(random.integers(2, 7))
    for number, length in enumerate(dashes_of_each):
        for _ in range(_TRIES if number < 2 else 5):
            points = curve(length, taken, random)
            if points is not None:
                curves.append(np.array(points))
                taken.add(points)
                break
        else:
            if number < 2:
                return None
    return curves


def disc_places(
    first: Points, second: Points, random: np.random.Generator
) -> tuple[tuple[Points, Points], tuple[Points, Points]] | None:
    """The places of two discs on a negative and on a positive image, the same distance apart.

    Returns:
        Ends of two curves, and of one curve; None where no such two are alike.
    """
    same = [(curve[0], curve[-1]) for curve in (first, second)]
    other = [(a, b) for a in (first[0], first[-1]) for b in (second[0], second[-1])]
    near = [
        (apart, connected)
        for connected in same
        for apart in other
        if abs(math.dist(*connected) - math.dist(*apart)) <= ALIKE
    ]
    return near[random.integers(len(near))] if near else None


@dataclass(frozen=True)
class Scene:
    """curves: starts of each one's dashes, and its last end. discs: middles, ends of curves."""

    curves: Sequence[Points]
    discs: tuple[Points, Points]


def scene(connected: bool, dashes: int, random: np.random.Generator) -> Scene:
    """What is on an image. connected: whether both discs are on one curve."""
    while True:
        curves = _curves(dashes, random)
        places = disc_places(curves[0], curves[1], random) if curves else None
        if curves and places:
            return Scene(curves, places[connected])


def image(shown: Scene) -> NDArray[np.uint8]:
    """A grey image, uint8 (32, 32)."""
    level = np.maximum(_dashes(shown.curves), np.maximum(*map(_disc, shown.discs)))
    return np.round(255 * level).astype(np.uint8).reshape(SIZE, SIZE)


def trace(shown: Scene) -> NDArray[np.uint8]:
    """The trace of an image, uint8 (32, 32): 0 where a pixel is dark, else 1 + 3 * column + discs.

    column: of the upmost point of the pixel's curve, which names the curve. discs: on its ends,
    0 to 2.
    """
    traces = np.zeros(SIZE * SIZE, np.uint8)
    for curve in shown.curves:
        ends = [disc for disc in shown.discs if _is_end(disc, curve)]
        top = curve[np.argmin(curve[:, 0])]
        level = np.max([_dashes([curve]), *map(_disc, ends)], axis=0)
        traces[level * (LEVELS - 1) > 0.5] = 1 + 3 * round(top[1]) + len(ends)
    return traces.reshape(SIZE, SIZE)


def _is_end(place: Points, curve: Points) -> bool:
    return any(np.array_equal(place, end) for end in (curve[0], curve[-1]))


def _dashes(curves: Sequence[Points]) -> Points:
    starts = np.concatenate([points[:-1] for points in curves])
    steps = np.concatenate([np.diff(points, axis=0) for points in curves]) * (DASH / PERIOD)
    return _lines(starts, starts + steps)


def _disc(middle: Points) -> Points:
    distance = np.sqrt(((_GRID - middle) ** 2).sum(1))
    level: Points = np.clip(DISC + 0.5 - distance, 0, 1)
    return level


def tokens(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Numbers in WORDS of the pixels of images (n, 1024): the nearest level, and the column."""
    nearest = (np.arange(256) * (LEVELS - 1) + 127) // 255
    columns = np.tile(np.arange(SIZE) * LEVELS, SIZE)
    return nearest.astype(np.uint8)[images] + columns.astype(np.uint8)


def _lines(starts: Points, ends: Points) -> Points:
    """Coverage of each pixel by the dashes, 0 .. 1, (1024,). No dash reaches beyond `_REACH`."""
    along = ends - starts  # (n, 2)
    corner = np.floor((starts + ends) / 2).astype(np.int64)
    pixels = corner[:, None, None] + _NEAR  # (n, w, w, 2)
    offset = pixels - starts[:, None, None]
    scale = along / (along**2).sum(-1, keepdims=True)
    part = np.clip((offset * scale[:, None, None]).sum(-1), 0, 1)
    apart = offset - part[..., None] * along[:, None, None]
    level = np.clip(HALF_WIDTH + 0.5 - np.sqrt((apart**2).sum(-1)), 0, 1)
    inside = ((pixels >= 0) & (pixels < SIZE)).all(-1)
    coverage = np.zeros((SIZE, SIZE))
    rows, columns = pixels[inside].T
    np.maximum.at(coverage, (rows, columns), level[inside])
    return coverage.reshape(-1)


def generate(
    count: int, seed: int, dashes: int = 14, traced: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Draw `count` images as rows of pixels, uint8 (count, 1024), their classes (count,) and, where
    `traced`, their traces (count, 1024); else (0, 1024)."""
    random = np.random.default_rng([seed, dashes])
    labels = random.permutation((np.arange(count) + random.integers(2)) % 2).astype(np.uint8)
    images = np.zeros((count, SIZE * SIZE), np.uint8)
    traces = np.zeros((count if traced else 0, SIZE * SIZE), np.uint8)
    for i, label in enumerate(labels):
        shown = scene(bool(label), dashes, random)
        images[i] = image(shown).reshape(-1)
        if traced:
            traces[i] = trace(shown).reshape(-1)
    return images, labels, traces
