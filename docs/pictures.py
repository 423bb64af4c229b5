"""The diagrams of the documents: docs/overview.png and docs/recurrence.png.

    python docs/pictures.py [overview] [--weights FILE] [--out FILE]
    python docs/pictures.py recurrence [--out FILE]

The overview shows the EESP unit and the ERU cell as a diagram, and beside it what the published segmentation network
finds in docs/astronaut.jpg, a photograph of NASA in the public domain. Without --weights the network's published file
is downloaded. The recurrence shows a layer over time, and the recurrent map of a gate. Needs the extras `plots` and
`vision`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyBboxPatch, Rectangle
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


def draw_steps(diagram: Diagram) -> None:
    """A layer over four steps: the input maps at once, then the chain of recurrent products."""
    columns = [150 + 275 * number for number in range(4)]
    diagram.box(40, 1085, 90, 160, "input maps: a few large products for all steps at once", POINTWISE)
    diagram.text(20, 302, "$h_0$\n$c_0$", size=13, linespacing=1.5)
    diagram.arrow((40, 302), (80, 302))
    for step, x in enumerate(columns, start=1):
        diagram.text(x, 32, f"$x_{step}$", size=14)
        diagram.arrow((x, 52), (x, 90))
        diagram.arrow((x, 160), (x, 262))
        diagram.text(x + 10, 210, f"$\\mathrm{{gates}}_{step}$", ha="left", size=SMALL)
        diagram.box(x - 70, x + 70, 262, 342, "sum, gates,\ncell", GATE, size=SMALL, linespacing=1.4)
        diagram.arrow((x, 342), (x, 402))
        diagram.text(x, 422, f"$h_{step}$", size=14)
        if step < len(columns):
            diagram.arrow((x + 70, 302), (x + 205, 302))
            diagram.text(x + 137, 320, f"$W_{{hh}}\\,h_{step}$", size=SMALL)


def draw_map(diagram: Diagram, left: float, blocks: int, words: str) -> None:
    """The recurrent map of one gate, cut into blocks: what is coloured are its weights."""
    bottom, side = 130, 240
    share = side / blocks
    for number in range(blocks):
        corner = (left + number * share, bottom + side - (number + 1) * share)
        diagram.axes.add_patch(Rectangle(corner, share, share, facecolor=BRANCH, edgecolor=INK, linewidth=1.1))
    frame = Rectangle((left, bottom), side, side, fill=False, edgecolor=INK, linewidth=1.1)
    diagram.axes.add_patch(frame)
    diagram.text(left + side / 2, bottom + side + 22, "reads $h_{t-1}$", size=SMALL)
    diagram.text(left - 16, bottom + side / 2, "units of a gate", size=SMALL, rotation=90)
    diagram.text(left + side / 2, bottom - 52, words, size=SMALL, linespacing=1.6)


def blank(height: int) -> tuple[Figure, Diagram]:
    """A white figure of full width, and what draws on it."""
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, WIDTH), ylim=(0, height), aspect="auto")
    return figure, Diagram(axes)


TITLE = {"ha": "left", "size": 13, "weight": "bold"}


def draw_overview(picture: Image) -> Figure:
    """The whole figure around a segmented picture."""
    figure, diagram = blank(HEIGHT)
    diagram.text(20, 768, "EESP unit: a wide view for few weights", **TITLE)
    draw_unit(diagram, 700)
    diagram.text(20, 408, "ERU cell: an LSTM whose input maps are EESP units", **TITLE)
    draw_cell(diagram, 340)
    diagram.text(1180, 768, "ESPNetv2: the unit in two dimensions", **TITLE)
    diagram.axes.imshow(picture, extent=(1180, 1776, 140, 736), interpolation="lanczos")
    caption = "espnetv2_200_seg_voc with its authors' weights.\nIt takes the rocket for a bottle."
    diagram.text(1180, 96, caption, ha="left", size=SMALL, linespacing=1.5)
    diagram.axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT), aspect="auto")  # which the picture has changed
    return figure


def draw_recurrence() -> Figure:
    """A layer over time, and the recurrent map of a gate without groups and in four."""
    figure, diagram = blank(500)
    diagram.text(20, 468, "A layer over time: only the recurrent products wait for each other", **TITLE)
    draw_steps(diagram)
    diagram.text(1180, 468, "The recurrent map of one gate", **TITLE)
    draw_map(diagram, 1210, 1, "one map: $H^2$ weights\n(recurrent_groups=1)")
    draw_map(diagram, 1530, 4, "four blocks: $H^2/4$ weights\n(recurrent_groups=4)")
    return figure


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["overview", "recurrence"], nargs="?", default="overview")
    parser.add_argument("--weights", default="DEFAULT", help="a file of the network's weights")
    parser.add_argument("--out", type=Path, help="by default docs/NAME.png")
    args = parser.parse_args(arguments)
    if args.name == "overview":
        predict = vision.load_predictor("espnetv2_200_seg_voc", args.weights)
        figure = draw_overview(predict(FOLDER / "astronaut.jpg").render()[".png"])
    else:
        figure = draw_recurrence()
    with atomic_write(args.out or FOLDER / f"{args.name}.png", "wb") as file:
        figure.savefig(file, format="png", pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
