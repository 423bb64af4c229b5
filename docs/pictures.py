"""The picture of README: docs/overview.png.

    python docs/pictures.py [--weights FILE] [--out FILE]

On the left it shows the EESP unit and the ERU cell as a diagram, on the right what the published segmentation network
finds in docs/astronaut.jpg, a photograph of NASA in the public domain. Without --weights the network's published file
is downloaded. Needs the extras `plots` and `vision`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch
from PIL.Image import Image

import vision
from eru.storage import atomic_write

FOLDER = Path(__file__).parent
WIDTH, HEIGHT, DPI = 1800, 800, 150  # README shows it at half this width

INK, FAINT, POINTWISE, BRANCH, RECURRENT, GATE = "#24292f", "#8a8f98", "#cfe0f5", "#fbd9b5", "#e4e4e8", "#d5ecd4"
TEXT, SMALL = 11.5, 10.0


class Diagram:
    """Boxes, circles and arrows on one set of axes whose unit is a pixel; y runs upwards."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes

    def text(self, x: float, y: float, words: str, **style: object) -> None:
        """Words, in the middle of (x, y) unless told otherwise."""
        self.axes.text(x, y, words, **{"ha": "center", "va": "center", "size": TEXT, "color": INK, **style})

    def box(
        self, left: float, right: float, bottom: float, top: float, words: str, colour: str, **style: object
    ) -> None:
        """A rounded box with words in it."""
        shape = FancyBboxPatch(
            (left, bottom), right - left, top - bottom,
            boxstyle="round,pad=0,rounding_size=9", facecolor=colour, edgecolor=INK, linewidth=1.1, zorder=2,
        )  # fmt: skip
        self.axes.add_patch(shape)
        self.text((left + right) / 2, (bottom + top) / 2, words, zorder=3, **style)

    def plus(self, x: float, y: float) -> None:
        """A sum."""
        self.axes.add_patch(Circle((x, y), 17, facecolor="white", edgecolor=INK, linewidth=1.1, zorder=2))
        self.text(x, y + 1, "+", zorder=3, size=13)

    def line(self, *points: tuple[float, float], color: str = INK) -> None:
        """A line through points."""
        self.axes.plot(*zip(*points, strict=True), color=color, linewidth=1.1, zorder=1)

    def arrow(self, start: tuple[float, float], end: tuple[float, float], color: str = INK) -> None:
        """An arrow from one point to another."""
        style = {"arrowstyle": "-|>,head_width=0.22,head_length=0.45", "shrinkA": 0, "shrinkB": 0}
        self.axes.annotate("", end, start, zorder=1, arrowprops={**style, "color": color, "linewidth": 1.1})


def rows_from(top: float) -> tuple[list[float], float, float, float]:
    """The heights of four rows, and of the bottom, the top and the middle of a box as high as all of them."""
    rows = [top - 66 * number for number in range(4)]
    return rows, rows[-1] - 25, rows[0] + 25, (rows[0] + rows[-1]) / 2


def draw_unit(diagram: Diagram, top: float) -> None:
    """The EESP unit: reduce, dilated branches, their running sums, expand."""
    rows, bottom, upper, middle = rows_from(top)
    diagram.text(45, middle, "$x$", size=14)
    diagram.arrow((66, middle), (110, middle))
    diagram.box(110, 250, bottom, upper, "reduce\n\ngrouped\npoint-wise\n\n$M \\to d$", POINTWISE)
    for number, y in enumerate(rows, start=1):
        diagram.arrow((250, y), (290, y))
        diagram.box(290, 634, y - 23, y + 23, f"$D_{number}$: depth-wise, dilation {number}", BRANCH)
        diagram.arrow((634, y), (673, y))
        diagram.plus(690, y)
        diagram.arrow((707, y), (870, y))
        if number > 1:
            diagram.arrow((690, rows[number - 2] - 17), (690, y + 17))
        sums = f"$s_{number} = s_{number - 1} + D_{number}$" if number > 1 else "$s_1 = D_1$"
        diagram.text(784, y + 16, sums, size=SMALL)
    diagram.box(870, 1010, bottom, upper, "expand\n\ngrouped\npoint-wise\n\n$4d \\to H$", POINTWISE)
    diagram.arrow((1010, middle), (1055, middle))
    diagram.text(1064, middle, "to one\ngate", size=SMALL, ha="left")


