"""A confusion matrix as a picture."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LARGEST_SIDE = 900  # Pixels of the matrix; with hundreds of classes a cell has few of them.
_LARGEST_CELL, _SMALLEST_WITH_TEXT = 72, 14
_MARGIN = 12
_MAX_NAME_WIDTH = 220
_WHITE, _BLACK, _BLUE = (255, 255, 255), (30, 30, 30), (8, 48, 107)


def draw(confusion: np.ndarray, names: Sequence[str], title: str) -> Image.Image:
    """Draws a matrix: a row for each true class, darker where more of the row fell.

    Args:
      confusion: int64 (classes, classes): of each true class how many were predicted as which.
      names: Of the classes; left out, like the counts, where the cells are too small.
      title: Stands above.
    """
    side = max(1, min(_LARGEST_CELL, _LARGEST_SIDE // len(names)))
    has_text = side >= _SMALLEST_WITH_TEXT
    font = _font(max(8, min(15, side - 4)) if has_text else 12)
    texts = [_fitted(name, font) for name in names] if has_text else []
    widest = max((round(font.getlength(text)) for text in texts), default=0)
    line = round(1.5 * font.size)
    left, top = _MARGIN + line + widest + 6, _MARGIN + 2 * line + widest + 12
    matrix = side * len(names)
    wide = round(font.getlength(title)) + 2 * _MARGIN
    size = (max(left + matrix + _MARGIN, wide), top + matrix + _MARGIN)
    image = Image.new("RGB", size, _WHITE)
    pen = ImageDraw.Draw(image)
    pen.text((_MARGIN, _MARGIN), title, _BLACK, font)
    _draw_cells(pen, confusion, (left, top), side, font if has_text else None)
    middle = top + matrix // 2
    _draw_turned(image, "true class", (_MARGIN, middle), font, centered=True)
    heading = "predicted class"
    place = left + max(0, (matrix - font.getlength(heading)) / 2)
    pen.text((place, _MARGIN + line), heading, _BLACK, font)
    for i, text in enumerate(texts):
        center = round((i + 0.5) * side)
        pen.text((left - 6, top + center), text, _BLACK, font, anchor="rm")
        _draw_turned(image, text, (left + center - line // 2, top - 6), font, centered=False)
    return image


def _font(size: int) -> Any:
    """Returns a font with the letters of most languages; else Pillow's own, which has few."""
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def _draw_cells(
    pen: ImageDraw.ImageDraw,
    confusion: np.ndarray,
    corner: tuple[int, int],
    side: int,
    font: Any,
) -> None:
    rows = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(rows, 1)
    size = len(confusion) * side
    for (row, column), share in np.ndenumerate(shares):
        left, top = corner[0] + column * side, corner[1] + row * side
        color = tuple(round(w + (b - w) * share**0.5) for w, b in zip(_WHITE, _BLUE, strict=True))
        pen.rectangle((left, top, left + side - 1, top + side - 1), color)
        count = str(confusion[row, column])
        if font and confusion[row, column] and font.getlength(count) <= side - 2:
            ink = _WHITE if share > 0.25 else _BLACK
            pen.text((left + side / 2, top + side / 2), count, ink, font, anchor="mm")
    frame = (corner[0] - 1, corner[1] - 1, corner[0] + size, corner[1] + size)
    pen.rectangle(frame, outline=_BLACK)


def _draw_turned(
    image: Image.Image, text: str, place: tuple[int, int], font: Any, *, centered: bool
) -> None:
    """Draws text upwards: it ends above the place, or has its middle there."""
    width, height = round(font.getlength(text)) + 2, round(1.5 * font.size)
    strip = Image.new("RGB", (width, height), _WHITE)
    ImageDraw.Draw(strip).text((1, height // 2), text, _BLACK, font, anchor="lm")
    turned = strip.rotate(90, expand=True)
    image.paste(turned, (place[0], place[1] - (width // 2 if centered else width)))


def _fitted(name: str, font: Any) -> str:
    """Returns a name, cut where it is too long, in one line."""
    name = " ".join(name.split())
    if font.getlength(name) <= _MAX_NAME_WIDTH:
        return name
    while font.getlength(name + "...") > _MAX_NAME_WIDTH:
        name = name[:-1]
    return name + "..."
