"""Made-up headers, label files and tables: each parser gives what SimpleITK or plain code gives, or a UserError."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from cardiac_autoseg.data import header
from cardiac_autoseg.data.index import LABELS
from cardiac_autoseg.data.parsing import INTERNAL_VALUES
from cardiac_autoseg.data.volume import Volume, read_cine, read_labels, read_volume
from cardiac_autoseg.errors import UserError

from .conftest import Tries
from .fuzz_settings import EXAMPLES, check_names
from .hostile_labels import heart
from .hostile_nifti import nifti, picture

AREA = "Fuzzing"
IMAGE = nifti(picture()[:2, :9, :7])


def by_itk(path: Path) -> sitk.Image | None:
    """What ITK makes of a file; None if it refuses."""
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    reader = sitk.ImageFileReader()
    reader.SetImageIO("NiftiImageIO")
    reader.SetFileName(str(path))
    try:
        return reader.Execute()
    except RuntimeError:
        return None


def read(path: Path) -> Volume | None:
    header._whole.clear()  # a file that changes within a tick of the disk's clock looks the same
    try:
        return read_volume(path, 0)
    except UserError as error:
        check_names(error, path)
        return None


def assert_as_itk(path: Path) -> None:
    """The same voxels and place as ITK says, or a refusal."""
    found = read(path)
    if found is None:
        return
    image = by_itk(path)
    assert image is not None
    voxels = np.nan_to_num(sitk.GetArrayFromImage(image).astype(np.float32), posinf=0, neginf=0)
    assert np.array_equal(voxels.reshape(-1, *found.array.shape)[0], found.array)
    assert np.allclose(image.GetSpacing()[:3], found.geometry.spacing)
    assert np.allclose(image.GetOrigin()[:3], found.geometry.origin)
    rows = np.reshape(image.GetDirection(), (image.GetDimension(),) * 2)[:3, :3]
    assert np.allclose(rows, np.reshape(found.geometry.direction, (3, 3)))


@pytest.mark.tries(AREA, "NIfTI: every byte of a header changed, each in several ways; as SimpleITK or refused")
def test_every_byte_of_a_header(tmp_path: Path, tries: Tries, full: bool) -> None:
    path, random = tmp_path / "image.nii", np.random.default_rng(0)
    tries.count = 0
    for place in range(352):
        values = {0, 0x7F, 0x80, 0xFF, IMAGE[place] ^ 1} | set(random.integers(0, 256, 8).tolist() if full else [])
        for value in sorted(values - {IMAGE[place]})[:: 1 if full else 3]:
            path.write_bytes(IMAGE[:place] + bytes([value]) + IMAGE[place + 1 :])
            assert_as_itk(path)
            tries.count += 1


@pytest.mark.tries(AREA, "NIfTI: bytes of a good file changed, cut out and put in at random; as SimpleITK or refused")
@EXAMPLES
@given(data=st.data())
def test_changed_files(tmp_path: Path, counted: Callable[[], None], data: st.DataObject) -> None:
    counted()
    content = bytearray(IMAGE)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, min(len(content), 360) - 1))
        how = data.draw(st.sampled_from(["set", "set", "set", "cut", "put"]))
        some = data.draw(st.binary(min_size=1, max_size=8))
        content[place : place + (len(some) if how != "put" else 0)] = b"" if how == "cut" else some
    path = tmp_path / "image.nii"
    path.write_bytes(content)
    assert_as_itk(path)


@pytest.mark.tries(AREA, "NIfTI: headers of any numbers; as SimpleITK or refused")
@EXAMPLES
@given(
    changes=st.fixed_dictionaries(
        {},
        optional={
            "dims": st.tuples(st.integers(-1, 9), *[st.sampled_from([-1, 0, 1, 2, 3, 7, 9, 32767])] * 7),
            "kind": st.sampled_from([0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 2304, -4, 9999]),
            "bits": st.sampled_from([0, -16, 8, 16, 24, 32, 64]),
            "pixdim": st.tuples(*[st.floats(width=32) | st.sampled_from([1.5, -1.5, 0.0])] * 3),
            "offset": st.floats(width=32) | st.sampled_from([0.0, 348.0, 351.0, 352.0, 353.0, 352.5]),
            "slope": st.floats(width=32),
            "intercept": st.floats(width=32),
            "units": st.integers(0, 255),
            "qform": st.integers(-1, 5),
            "sform": st.integers(-1, 5),
            "quaternion": st.tuples(*[st.floats(width=32)] * 3),
            "origin": st.tuples(*[st.floats(width=32)] * 3),
            "order": st.sampled_from("<>"),
            "magic": st.sampled_from([b"n+1\0", b"ni1\0", b"n+1x", bytes(4)]),
        },
    )
)
def test_made_up_headers(tmp_path: Path, counted: Callable[[], None], changes: dict[str, Any]) -> None:
    counted()
    path = tmp_path / "image.nii"
    path.write_bytes(nifti(picture()[:2, :9, :7], **changes))
    assert_as_itk(path)


@pytest.mark.tries(AREA, "NIfTI: any bytes, as image, cine and labels")
@EXAMPLES
@given(content=st.binary(max_size=900), suffix=st.sampled_from([".nii", ".nii.gz"]))
def test_any_bytes(tmp_path: Path, counted: Callable[[], None], content: bytes, suffix: str) -> None:
    counted()
    path = tmp_path / f"image{suffix}"
    path.write_bytes(content)
    for parser in (read_volume, read_cine, lambda path: read_labels(path, INTERNAL_VALUES, LABELS)):
        with pytest.raises(UserError, match="image"):
            parser(path)


@pytest.mark.tries(AREA, "label files of any values and types: the classes that they mean, or refused")
@EXAMPLES
@given(data=st.data())
def test_labels(tmp_path: Path, counted: Callable[[], None], data: st.DataObject) -> None:
    counted()
    kind = data.draw(st.sampled_from(["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8", "i8", "u8"]))
    array = heart()[:2].astype(kind)
    numbers = st.floats(width=32) if kind[0] == "f" else st.integers(*_range(kind))
    for _ in range(data.draw(st.integers(0, 3))):
        place = tuple(data.draw(st.integers(0, size - 1)) for size in array.shape)
        array[place] = data.draw(numbers | st.sampled_from([0, 1, 2, 3]))
    path = tmp_path / "labels.nii"
    path.write_bytes(nifti(array))
    header._whole.clear()
    try:
        found = read_labels(path, INTERNAL_VALUES, LABELS).array
    except UserError as error:
        check_names(error, path)
        assert not np.isin(array, [0, 1, 2, 3]).all()
    else:
        assert np.array_equal(found, np.rint(array.astype(np.float64)))


def _range(kind: str) -> tuple[int, int]:
    about = np.iinfo(kind)
    return int(about.min), int(about.max)
