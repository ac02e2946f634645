"""Sheets of pictures with words under each, as one PNG: to look at, and to be cut into its pictures again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from src.files import write_whole

GAP, LINE, SIZE = 6, 14, 11  # between pictures; height of a line of words, and its letters, pixels
KEY = "tiles"  # of the text chunk: a list of [words, left, top, width, height]
Picture = npt.NDArray[np.uint8]


class Tile(NamedTuple):
    """A picture (H, W, 3) uint8, and words about it."""

    picture: Picture
    words: str


def draw(tiles: Sequence[Tile], columns: int) -> tuple[Picture, list[list[str | int]]]:
    """Pictures of one size in rows, each with its words under it, white between them.

    Letters that the font lacks, beyond the Latin ones, are boxes; what is returned beside the sheet has them.

    Returns:
        The sheet (H, W, 3) uint8; for each tile its words, and left, top, width and height of its picture.
    """
    font = ImageFont.load_default(SIZE)
    height, width = tiles[0].picture.shape[:2]
    texts = [wrapped(tile.words, font, width) for tile in tiles]
    step = (width + GAP, height + GAP + LINE * max(map(len, texts)))
    rows = -(-len(tiles) // columns)
    sheet = Image.new("RGB", (step[0] * min(columns, len(tiles)) - GAP, step[1] * rows), "white")
    pen, places = ImageDraw.Draw(sheet), list[list[str | int]]()
    for i, (tile, lines) in enumerate(zip(tiles, texts, strict=True)):
        left, top = i % columns * step[0], i // columns * step[1]
        sheet.paste(Image.fromarray(tile.picture), (left, top))
        pen.text((left, top + height + 1), "\n".join(lines), "black", font, spacing=LINE - SIZE)
        places.append([tile.words, left, top, width, height])
    return np.asarray(sheet, np.uint8), places


def wrapped(words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Words in lines of a width in pixels; a word that is longer has a line of its own, and is cut off by the next."""
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def write_sheet(path: Path, tiles: Sequence[Tile], columns: int) -> Picture:
    """Write a sheet as a PNG that says in a text chunk where its pictures are; return its pixels."""
    sheet, places = draw(tiles, columns)
    about = PngImagePlugin.PngInfo()
    about.add_itxt(KEY, json.dumps(places))
    with write_whole(path) as file:
        Image.fromarray(sheet).save(file, "PNG", pnginfo=about)
    return sheet


def read_sheet(path: Path) -> list[Tile]:
    """The pictures of a sheet and their words; one that says nothing of them, of an older version, is one picture.

    Raises:
        OSError, ValueError: it is missing or damaged.
    """
    with Image.open(path, formats=["PNG"]) as file:
        whole, text = np.asarray(file.convert("RGB"), np.uint8), getattr(file, "text", {}).get(KEY, "[]")
    try:
        tiles = []
        for words, *box in json.loads(text):
            x, y, width, height = (max(0, int(number)) for number in box)
            tiles.append(Tile(whole[y : y + height, x : x + width], str(words)))
    except (TypeError, ValueError) as error:
        raise ValueError(f"the sheet {path} is damaged: {error}") from error
    return [tile for tile in tiles if tile.picture.size] or [Tile(whole, "")]


def outlined(picture: Picture, region: npt.NDArray[np.bool_]) -> Picture:
    """A picture (H, W, 3) with the outline of a region (H, W): white beside black, seen on any colour."""
    edges, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    drawn = np.array(picture)
    for colour, width in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.drawContours(drawn, edges, -1, colour, width)
    return drawn


def square(picture: npt.NDArray[np.uint8], side: int) -> Picture:
    """A picture (H, W) or (H, W, 3) at side x side, grey levels as colours."""
    how = cv2.INTER_AREA if len(picture) > side else cv2.INTER_NEAREST_EXACT
    small = np.asarray(cv2.resize(picture, (side, side), interpolation=how), np.uint8)
    return small if small.ndim == 3 else np.repeat(small[..., None], 3, 2)
