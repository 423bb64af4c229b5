"""The page in a browser: small models beside it, keys and clicks, and what is to be read then."""

import functools
import importlib
import json
import os
import shutil
import subprocess
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

import eru

pytest.importorskip("onnx")
pytest.importorskip("selenium")

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

WEB = Path(eru.__file__).parent / "edge" / "web"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60  # seconds until a test gives up; a model opens in one or two

pytestmark = pytest.mark.slow


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="session")
def runtime(tmp_path_factory):
    """The folder of onnxruntime-web."""
    if folder := os.environ.get("ERU_ORT_WEB"):
        return Path(folder).resolve()
    if shutil.which("npm") is None:
        pytest.skip("needs onnxruntime-web: set ERU_ORT_WEB to its folder, or install npm")
    folder = tmp_path_factory.mktemp("npm")
    shutil.copy(WEB / "package.json", folder)
    done = subprocess.run(
        ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund"], cwd=folder, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"npm cannot install onnxruntime-web: {done.stderr.strip()[:200]}")
    return folder / "node_modules" / "onnxruntime-web"


@pytest.fixture(scope="session")
def driver():
    """A headless browser."""
    binary = next(filter(None, map(shutil.which, BROWSERS)), None)
    service = shutil.which("chromedriver")
    if binary is None or service is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    # The browser's own moving picture stands in for a camera, and nobody is asked whether it may be used.
    for option in ("headless=new", "no-sandbox", "use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"):
        options.add_argument(f"--{option}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(service))
    yield driver
    driver.quit()


@pytest.fixture
def address(tmp_path):
    """Where the folder ``site`` is served."""
    (tmp_path / "site").mkdir()
    handler = functools.partial(Quiet, directory=str(tmp_path / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


class Page:
    """The page in the browser, and the folder that it comes from."""

    def __init__(self, driver, address, folder, runtime):
        self.driver, self.address, self.folder = driver, address, folder
        shutil.copytree(WEB, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
        (folder / "node_modules").mkdir()
        (folder / "node_modules" / "onnxruntime-web").symlink_to(runtime)

    def open(self):
        self.driver.get_log("browser")  # what earlier tests left
        self.driver.get(self.address)
        self.until(lambda: self.shown(".tabs") or self.shown("#text, #pictures, #notice"))

    def find(self, selector):
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def shown(self, selector):
        return [part for part in self.driver.find_elements(By.CSS_SELECTOR, selector) if part.is_displayed()]

    def until(self, condition):
        return WebDriverWait(self.driver, PATIENCE, poll_frequency=0.05).until(lambda _: condition())

    def wait_for_model(self, tab):
        self.until(lambda: self.shown(f"#{tab} .work:not([inert])") or self.shown(f"#{tab} .error"))

    def write(self, prompt="", **settings):
        """Start to write, from the state before the first token."""
        for name, value in {"prompt": prompt, "seed": "", **settings}.items():
            # A range cannot be typed into.
            self.driver.execute_script("arguments[0].value = arguments[1]", self.find(f"[name={name}]"), str(value))
        self.find("[name=write]").click()

    def text(self):
        """The whole text, with the end of the last line, once it is written."""
        self.until(lambda: self.find("[name=write]").is_enabled())
        return self.find(".written").get_property("textContent")

    def answer(self, file):
        """The rows of the answer about a picture file."""
        self.driver.execute_script("document.querySelector('.answer').replaceChildren()")
        self.find("#picture").send_keys(str(file))
        self.until(lambda: self.shown(".answer li") or self.shown("#pictures .error"))
        return [tuple(row.text.split("\n")) for row in self.shown(".answer li")]

    def errors(self):
        """The errors in the browser's console, but for its note that a tab's folder is not there."""
        noted = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        return [message for message in noted if "/export.json - Failed to load resource" not in message]


@pytest.fixture
def page(driver, address, tmp_path, runtime):
    return Page(driver, address, tmp_path / "site", runtime)


@pytest.fixture(scope="session")
def tiny():
    """The module that makes small models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parent)
        return importlib.import_module("tiny_exports")


@pytest.fixture
def half_red(tmp_path):
    """A picture file: red on the left, black on the right."""
    picture = Image.new("RGB", (64, 64))
    picture.paste((255, 0, 0), (0, 0, 32, 64))
    picture.save(tmp_path / "half.png")
    return tmp_path / "half.png"


def test_text_grows_until_it_is_stopped(page, tiny):
    tiny.save_language_model(page.folder)
    page.open()
    page.wait_for_model("text")
    page.write("a rose", tokens=2000, temperature=1)
    lengths = set()
    page.until(lambda: lengths.add(len(page.find(".written").text)) or len(lengths) > 3)
    page.until(lambda: "tokens/s" in page.find("#text .figures").text)
    page.find("[name=stop]").click()
    assert page.text().startswith("a rose ")
    count, speed = (float(part.split()[0]) for part in page.find("#text .figures").text.split(", ")[:2])
    assert 3 < count < 2000
    assert speed > 0
    assert page.find("#text footer").text.startswith("tiny · language model · 0.0 MB · float32 · licence MIT")
    assert page.errors() == []


def test_a_seed_gives_the_same_text_and_no_text_has_the_unknown_word(page, tiny):
    tiny.save_language_model(page.folder)
    page.open()
    page.wait_for_model("text")
    texts = []
    for seed in (1, 1, 2):
        page.write("so", tokens=40, temperature=1, seed=seed)
        texts.append(page.text())
    assert texts[0] == texts[1] != texts[2]
    page.write("", tokens=30, temperature=2)
    texts.append(page.text())
    drawn = page.find("#text .figures").text.rpartition(" ")[2]
    page.write("", tokens=30, temperature=2, seed=drawn)  # A seed that the page drew itself gives its text again.
    assert page.text() == texts[3]
    assert "<unk>" not in "".join(texts)
    assert page.errors() == []


def test_the_likeliest_text_is_that_of_the_model_and_what_it_lacks_is_named(page, tiny):
    model = tiny.save_language_model(page.folder)
    page.open()
    page.wait_for_model("text")
    page.write("a rose is", tokens=30, temperature=0)
    assert page.text() == tiny.likeliest_text(model, ["a", "rose", "is"], 30)
    assert not page.shown("#text .warning")
    page.write("a lily is no lily", tokens=1)
    assert page.text().startswith("a <unk> is <unk> <unk>")
    assert page.find("#text .warning").text.endswith(": “lily”, “no”.")


def test_a_picture_gets_its_mask_and_a_legend(page, tiny, half_red):
    tiny.save_language_model(page.folder)
    tiny.save_vision_model(page.folder, "segmentation")
    page.open()
    page.find("#text-tab").send_keys(Keys.ARROW_RIGHT)
    page.wait_for_model("pictures")
    assert not page.shown("#text")
    assert page.answer(half_red) == [("background", "50.0 %"), ("red", "50.0 %")]
    pixel = "return [...document.querySelector('canvas').getContext('2d').getImageData(arguments[0], 32, 1, 1).data]"
    left, right = (page.driver.execute_script(pixel, x) for x in (4, 60))
    mixed = [0.45 * own + 0.55 * tint for own, tint in zip((255, 0, 0), tiny.RED, strict=True)]
    assert left[:3] == pytest.approx(mixed, abs=3)
    assert right == [0, 0, 0, 255]
    assert page.find("#pictures .figures").text.endswith(" ms a picture")
    page.find("#text-tab").click()
    page.write("a rose", tokens=5)  # Both models stay open.
    page.text()
    assert page.errors() == []


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        # The picture's mean is red 0, green and blue -1, and so are the scores 0, 0 and -4.
        ("classification", [("background", "49.5 %"), ("red", "49.5 %"), ("blue", "0.9 %")]),
        ("detection", [("red", "90.0 %")]),
    ],
)
def test_labels_and_boxes(page, tiny, half_red, kind, rows):
    tiny.save_vision_model(page.folder, kind)
    page.open()
    page.wait_for_model("pictures")
    assert page.answer(half_red) == rows
    assert page.shown("canvas")
    assert page.answer(Path(__file__)) == []
    assert page.find("#pictures .error").text == "“test_web.py” is no picture that this browser can read."
    assert page.answer(half_red) == rows
    assert not page.shown("#pictures .error")


def test_a_detector_whose_boxes_are_not_chosen_is_refused(page, tiny):
    tiny.save_vision_model(page.folder, "detection")
    path = page.folder / "pictures" / "export.json"
    path.write_text(path.read_text().replace('"nms": true', '"nms": false'))
    page.open()
    page.until(lambda: page.find("#pictures .error").text.endswith("export it with --nms."))


def test_the_camera_runs_until_it_is_stopped_or_left(page, tiny):
    tiny.save_language_model(page.folder)
    tiny.save_vision_model(page.folder, "segmentation")
    page.open()
    page.find("#pictures-tab").click()
    page.wait_for_model("pictures")
    button = page.find("[name=camera]")
    for stop in (button, page.find("#text-tab")):
        button.click()
        page.until(lambda: button.text == "Stop camera" and page.shown(".answer li"))
        stop.click()
        assert button.get_property("textContent") == "Start camera"
    assert page.errors() == []


def test_a_tab_without_a_model_is_hidden(page, tiny):
    tiny.save_vision_model(page.folder, "classification")
    page.open()
    page.wait_for_model("pictures")
    assert not page.shown("#text-tab, #text")
    assert not page.shown(".error")


def changed(**fields):
    def change(site):
        path = site / "text" / "export.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def replaced(name, content):
    return lambda site: (site / "text" / name).write_text(content)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (replaced("export.json", "{"), "The file text/export.json is damaged: export the model again."),
        (replaced("export.json", "[]"), "The file text/export.json is damaged: export the model again."),
        (replaced("tokenizer.json", "?"), "The file text/tokenizer.json is damaged: export the model again."),
        (replaced("model.onnx", "?"), "The model text/model.onnx cannot be opened: "),
        (changed(file="other.onnx"), "The file text/other.onnx cannot be read: the server answers 404."),
        (changed(format="pt2"), "The model in text has the format pt2, but this page needs onnx."),
        (
            changed(kind="detection"),
            "The model in the folder text is for detection, which another tab shows.",
        ),
        (changed(graph="sequence"), "This model was exported for whole texts: export it again with --graph step."),
    ],
)
def test_a_broken_export_is_told_in_its_tab_and_the_other_one_works(page, tiny, half_red, damage, sentence):
    tiny.save_language_model(page.folder)
    tiny.save_vision_model(page.folder, "segmentation")
    damage(page.folder)
    page.open()
    page.until(lambda: page.shown("#text .error"))
    assert page.find("#text .error").text.startswith(sentence)
    assert not page.shown("#text form")
    page.find("#pictures-tab").click()
    page.wait_for_model("pictures")
    assert len(page.answer(half_red)) == 2


def test_without_the_runtime_the_page_says_where_it_comes_from(page, tiny):
    tiny.save_language_model(page.folder)
    (page.folder / "node_modules" / "onnxruntime-web").unlink()
    page.open()
    page.until(lambda: "run npm install" in page.find("#notice").text)
    assert not page.shown(".tabs, #text")


def test_without_a_model_the_page_says_how_to_get_one(page):
    page.open()
    page.until(lambda: page.find("#notice").text.startswith("No model lies beside this page"))
