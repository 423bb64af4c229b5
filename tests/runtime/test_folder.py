import json
import re

import onnx
import pytest

import eru_runtime


@pytest.fixture
def folder(toy_text, write_text_folder):
    return write_text_folder(toy_text(8).model())


def change(folder, **fields):
    told = json.loads((folder / "export.json").read_text())
    (folder / "export.json").write_text(json.dumps({**told, **fields}))


def refused(folder, said, error=ValueError, **options):
    with pytest.raises(error, match=re.escape(said)):
        eru_runtime.load(folder, **options)


def test_a_folder_is_given_as_a_path_or_its_name(folder):
    first, second = (eru_runtime.load(each).generate("the", 9, temperature=0) for each in (folder, str(folder)))
    assert first == second


def test_a_folder_that_is_not_there_or_holds_no_export_is_named(tmp_path):
    refused(tmp_path / "nowhere", f"folder={str(tmp_path / 'nowhere')!r}: is no folder")
    refused(tmp_path, f"folder={str(tmp_path)!r}: holds no export.json")
    refused(None, "folder=None: must be a path", TypeError)
    refused(7, "folder=7: must be a path", TypeError)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"7", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_object_is_named(folder, content):
    for name in ("tokenizer.json", "export.json"):
        (folder / name).write_bytes(content)
        refused(folder, f"{folder / name}: ")


@pytest.mark.parametrize("name", ["format", "kind", "file", "sha256", "graph", "tokenizer"])
def test_a_field_that_lacks_is_named(folder, name):
    told = json.loads((folder / "export.json").read_text())
    del told[name]
    (folder / "export.json").write_text(json.dumps(told))
    refused(folder, f"export.json: has no field {name!r}")


@pytest.mark.parametrize("name", ["pt2", "executorch", None, ["onnx"]])
def test_another_format_is_refused(folder, name):
    change(folder, format=name)
    refused(folder, f"format={name!r}: must be 'onnx', the only one that this runtime runs")


@pytest.mark.parametrize("kind", ["translation", None, ["segmentation"]])
def test_another_kind_is_refused(folder, kind):
    change(folder, kind=kind)
    refused(folder, f"kind={kind!r}: must be one of language-model, classification, segmentation, detection")


def test_a_damaged_model_is_refused(folder):
    content = bytearray((folder / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "model.onnx").write_bytes(content)
    refused(folder, f"{folder / 'model.onnx'}: is damaged or another file than was exported (its SHA-256 differs)")


def test_what_onnx_runtime_cannot_run_is_refused(write_text_folder):
    odd = onnx.helper.make_node("NoSuchOperator", ["tokens"], ["logits"])
    tensor = onnx.helper.make_tensor_value_info("tokens", onnx.TensorProto.INT64, [1])
    model = onnx.helper.make_model(onnx.helper.make_graph([odd], "odd", [tensor], []), ir_version=9)
    refused(write_text_folder(model), "model.onnx: ONNX Runtime cannot run it: ")


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/hostname", "..", "", "a\\b", "C:x", 7, None])
def test_no_file_outside_of_the_folder_is_read(folder, name):
    for field in ("file", "tokenizer"):
        change(folder, **{"file": "model.onnx", "tokenizer": "tokenizer.json", field: name})
        refused(folder, f"{field}={name!r}: must be the name of a file in this folder")


def test_files_that_are_not_there_are_named(folder):
    (folder / "tokenizer.json").rename(folder / "moved")
    refused(folder, f"{folder / 'tokenizer.json'}: cannot be read")
    (folder / "moved").rename(folder / "tokenizer.json")
    (folder / "model.onnx").unlink()
    refused(folder, f"{folder / 'model.onnx'}: cannot be read")


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "two"])
def test_threads_are_a_number_of_them(folder, threads):
    refused(folder, f"threads={threads!r}: must be a whole number, at least 1", threads=threads)