def draw_cell(diagram: Diagram, top: float) -> None:
    """The ERU cell: an EESP unit and a dense recurrent map for each of the four gates."""
    rows, bottom, upper, middle = rows_from(top)
    recurrent = rows[-1] - 76
    diagram.text(45, middle, "$x_t$", size=14)
    diagram.line((72, middle), (90, middle))
    diagram.line((90, rows[0]), (90, rows[-1]))
    # One product with the recurrent weights serves all gates: it rises beside the sums and enters each from below.
    diagram.text(45, recurrent, "$h_{t-1}$", size=14)
    diagram.arrow((82, recurrent), (130, recurrent))
    diagram.box(130, 320, recurrent - 23, recurrent + 23, "dense  $W_{hh}$", RECURRENT)
    diagram.line((320, recurrent), (372, recurrent), (372, rows[0] - 36), color=FAINT)
    for y, squash, gate in zip(rows, (r"$\sigma$", r"$\sigma$", "tanh", r"$\sigma$"), "ifgo", strict=True):
        diagram.arrow((90, y), (130, y))
        diagram.box(130, 320, y - 23, y + 23, "EESP", POINTWISE)
        diagram.arrow((320, y), (413, y))
        diagram.line((372, y - 36), (430, y - 36), color=FAINT)
        diagram.arrow((430, y - 37), (430, y - 17), color=FAINT)
        diagram.plus(430, y)
        diagram.arrow((447, y), (510, y))
        diagram.box(510, 610, y - 23, y + 23, squash, GATE)
        diagram.arrow((610, y), (690, y))
        diagram.text(648, y + 16, f"${gate}$")
    words = "$c_t = f \\cdot c_{t-1} + i \\cdot g$\n\n\n$h_t = o \\cdot \\tanh\\, c_t$"
    diagram.box(690, 1010, bottom, upper, words, "white", size=13)
    diagram.text(648, recurrent, "$c_{t-1}$", size=14)
    diagram.line((684, recurrent), (850, recurrent))
    diagram.arrow((850, recurrent), (850, bottom))
    for y, name in ((middle + 55, "$c_t$"), (middle - 55, "$h_t$")):
        diagram.arrow((1010, y), (1055, y))
        diagram.text(1083, y, name, size=14)


def draw(picture: Image) -> Figure:
    """The whole figure around a segmented picture."""
    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    diagram = Diagram(axes)
    title = {"ha": "left", "size": 13, "weight": "bold"}
    diagram.text(20, 768, "EESP unit: a wide view for few weights", **title)
    draw_unit(diagram, 700)
    diagram.text(20, 408, "ERU cell: an LSTM whose input maps are EESP units", **title)
    draw_cell(diagram, 340)
    diagram.text(1180, 768, "ESPNetv2: the unit in two dimensions", **title)
    axes.imshow(picture, extent=(1180, 1776, 140, 736), interpolation="lanczos")
    caption = "espnetv2_200_seg_voc with its authors' weights.\nIt takes the rocket for a bottle."
    diagram.text(1180, 96, caption, ha="left", size=SMALL, linespacing=1.5)
    axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="auto")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="DEFAULT", help="a file of the network's weights")
    parser.add_argument("--out", type=Path, default=FOLDER / "overview.png")
    args = parser.parse_args(arguments)
    predict = vision.load_predictor("espnetv2_200_seg_voc", args.weights)
    overlay = predict(FOLDER / "astronaut.jpg").render()[".png"]
    with atomic_write(args.out, "wb") as file:
        draw(overlay).savefig(file, format="png", pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
