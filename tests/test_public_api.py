import subprocess
import sys

import eru

OPTIONAL = (
    "matplotlib",
    "sentencepiece",
    "torchtext",
    "torchvision",
    "triton",
    "click",
    "tqdm",
    "safetensors",
    "onnx",
)

# What the extras of pyproject.toml bring.
EXTRAS = (
    "matplotlib",
    "PIL",
    "faster_coco_eval",
    "pycocotools",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "executorch",
    "sklearn",
    "skimage",
    "scipy",
    "pytest",
)

PUBLIC = [
    "EESP",
    "ERU",
    "EESP1d",
    "EESP2d",
    "EESP3d",
    "EESPGates",
    "ERUCell",
    "StridedEESP",
    "lstm_scan",
    "optimize",
]


def test_public_names():
    assert sorted(eru.__all__) == sorted(PUBLIC)
    assert all(hasattr(eru, name) for name in PUBLIC)


def test_importing_loads_no_optional_dependency_no_upper_floor_and_compiles_nothing():
    # What torch itself pulls in is not ours to answer for.
    program = """
import sys, torch
before = set(sys.modules)
import eru
print("\\n".join(sorted(set(sys.modules) - before)))
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "eru.layer" in loaded
    upper = ("vision", "eru_cli", "eru.lm", "eru.training", "eru.complexity", "eru.recurrence.export")
    for name in (*OPTIONAL, *upper, "torch._dynamo", "torch._inductor", "torch.utils.cpp_extension"):
        assert not [module for module in loaded if module == name or module.startswith(f"{name}.")], name


def test_every_module_can_be_imported_without_the_extras():
    # All but the modules that are an extra's own part, which others import where they need them.
    own = {"vision.drawing", "vision.onnx_nms", "eru.edge.quantize"}
    program = f"""
import importlib, pkgutil, sys
for name in {EXTRAS}:
    sys.modules[name] = None
import eru, eru_cli, vision
for package in (eru, eru_cli, vision):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if module.name not in {own}:
            importlib.import_module(module.name)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_plain_install_trains_a_language_model(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}.txt").write_text("the cat sat on the mat\n" * 20)
    program = f"""
import sys
for name in {EXTRAS}:
    sys.modules[name] = None
from eru_cli import main
main(sys.argv[1:])
"""
    sizes = [f"--set={name}=4" for name in ("embedding_size", "hidden_size", "bptt")]
    options = ["--data", tmp_path, "--out", tmp_path / "run", *sizes, "--set=batch_size=2", "--max-steps=2"]
    done = subprocess.run([sys.executable, "-c", program, "lm-train", *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "validation perplexity" in done.stderr


def test_public_names_of_vision():
    import vision

    assert sorted(vision.__all__) == [
        "Classifier",
        "Dataset",
        "Detector",
        "ESPNetv2",
        "Predictor",
        "Preprocessing",
        "Segmenter",
        "Weights",
        "create_model",
        "list_models",
        "list_weights",
        "load_predictor",
        "load_weights",
        "optimize",
        "save_weights",
    ]
    assert all(hasattr(vision, name) for name in vision.__all__)


def test_importing_vision_loads_neither_pillow_nor_the_language_model():
    program = (
        "import sys, vision; print(*(name for name in sys.modules if name.split('.')[0] == 'PIL' or 'eru.lm' in name))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
