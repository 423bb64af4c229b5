import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from eru.eesp import EESP
from eru_cli.paper import as_text, paper_rows
from vision.paper import UNITS, Row, counts, multiply_adds, parameters, reach

few = settings(max_examples=20, deadline=None)

# Width, parameters, multiply-adds.
CLASSIFIERS = [
    (0.5, 1_241_332, 28_375_508),
    (1.0, 1_670_072, 85_720_404),
    (1.25, 1_965_440, 123_399_444),
    (1.5, 2_314_856, 168_604_884),
    (1.75, 3_032_432, 224_146_580),
    (2.0, 3_498_136, 284_806_228),
]
# Width, then millions of multiply-adds by size, and what the authors' model tables print of them.
SIZES = [("voc", 256, 256), ("voc", 384, 384), ("city", 256, 512), ("city", 512, 1024)]
SEGMENTERS = [
    (0.5, (74.704, 168.071, 149.070, 596.248), ("74.88", "168.46", "149.40", "597.56")),
    (1.0, (135.839, 305.617, 271.333, 1085.284), ("136.0", "306.00", "271.66", "1086.59")),
    (1.5, (214.340, 482.238, 428.331, 1713.256), ("214.51", "482.63", "428.66", "1714.57")),
    (2.0, (337.406, 759.129, 674.457, 2697.743), ("337.58", "759.52", "674.78", "2699.05")),
]
SEGMENTER_PARAMETERS = {0.5: 80_353, 1.0: 234_021, 1.5: 468_373, 2.0: 789_253}
DETECTORS = [
    ("voc", 4_750_878, {256: 630.09, 300: 913.44, 384: 1417.56, 512: 2520.07}),
    ("coco", 5_812_878, {256: 804.50, 300: 1164.62, 384: 1809.93, 512: 3217.58}),
]


def name_of(width):
    return f"espnetv2_{round(100 * width):03d}"


@pytest.fixture(scope="module")
def rows():
    return paper_rows()


# --- counts


@pytest.mark.parametrize(("width", "size", "cost"), CLASSIFIERS)
def test_classifiers_have_the_exact_counts(width, size, cost):
    assert counts(name_of(width), 224, 224) == (size, cost)


def test_the_largest_classifier_is_the_one_of_figure_3():
    size, cost = counts("espnetv2_300", 224, 224)
    assert (size, round(cost / 1e6, 2)) == (5_901_432, 602.71)


@pytest.mark.parametrize(("width", "costs", "printed"), SEGMENTERS)
def test_segmenters_have_the_exact_counts(width, costs, printed):
    for (dataset, height, side), cost, figure in zip(SIZES, costs, printed, strict=True):
        size, found = counts(f"{name_of(width)}_seg_{dataset}", height, side)
        classes = {"voc": 21, "city": 20}[dataset]
        assert size == SEGMENTER_PARAMETERS[width] + 11 * (classes - 21)
        # The reference rounds one of the sixteen twice (428.3305 to 428.331).
        assert found / 1e6 == pytest.approx(cost, abs=6e-4, rel=0)
        # What was published adds half a multiply-add for each bias of the last convolution.
        digits = len(figure.partition(".")[2])
        assert f"{(found + classes * (height // 2) * (side // 2) / 2) / 1e6:.{digits}f}" == figure


@pytest.mark.parametrize(("dataset", "size", "costs"), DETECTORS)
def test_detectors_have_the_exact_counts(dataset, size, costs):
    found = {side: counts(f"espnetv2_200_ssd_{dataset}", side, side) for side in costs}
    assert {side: (total, round(cost / 1e6, 2)) for side, (total, cost) in found.items()} == {
        side: (size, cost) for side, cost in costs.items()
    }


def test_the_ablations_have_the_exact_counts():
    assert counts("espnetv2_100", 224, 224, shortcut=False) == (1_664_912, 84_333_312)
    assert counts("espnetv2_100", 224, 224, fusion=False) == counts("espnetv2_100", 224, 224)
    assert counts("espnetv2_100", 224, 224, convolution="depthwise") == counts("espnetv2_100", 224, 224)
    dilated = [counts(name, 224, 224, convolution="dilated")[1] / 1e6 for name in ("espnetv2_100", "espnetv2_125")]
    assert [round(cost, 1) for cost in dilated] == [482.1, 750.1]


