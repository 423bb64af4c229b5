import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from vision.pictures import list_pictures, open_picture, picture_suffixes

LOSSLESS = [".bmp", ".gif", ".png", ".ppm", ".tga", ".tif", ".webp"]
FORMATS = [*LOSSLESS, ".jpg", ".jp2"]


def scene(width=48, height=32):
    """A red corner on a grey ramp: every turn of it differs."""
    pixels = np.tile(np.linspace(40, 200, width).astype(np.uint8)[None, :, None], (height, 1, 3))
    pixels[:8, :16] = (255, 0, 0)
    return Image.fromarray(pixels)


def saved(picture, path, **options):
    if path.suffix == ".webp":
        if not features.check("webp"):
            pytest.skip("this Pillow is built without WebP")
        options |= {"lossless": True}
    if path.suffix == ".jp2" and not features.check("jpg_2000"):
        pytest.skip("this Pillow is built without JPEG 2000")
    picture.save(path, **options)
    return path


def refusal(path):
    """The one line that says why; it must name the file."""
    with pytest.raises(ValueError, match=rf"\A{re.escape(str(path))}: .+\Z") as caught:
        open_picture(path)
    return str(caught.value).removeprefix(f"{path}: ")


def test_a_plain_picture_is_read_as_it_is(tmp_path):
    for suffix in (".png", ".bmp", ".ppm", ".tif"):
        found = open_picture(saved(scene(), tmp_path / f"a{suffix}"))
        assert (found.mode, found.info) == ("RGB", {})
        np.testing.assert_array_equal(found, scene())


def test_the_ending_of_the_name_does_not_matter(tmp_path):
    path = saved(scene(), tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(open_picture(path), scene())


TURNS = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: lambda p: np.rot90(p),
}


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", TURNS)
def test_exif_orientation(tmp_path, suffix, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = np.asarray(open_picture(saved(scene(), tmp_path / f"a{suffix}", exif=exif)), dtype=float)
    expected = TURNS[orientation](np.asarray(scene(), dtype=float))
    assert found.shape == expected.shape
    assert np.abs(found - expected).mean() < (8 if suffix == ".jpg" else 1e-9)


def test_damaged_exif_data_cost_the_orientation_alone(tmp_path):
    path = saved(scene(), tmp_path / "a.png", exif=b"Exif\0\0not a TIFF header")
    np.testing.assert_array_equal(open_picture(path), scene())


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_half_transparent_pixels_are_laid_on_white(tmp_path, suffix):
    picture = Image.new("RGBA", (4, 1))
    picture.putdata([(255, 0, 0, 0), (255, 0, 0, 255), (100, 50, 200, 51), (0, 0, 0, 102)])
    found = np.asarray(open_picture(saved(picture, tmp_path / f"a{suffix}", exact=True)), dtype=int)[0]
    # White shows through as far as alpha falls short of 255.
    np.testing.assert_allclose(found, [(255, 255, 255), (255, 0, 0), (224, 214, 244), (153, 153, 153)], atol=1)


def test_grey_with_alpha_is_laid_on_white(tmp_path):
    picture = Image.new("LA", (2, 1))
    picture.putdata([(0, 0), (100, 255)])
    np.testing.assert_array_equal(open_picture(saved(picture, tmp_path / "a.png")), [[[255] * 3, [100] * 3]])


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_palettes(tmp_path, suffix):
    picture = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8))
    picture.putpalette([10, 20, 30, 200, 100, 0, 0, 0, 255])
    opaque = open_picture(saved(picture, tmp_path / f"opaque{suffix}"))
    np.testing.assert_array_equal(opaque, [[[10, 20, 30], [200, 100, 0], [0, 0, 255]]])
    clear = open_picture(saved(picture, tmp_path / f"clear{suffix}", transparency=1))
    np.testing.assert_array_equal(clear, [[[10, 20, 30], [255, 255, 255], [0, 0, 255]]])


@pytest.mark.parametrize(("mode", "clear"), [("L", 7), ("RGB", (7, 7, 7))])
def test_a_transparent_colour(tmp_path, mode, clear):
    picture = Image.new(mode, (2, 1), clear)
    picture.putpixel((1, 0), 90 if mode == "L" else (90, 90, 90))
    found = open_picture(saved(picture, tmp_path / "a.png", transparency=clear))
    np.testing.assert_array_equal(found, [[[255] * 3, [90] * 3]])


def test_greyscale_and_black_and_white(tmp_path):
    ramp = np.arange(256, dtype=np.uint8)[None]
    grey = np.asarray(open_picture(saved(Image.fromarray(ramp), tmp_path / "grey.png")))
    np.testing.assert_array_equal(grey, np.repeat(ramp[..., None], 3, axis=2))
    bits = saved(Image.fromarray(ramp > 99), tmp_path / "bits.png")
    np.testing.assert_array_equal(np.asarray(open_picture(bits))[0, :, 1], np.where(ramp[0] > 99, 255, 0))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm", ".jp2"])
