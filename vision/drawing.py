"""Answers drawn into pictures: names below, coloured regions with a legend, labelled boxes.

Pillow is imported at once here and nowhere else, so :mod:`vision.answers` imports this module only to draw an answer.
All pictures are in mode RGB, and every mask holds the class of each pixel, (height, width).

Text and lines grow with the picture, so that they are as readable in a thumbnail as in a photograph.
"""

from collections.abc import Sequence
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vision.datasets import Colour

_DARK, _GREY, _LIGHT = (24, 24, 28), (72, 72, 80), (245, 245, 245)
_ACCENT = (64, 156, 255)


def draw_strip(picture: Image.Image, lines: Sequence[tuple[str, float]]) -> Image.Image:
    """The picture above a dark strip with a line and a bar for each name.

    Each of ``lines`` is a name and its share, 0-1, from top to bottom.
    """
    font, margin = _font(picture)  # margins are as wide as letters are high
    row = round(2.1 * margin)
    needed = max((font.getlength(f"{name}   {share:.1%}") for name, share in lines), default=0)
    width = max(picture.width, round(needed) + 2 * margin)
    canvas = Image.new("RGB", (width, picture.height + row * len(lines) + margin), _DARK)
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    right, thick = width - margin, max(2, margin // 6)
    for index, (name, share) in enumerate(lines, start=1):
        bottom = picture.height + row * index
        draw.text((margin, bottom - 2 * thick), name, _LIGHT, font, anchor="ls")
        draw.text((right, bottom - 2 * thick), f"{share:.1%}", _LIGHT, font, anchor="rs")
        draw.rectangle((margin, bottom, right, bottom + thick - 1), _GREY)
        end = margin + round(share * (right - margin))
        if end > margin:
            draw.rectangle((margin, bottom, end, bottom + thick - 1), _ACCENT)
    return canvas


def draw_mask(
    picture: Image.Image,
    mask: np.ndarray,
    colours: Sequence[Colour],
    legend: Sequence[tuple[str, Colour]] = (),
    background: int | None = None,
) -> Image.Image:
    """The picture with its regions tinted and outlined, of the same size.

    The ``legend`` of names and their colours stands in the corner where it hides least, with as many as fit. Pixels of
    the class ``background`` are left as they are.
    """
    marked = mask != background  # where there is no background, None, no class equals it and every pixel is marked
    tint = Image.fromarray(np.asarray(colours, dtype=np.uint8)[mask])
    result = Image.composite(Image.blend(picture, tint, 0.5), picture, Image.fromarray(marked))
    result.paste(_LIGHT, mask=Image.fromarray(_outlines(mask, max(1, min(picture.size) // 300))))
    _draw_legend(result, legend, marked)
    return result


def draw_boxes(
    picture: Image.Image, boxes: Sequence[Sequence[float]], labels: Sequence[str], colours: Sequence[Colour]
) -> Image.Image:
    """The picture with labelled boxes, the first one on top, of the same size.

    Each of ``boxes`` is left, top, right and bottom in pixels, and has a label and a colour.
    """
    result = picture.copy()
    draw = ImageDraw.Draw(result)
    font, size = _font(picture)
    line, pad = max(2, min(picture.size) // 150), max(2, size // 4)
    last_first = list(zip(boxes, labels, colours, strict=True))[::-1]
    for box, _, colour in last_first:
        left, top, right, bottom = (round(side) for side in box)
        draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=_LIGHT, width=line + 2)
        draw.rectangle((left, top, right, bottom), outline=colour, width=line)
    for box, text, colour in last_first:  # the labels come after all boxes, so that none crosses a label
        left, top = round(box[0]), round(box[1])
        width, height = round(font.getlength(text)) + 2 * pad, size + 2 * pad
        x = max(0, min(left, picture.width - width - 1))
        y = top - height if top >= height else max(0, top)
        draw.rectangle((x, y, x + width, y + height), colour, _LIGHT)
        draw.text((x + pad, y + height // 2), text, _text_colour(colour), font, anchor="lm")
    return result


def indexed_mask(mask: np.ndarray, colours: Sequence[Colour]) -> Image.Image:
    """The mask as a picture whose values are the classes: in colours, or 16-bit greyscale above 256 classes."""
    if len(colours) > 256:
        return Image.fromarray(mask.astype(np.uint16))
    result = Image.fromarray(mask.astype(np.uint8))
    result.putpalette([channel for colour in colours for channel in colour])
    return result


def _draw_legend(picture: Image.Image, legend: Sequence[tuple[str, Colour]], marked: np.ndarray) -> None:
    """Draw the legend where it hides the fewest marked pixels; where it does not fit the picture, draw none."""
    font, size = _font(picture)
    row, pad, edge = round(1.7 * size), size // 2, size // 2
    entries = legend[: max(0, picture.height // 2 - pad) // row]
    width = max((round(font.getlength(name)) for name, _ in entries), default=0) + size + 3 * pad
    height = row * len(entries) + pad
    if not entries or width + 2 * edge > picture.width:
        return
    corners = [(x, y) for y in (edge, picture.height - height - edge) for x in (edge, picture.width - width - edge)]
    left, top = min(corners, key=lambda c: marked[c[1] : c[1] + height, c[0] : c[0] + width].sum())
    box = (left, top, left + width, top + height)
    picture.paste(Image.blend(picture.crop(box), Image.new("RGB", (width, height), _DARK), 0.75), box)
    draw = ImageDraw.Draw(picture)
    for index, (name, colour) in enumerate(entries):
        x, middle = left + pad, top + pad // 2 + row * index + row // 2
        draw.rectangle((x, middle - size // 2, x + size, middle + size // 2), colour, _LIGHT)
        draw.text((x + size + pad, middle), name, _LIGHT, font, anchor="lm")


def _outlines(mask: np.ndarray, width: int) -> np.ndarray:
    """Mark the pixels whose class differs from that of the pixel ``width`` to the right or below."""
    edges = np.zeros(mask.shape, dtype=bool)
    edges[:, :-width] |= mask[:, :-width] != mask[:, width:]
    edges[:-width] |= mask[:-width] != mask[width:]
    return edges


def _font(picture: Image.Image) -> tuple[ImageFont.FreeTypeFont, int]:
    """Return Pillow's own font in the size that suits this picture, and that size."""
    size = max(13, min(picture.size) // 26)
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size)), size


def _text_colour(background: Colour) -> Colour:
    red, green, blue = background
    return _DARK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else _LIGHT