@given(
    m=st.integers(1, 4),
    n=st.integers(1, 4),
    groups=st.integers(1, 3),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 3),
    size=st.tuples(st.integers(8, 40), st.integers(8, 40)),
    bias=st.booleans(),
)
@few
def test_multiply_adds_of_one_convolution(m, n, groups, kernel, stride, size, bias):
    first = nn.Conv2d(3, m * groups, kernel, stride=stride, padding=kernel // 2, bias=bias)
    second = nn.Conv2d(m * groups, n * groups, 1, groups=groups, bias=bias)
    outputs = math.ceil(size[0] / stride) * math.ceil(size[1] / stride)
    expected = outputs * (3 * m * groups * kernel**2 + m * n * groups)
    assert multiply_adds(nn.Sequential(first, second), *size) == expected


def test_a_linear_classifier_is_not_counted():
    model = nn.Sequential()
    model.add_module("convolution", nn.Conv2d(3, 4, 1, bias=False))
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    model.add_module("classifier", nn.Linear(4, 1000))
    assert (multiply_adds(model, 5, 7), parameters(model)) == (12 * 35, 12 + 5000)


# --- formulas


@given(n=st.sampled_from([1, 3, 5]), r=st.integers(1, 7), stacked=st.booleans())
@few
def test_the_receptive_field_of_a_dilated_convolution(n, r, stacked):
    dilated = nn.Conv2d(2, 2, n, dilation=r, padding=(n - 1) * r // 2, groups=2, bias=False)
    layers = [dilated, nn.Conv2d(2, 3, 1, bias=False)] if stacked else [dilated]
    assert reach(nn.Sequential(*layers), 2) == (n - 1) * r + 1


@given(a=st.integers(1, 15), b=st.integers(1, 15), k=st.sampled_from([2, 4]), n=st.sampled_from([3, 5]))
@few
def test_the_formulas_of_section_3_count_the_weights_of_plain_convolutions(a, b, k, n):
    m, d = k * a, k * b
    reduce, branch = nn.Conv2d(m, d, 1, bias=False), nn.Conv2d(d, d, n, bias=False)
    assert parameters(reduce) + k * parameters(branch) == m * d + n**2 * d**2 * k
    grouped, thin = nn.Conv2d(m, d, 1, groups=k, bias=False), nn.Conv2d(d, d, n, groups=d, bias=False)
    expand = nn.Conv2d(d, d, 1, bias=False)
    expected = parameters(grouped) + k * (parameters(thin) + parameters(expand))
    assert expected == m * d // k + (n**2 + d) * d * k
    assert parameters(EESP(m, k * d, ndim=2, kernel_size=n, branches=k, groups=k)) == expected


def test_eesp_has_a_seventh_of_the_weights_of_esp(rows):
    ours = {row.quantity.partition(",")[0]: row.ours for row in rows if row.table.startswith("Sections 3.2")}
    assert (ours["ESP (Fig. 1a)"], ours["EESP (Fig. 1c)"], ours["EESP-A (Fig. 1b)"]) == (144_000, 20_160, 20_160)
    assert round(ours["ESP / EESP"], 2) == 7.14


# --- verdicts


@pytest.mark.parametrize(
    ("printed", "ours", "unit", "verdict"),
    [
        ("3.49", 3_498_136, "M", "equal"),
        ("3.50", 3_498_136, "M", "equal"),
        ("3.48", 3_498_136, "M", "differs"),
        ("3.51", 3_498_136, "M", "differs"),
        ("284", 284_806_228, "M", "equal"),
        ("285", 284_806_228, "M", "equal"),
        ("283", 284_806_228, "M", "differs"),
        ("0.8", 804_497_862, "B", "equal"),
        ("0.7", 804_497_862, "B", "differs"),
        ("7", 50 / 7, "x", "equal"),
        ("20160", 20_160, "", "equal"),
        ("20161", 20_160, "", "differs"),
    ],
)
def test_verdict(printed, ours, unit, verdict):
    assert Row("", "", printed, ours, unit).verdict == verdict


@given(ours=st.integers(0, 10**10), unit=st.sampled_from(["M", "B"]), digits=st.integers(0, 3), off=st.integers(-3, 3))
@few
def test_verdict_of_figures_near_ours(ours, unit, digits, off):
    step = UNITS[unit] // 10**digits
    units, rest = divmod(ours, step)
    shown = units + off
    printed = f"{'-' if shown < 0 else ''}{abs(shown) / 10**digits:.{digits}f}"
    fits = off == 0 or (off == 1 and 2 * rest >= step)
    assert Row("", "", printed, ours, unit).verdict == ("equal" if fits else "differs")


def test_what_cannot_be_reproduced_says_why(rows):
    differing = [row for row in rows if row.verdict == "differs"]
    assert {(row.table.partition(":")[0], row.printed) for row in differing} == {
        ("Table 3", "0.7"),
        ("Table 3", "1.6"),
        ("Table 3", "2.8"),
        ("Table 5", "478"),
    }
    assert all("could not be reproduced" in row.note for row in differing)


def test_every_table_of_the_paper_is_there(rows):
    titles = list(dict.fromkeys(row.table.partition(":")[0] for row in rows))
    assert titles == [
        "Table 1",
        "Sections 3.2 and 3.3",
        "Table 2 and Fig. 3c",
        "Fig. 7",
        "Table 3",
        "Table 4",
        "Table 5",
        "Table 6",
        "Not the paper, but the authors' model tables",
    ]
    table_2 = [row for row in rows if row.table.startswith("Table 2")]
    assert [(row.printed, row.unit) for row in table_2[::2]] == [
        (figure, "M") for figure in ("1.24", "1.67", "1.97", "2.31", "3.03", "3.49", "5.9")
    ]
    assert [row.printed for row in table_2[1::2]] == ["28", "86", "123", "169", "224", "284", "602"]
    assert all(row.verdict == "equal" for row in table_2)


def test_language_models_have_the_sizes_of_table_4(rows):
    assert [row.ours for row in rows if row.table.startswith("Table 4")] == [6_954_740, 14_910_324]


# --- the command


def test_the_documents_file_holds_what_is_counted(rows):
    kept = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "paper.json").read_text())["rows"]
    assert kept == [asdict(row) | {"verdict": row.verdict} for row in rows], "docs/paper.md says how to write it anew"


