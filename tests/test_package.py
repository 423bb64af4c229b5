"""The wheel, built from the checkout and installed outside of it."""

import email
import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import eru

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def done(*command, cwd, **environment):
    """What a program prints; a failure of it fails the test. It sees neither the checkout nor its environment."""
    outer = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=outer | environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    done(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=ROOT)
    (file,) = folder.glob("*.whl")
    return file


@pytest.fixture(scope="module")
def scripts(wheel, tmp_path_factory):
    """The programs of a fresh environment that has the wheel, and everything else from this one."""
    folder = tmp_path_factory.mktemp("venv")
    done(sys.executable, "-m", "venv", "--without-pip", folder, cwd=folder)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    done(
        *(sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--quiet"),
        *("--no-deps", "--no-index", "--disable-pip-version-check", wheel),
        cwd=folder,
    )
    own = Path(
        done(scripts / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=folder).strip()
    )
    # Path files inside of these folders are not read, so an editable install of the checkout stays out of sight.
    (own / "outer.pth").write_text("\n".join(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))
    return scripts


def test_the_wheel_holds_the_packages_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    information = f"eru-{eru.__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"eru", "eru_cli", "vision", information}
    assert {"eru/py.typed", "vision/py.typed", "vision/labels/imagenet.txt", "eru_cli/__init__.py"} <= names
    assert f"{information}/licenses/LICENSE" in names
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in ("eru", "eru_cli", "vision")
        for path in (ROOT / package).rglob("*.py")
    }
    assert {name for name in names if name.endswith(".py")} == modules


def test_the_metadata_agree_with_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        fields = email.message_from_bytes(archive.read(f"eru-{eru.__version__}.dist-info/METADATA"))
    assert (fields["Name"], fields["Version"], fields["License-Expression"]) == ("eru", eru.__version__, "MIT")
    needed = {name.split(">")[0] for name in fields.get_all("Requires-Dist", []) if "extra ==" not in name}
    assert needed == {"torch", "numpy", "sentencepiece", "safetensors", "click", "tqdm"}


def test_the_installed_package_trains_outside_of_the_checkout(scripts, tmp_path):
    shown = "import eru, eru_cli, vision; [print(package.__file__) for package in (eru, eru_cli, vision)]"
    for place in done(scripts / "python", "-P", "-c", shown, cwd=tmp_path).splitlines():
        assert Path(place).is_relative_to(scripts.parent)
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("the cat sat on the mat\nthe dog sat on the cat\n" * 9)
    sizes = ("--set=embedding_size=4", "--set=hidden_size=4", "--set=batch_size=2", "--set=bptt=5")
    train = ("lm-train", "--data", tmp_path, "--out", "run", "--recipe=small", "--device=cpu", "--max-steps=2", *sizes)
    said = done(scripts / "eru", *train, "--json", cwd=tmp_path, ERU_CACHE_DIR=str(tmp_path / "cache"))
    assert json.loads(said)["steps"] == 2
    assert (tmp_path / "run" / "model.safetensors").is_file()
