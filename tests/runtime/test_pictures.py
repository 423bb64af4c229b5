"""Picture files that are damaged, foreign or of another range: read as ERU reads them, or refused as there."""

import numpy as np
import pytest
from PIL import Image

from eru_runtime.pictures import read_picture
from vision.pictures import open_picture


def test_a_picture_whose_exif_is_damaged_is_read_all_the_same(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.arange(72, dtype=np.uint8).reshape(4, 6, 3)).save(path, exif=b"Exif\0\0MM\0&damaged")
    np.testing.assert_array_equal(read_picture(path), np.asarray(open_picture(path)))


def test_no_other_program_is_started_for_a_picture(tmp_path):
    path = tmp_path / "a.eps"
    Image.new("RGB", (9, 9)).save(path)
    with pytest.raises(ValueError, match=r"a\.eps: cannot be read as a picture: cannot identify"):
        read_picture(path)
    with pytest.raises(ValueError, match=r"a\.eps"):
        open_picture(path)


@pytest.mark.parametrize("values", [[[0, 70000], [5, 6]], [[0, -1], [5, 6]]])
def test_grey_values_of_an_unknown_range_are_refused(values, tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.array(values, dtype=np.int32)).save(path)
    for read in (read_picture, open_picture):
        with pytest.raises(ValueError, match=r"within 0\.\.65535"):
            read(path)


def test_grey_values_of_sixteen_bits_are_scaled_alike(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, 65535], [257, 32768]], dtype=np.int32)).save(path)
    np.testing.assert_array_equal(read_picture(path), np.asarray(open_picture(path)))