def test_16_bit_greyscale_is_scaled_and_not_clipped(tmp_path, suffix):
    values = np.linspace(0, 65535, 4096).astype(np.uint16).reshape(64, 64)
    found = np.asarray(open_picture(saved(Image.fromarray(values), tmp_path / f"a{suffix}")))
    assert found.shape == (64, 64, 3)
    np.testing.assert_allclose(
        found, np.repeat(values[..., None], 3, axis=2) / 257, atol=1 if suffix == ".jp2" else 0.5
    )


@pytest.mark.parametrize(("largest", "read"), [(65535, True), (65536, False), (-1, False)])
def test_32_bit_integers_must_be_16_bit_values(tmp_path, largest, read):
    path = saved(Image.fromarray(np.array([[0, 257, largest]], dtype=np.int32)), tmp_path / "a.tif")
    if read:
        np.testing.assert_array_equal(np.asarray(open_picture(path))[0, :, 0], [0, 1, 255])
    else:
        assert "must be within 0..65535" in refusal(path)


def test_floating_point_pixels_are_refused(tmp_path):
    path = saved(Image.fromarray(np.ones((4, 4), dtype=np.float32)), tmp_path / "a.tif")
    assert "floating-point" in refusal(path)


@pytest.mark.parametrize("suffix", [".tif", ".jpg"])
def test_cmyk_is_converted(tmp_path, suffix):
    picture = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # no cyan, no black: red
    found = np.asarray(open_picture(saved(picture, tmp_path / f"a{suffix}")), dtype=int)
    np.testing.assert_allclose(found, np.broadcast_to([255, 0, 0], (16, 16, 3)), atol=3)


@pytest.mark.parametrize("suffix", [".gif", ".png", ".tif", ".webp"])
def test_of_several_frames_the_first_is_taken_and_that_is_said(tmp_path, suffix):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    path = saved(frames[0], tmp_path / f"many{suffix}", save_all=True, append_images=frames[1:])
    found = open_picture(path)
    assert found.info == {"first_of_many": True}
    np.testing.assert_array_equal(found, np.broadcast_to([255, 0, 0], (10, 20, 3)).astype(np.uint8))
    assert open_picture(saved(frames[0], tmp_path / f"one{suffix}")).info == {}


def test_the_preview_in_a_photograph_is_no_second_picture(tmp_path):
    path = tmp_path / "a.jpg"
    scene().save(path, format="MPO", save_all=True, append_images=[scene(12, 8)])
    found = open_picture(path)
    assert (found.size, found.info) == (scene().size, {})


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_truncated_files_are_refused(tmp_path, suffix, kept):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = saved(Image.fromarray(noise), tmp_path / f"a{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert re.match("cannot be read: |not a picture", refusal(path))


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "empty"), (b"just some text\n", "not a picture"), (bytes(999), "not a picture")]
)
def test_what_is_no_picture_is_refused(tmp_path, content, said):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert said in refusal(path)


def test_a_folder_and_nothing_are_refused(tmp_path):
    assert refusal(tmp_path) == "a folder, not a picture"
    assert refusal(tmp_path / "none.png") == "no such file"


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(tmp_path):
    """A PNG that announces 10^10 pixels, with next to no data."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path = tmp_path / "bomb.png"
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    assert refusal(path) == "has more pixels than the limit of 178,956,970"


def test_a_large_picture_below_the_limit_is_read_without_a_warning(tmp_path, monkeypatch):
    path = saved(scene(), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 32 - 1)  # Pillow warns from here, and refuses twice as many
    np.testing.assert_array_equal(open_picture(path), scene())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 48 * 32 // 2 - 1)
    assert "more pixels than the limit of 1,534" in refusal(path)


@given(st.data())
def test_a_damaged_file_is_read_or_refused_and_nothing_else(tmp_path_factory, data):
    suffix = data.draw(st.sampled_from([".bmp", ".gif", ".jpg", ".png", ".ppm", ".tga", ".tif"]))
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    scene().save(path, **({"exif": exif} if suffix in (".jpg", ".png", ".tif") else {}))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        found = open_picture(path)
    except ValueError:
        refusal(path)
    else:
        assert found.mode == "RGB"


def test_programs_that_pillow_would_call_are_not_called(tmp_path):
    path = tmp_path / "a.eps"
    scene().save(path)
    assert "not a picture" in refusal(path)
    assert not {".eps", ".h5", ".mpg", ".txt", ".pdf", ".pth"} & picture_suffixes()
    assert {".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".ppm"} <= picture_suffixes()


def test_folders_are_replaced_by_their_pictures(tmp_path):
    for name in ("b.PNG", "a.jpg", "notes.txt", "sub/c.png", "broken.gif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    inside = [tmp_path / name for name in ("a.jpg", "b.PNG", "broken.gif")]
    assert list_pictures([tmp_path]) == inside
    assert list_pictures([tmp_path / "b.PNG", tmp_path]) == [inside[1], inside[0], inside[2]]
    assert list_pictures(["missing.png", "notes.txt"]) == [Path("missing.png"), Path("notes.txt")]


def test_a_folder_without_pictures_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path))}: no pictures in this folder"):
        list_pictures([tmp_path])
