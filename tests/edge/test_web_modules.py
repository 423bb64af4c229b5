"""The page's modules that need no browser, run by node: they compute what Python computes."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import eru
from eru.lm.text.tokenizer import build_tokenizer
from vision.preprocessing import Preprocessing

WEB = Path(eru.__file__).parent / "edge" / "web"
LINES = [
    "the quick brown fox  jumps over the lazy dog .",
    "Größe, Übermaß und Straße; naïve café",
    "Съешь же ещё этих мягких французских булок",
    "我能吞下玻璃而不伤身体。",
    "いろはにほへと ちりぬるを",
    "نص حكيم له سر قاطع",
    "ऋषियों को सताने वाले",
    "ψυχή και σώμα",
    "한국어 문장도 있다",
    "🙂👩‍👩‍👧 e\u0301 \u00a0 tab\there",
]
# Nothing of these is in the lines above, so they become bytes, or are unknown.
FOREIGN = ["ᚠᛇᚻ", "ⴰⵣⵓⵍ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "a\u2581b", "\ufeffbom", "x\u001fy\u0085z", "", " ", "   two  spaces "]

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="needs node")


def called(module, body, data):
    """What a function of JavaScript returns for ``data``; the body sees it and the module's names as ``m``."""
    script = f"import * as m from {json.dumps((WEB / module).as_uri())};\n"
    script += "let text = ''; for await (const part of process.stdin) text += part;\n"
    script += f"const data = JSON.parse(text);\nconst run = () => {{ {body} }};\nconsole.log(JSON.stringify(run()));"
    done = subprocess.run(
        ["node", "--input-type=module", "--eval", script],
        input=json.dumps(data),
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", ["word", "char", "sentencepiece"])
def test_every_tokenizer_gives_the_ids_and_texts_that_python_gives(kind):
    tokenizer = build_tokenizer(kind, LINES * 3, 420 if kind == "sentencepiece" else None)
    draw = random.Random(1)
    characters = "".join(LINES + FOREIGN)
    mixed = ["".join(draw.choices(characters, k=draw.randrange(1, 40))) for _ in range(200)]
    lines = LINES + FOREIGN + mixed
    ids = [tokenizer.encode(line) for line in lines]
    several = [index for line in ids for index in [*line, tokenizer.eos]]
    made = called(
        "tokenizer.js",
        """const tokenizer = m.makeTokenizer(data.fields);
        return {
          ids: data.lines.map((line) => tokenizer.encode(line)),
          texts: data.ids.map((ids) => tokenizer.decode(ids)),
          lacking: data.lines.map((line) => tokenizer.lacking(line)),
          several: tokenizer.decode(data.several),
        };""",
        {"fields": tokenizer.plain(), "lines": lines, "ids": ids, "several": several},
    )
    assert made["ids"] == ids
    assert made["texts"] == [tokenizer.decode(line) for line in ids]
    assert made["lacking"] == [tokenizer.lacking(line) for line in lines]
    assert made["several"] == tokenizer.decode(several)


def test_equal_cuts_are_decided_by_the_last_bit_as_in_sentencepiece():
    # Of a text of five letters many cuts score nearly alike, and each unknown character rounds their sums once more.
    draw = random.Random(3)
    text = ["".join(draw.choices("abcde ", weights=[5, 4, 3, 2, 1, 3], k=60)) for _ in range(400)]
    text += ["aaaaaaaaaaaa", "abababab", "        "] * 50
    tokenizer = build_tokenizer("sentencepiece", text, 420)
    lines = ["".join(draw.choices("aaabbcde zé你", k=draw.randrange(1, 400))) for _ in range(400)]
    made = called(
        "tokenizer.js",
        "const tokenizer = m.makeTokenizer(data.fields); return data.lines.map((line) => tokenizer.encode(line));",
        {"fields": tokenizer.plain(), "lines": lines},
    )
    assert made == [tokenizer.encode(line) for line in lines]


def test_a_prompt_of_several_lines_and_what_its_vocabulary_lacks():
    tokenizer = build_tokenizer("word", ["a rose is a rose"] * 2)
    made = called(
        "tokenizer.js",
        """const tokenizer = m.makeTokenizer(data.fields);
        return [m.encodePrompt(tokenizer, data.prompt), m.lackingParts(tokenizer, data.prompt)];""",
        {"fields": tokenizer.plain(), "prompt": "a rose\r\n\nis a lily\rno lily"},
    )
    eos, unknown = tokenizer.eos, tokenizer.unknown
    first, third = tokenizer.encode("a rose"), tokenizer.encode("is a lily")
    assert made == [[*first, eos, eos, *third, eos, unknown, unknown], ["lily", "no"]]


@pytest.mark.parametrize("crop", [None, 0.875, 1.0])
def test_pictures_become_the_numbers_that_pillow_gives(crop):
    draw = np.random.default_rng(2)
    sizes = [(64, 48), (31, 33), (200, 61), (16, 300), (1, 5), (45, 45)]
    pictures = [draw.integers(0, 256, (height, width, 3), dtype=np.uint8) for width, height in sizes]
    preprocessing = Preprocessing((32, 45), crop=crop)
    fields = {"size": preprocessing.size, "crop": crop, "mean": preprocessing.mean, "std": preprocessing.std}
    made = called(
        "resize.js",
        """return data.pictures.map((rows) => {
          const pixels = rows.flat().flatMap((pixel) => [...pixel, 255]);
          const image = { width: rows[0].length, height: rows.length, data: Uint8ClampedArray.from(pixels) };
          return [...m.preprocess(image, data.preprocessing)];
        });""",
        {"pictures": [picture.tolist() for picture in pictures], "preprocessing": fields},
    )
    for picture, values in zip(pictures, made, strict=True):
        expected = preprocessing(Image.fromarray(picture))
        # One of the 255 levels: rounding may differ, and Pillow does not always resize the rows first.
        level = 1 / 255 / torch.tensor(preprocessing.std)[:, None, None]
        differences = (torch.tensor(values).view_as(expected) - expected).abs()
        assert (differences <= 1.001 * level).all()


def test_tokens_are_drawn_as_often_as_the_softmax_says():
    scores, temperature, draws = [1.0, 9.0, 2.0, -1.0, 0.5], 0.7, 20_000
    drawn, again, likeliest = called(
        "generate.js",
        """const draw = (temperature, random) => m.sample(data.scores, 1, temperature, random);
        const many = (random) => Array.from({ length: data.draws }, () => draw(data.temperature, random));
        return [many(m.seeded(5)), many(m.seeded(5)), draw(0, m.seeded(5))];""",
        {"scores": scores, "temperature": temperature, "draws": draws},
    )
    allowed = torch.tensor([-torch.inf if index == 1 else score for index, score in enumerate(scores)])
    expected = (allowed / temperature).softmax(dim=0)
    shares = torch.bincount(torch.tensor(drawn), minlength=len(scores)) / draws
    assert torch.allclose(shares, expected, atol=0.015)
    assert drawn == again
    assert likeliest == 2


def answer(fields, names, shape, logits):
    """The answer that the page reads from logits."""
    return called(
        "answers.js",
        """const logits = { dims: data.shape, data: Float32Array.from(data.logits) };
        const answer = m.readAnswer({ fields: data.fields }, data.names, { logits });
        return { rows: answer.rows, classes: answer.mask && [...answer.mask.classes] };""",
        {"fields": fields, "names": names, "shape": shape, "logits": logits},
    )


def test_a_segmenter_of_one_class_tells_it_from_the_background():
    fields = {"kind": "segmentation", "colours": [[128, 0, 0]], "background": None}
    made = answer(fields, ["road"], [1, 1, 2, 2], [0.1, -0.1, 0.0, -3.0])
    assert made["classes"] == [1, 0, 0, 0]
    assert [(row["name"], row["share"]) for row in made["rows"]] == [("background", 0.75), ("road", 0.25)]


def boxes(scores, labels, names):
    """The answer that the page reads from boxes."""
    return called(
        "answers.js",
        """const tensor = (values, dims) => ({ dims, data: values.map((value) => value ?? NaN) });
        const outputs = {
          boxes: tensor(data.scores.flatMap(() => [0, 0, 1, 1]), [1, data.scores.length, 4]),
          labels: tensor(data.labels, [1, data.labels.length]),
          scores: tensor(data.scores, [1, data.scores.length]),
        };
        const fields = { kind: "detection", colours: data.names.map(() => [1, 2, 3]) };
        try {
          return m.readAnswer({ fields }, data.names, outputs).rows.map((row) => row.name);
        } catch (error) {
          return error.message;
        }""",
        {"scores": scores, "labels": labels, "names": names},
    )


def test_boxes_are_named_or_refused():
    names = ["background", "cat", "dog"]
    assert boxes([0.5, 0.9, 0.1, -1.0], [1, 2, 1, 0], names) == ["dog", "cat"]
    assert boxes([0.9], [7], names) == "The model found the class 7, but labels.txt has 3 names."
    assert boxes([0.9, None], [1, 1], names) == "The model's outputs are not finite: its file may be damaged."


def test_a_picture_may_have_several_labels_or_none():
    fields = {"kind": "classification", "multi_label": True}
    made = answer(fields, ["cat", "dog", "sofa"], [1, 3], [0.5, -0.5, 2.0])
    assert [row["name"] for row in made["rows"]] == ["sofa", "cat"]
    assert made["rows"][0]["share"] == pytest.approx(torch.tensor(2.0).sigmoid().item())
    assert answer(fields, ["cat", "dog", "sofa"], [1, 3], [-1.0, -1.0, -1.0])["rows"] == []