def test_json_holds_every_row_and_its_verdict(call, rows):
    fields = call("paper", "--json").json
    assert set(fields) == {"counts", "rows"}
    assert [row["verdict"] for row in fields["rows"]] == [row.verdict for row in rows]
    assert [(row["printed"], row["ours"], row["unit"]) for row in fields["rows"]] == [
        (row.printed, row.ours, row.unit) for row in rows
    ]
    assert sum(fields["counts"].values()) == len(rows)
    assert fields["counts"]["differs"] == 4
    assert json.dumps(fields["rows"][0]["ours"]).isdigit()


def test_text_shows_every_table_aligned(call, rows):
    answer = call("paper")
    blocks = answer.out.rstrip().split("\n\n")
    assert answer.code == 0
    assert [block.splitlines()[0] for block in blocks[:-1]] == list(dict.fromkeys(row.table for row in rows))
    assert blocks[-1].startswith(f"{len(rows)} numbers: ")
    for block in blocks[:-1]:
        title, head, *lines = block.splitlines()
        table = [row for row in rows if row.table == title]
        end = len(head.rstrip())
        for row, line in zip(table, lines, strict=False):
            shown = line[:end].split("  ")
            assert shown[1] == row.quantity
            assert shown[-1].strip() == (
                f"{row.ours:,}" if isinstance(row.ours, int) else f"{row.ours:.2f} {row.unit}"
            )
            assert line[end:].split()[0] == row.verdict
        assert len(lines) == len(table) + len({row.note for row in table} - {""})


def test_notes_are_numbered_and_given_once():
    table = [Row("t", "a", "1", 1, note="x"), Row("t", "b", "2", 3, note="y"), Row("t", "c", "4", 4, note="x")]
    lines = as_text("t", table).splitlines()
    assert [line.split()[-1] for line in lines[2:5]] == ["[1]", "[2]", "[1]"]
    assert lines[5:] == ["  [1] x", "  [2] y"]
