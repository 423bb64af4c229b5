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

PUBLIC = [
    "EESP",
    "ERU",
    "EESP1d",
    "EESP2d",
    "EESP3d",
    "ERUCell",
    "SequenceEESP",
    "StridedEESP",
    "lstm_scan",
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
    upper = ("vision", "eru_cli", "eru.lm", "eru.training", "eru.complexity", "eru.recurrence.traced")
    for name in (*OPTIONAL, *upper, "torch._dynamo", "torch._inductor", "torch.utils.cpp_extension"):
        assert not [module for module in loaded if module == name or module.startswith(f"{name}.")], name
