"""Reading and writing: geometry survives, damage is noticed, messages name file and remedy."""

from __future__ import annotations

import gzip
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from cardiac_autoseg.data.index import LABELS
from cardiac_autoseg.data.volume import (
    Cine,
    Geometry,
    Volume,
    from_sitk,
    geometry_difference,
    read_cine,
    read_labels,
    read_volume,
    to_sitk,
    write_labels,
    write_volume,
)
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import write_json

VALUES = {1: "RV", 2: "MYO", 3: "LV"}


def rotation(a: float, b: float, c: float) -> tuple[float, ...]:
    """Direction of a doubly oblique stack: rotations about z, y and x."""
    turns = [
        [[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]],
        [[math.cos(b), 0, math.sin(b)], [0, 1, 0], [-math.sin(b), 0, math.cos(b)]],
        [[1, 0, 0], [0, math.cos(c), -math.sin(c)], [0, math.sin(c), math.cos(c)]],
    ]
    return tuple(float(value) for value in np.ravel(np.linalg.multi_dot([np.array(turn) for turn in turns])))


OBLIQUE = Geometry(
    (33, 27, 5), (1.3671875, 0.7345679, 9.87654321), (-101.2345678, 55.1234567, -77.7654321), rotation(0.4, -0.9, 1.3)
)


@pytest.mark.parametrize("mirrored", [False, True])
def test_geometry_survives_writing(tmp_path: Path, mirrored: bool) -> None:
    direction = tuple(np.ravel(np.reshape(OBLIQUE.direction, (3, 3)) * [1, 1, -1])) if mirrored else OBLIQUE.direction
    geometry = Geometry(OBLIQUE.size, OBLIQUE.spacing, OBLIQUE.origin, direction)
    labels = np.random.default_rng(0).integers(0, 4, geometry.shape)
    path = tmp_path / "labels.nii.gz"
    write_labels(path, labels, geometry)
    back = read_labels(path, VALUES, LABELS)
    assert np.array_equal(back.array, labels)
    assert back.array.dtype == np.uint8
    assert np.abs(back.geometry.corners() - geometry.corners()).max() < 2e-5
    # What was read once is exact from then on: nothing drifts over a chain of tools.
    write_labels(path, labels, back.geometry)
    assert np.abs(read_volume(path).geometry.corners() - back.geometry.corners()).max() < 1e-5
    assert [name.name for name in tmp_path.iterdir()] == ["labels.nii.gz"]


def test_corners_agree_with_simpleitk() -> None:
    image = to_sitk(np.zeros(OBLIQUE.shape, np.float32), OBLIQUE)
    x, y, z = (size - 1 for size in OBLIQUE.size)
    for corner, index in zip(OBLIQUE.corners(), [(i, j, k) for i in (0, x) for j in (0, y) for k in (0, z)], strict=True):
        assert np.allclose(corner, image.TransformIndexToPhysicalPoint(index), atol=1e-9)


def test_4d_round_trip_and_frames(tmp_path: Path) -> None:
    geometry = Geometry(OBLIQUE.size, OBLIQUE.spacing, OBLIQUE.origin, OBLIQUE.direction, frame_step=0.035)
    cine = np.random.default_rng(1).normal(size=(4, *geometry.shape)).astype(np.float32)
    path = tmp_path / "cine.nii.gz"
    write_volume(path, cine, geometry)
    back = read_cine(path)
    assert np.array_equal(back.array, cine)
    assert geometry_difference(back.geometry, geometry, 2e-5) is None
    assert back.geometry.frame_step == pytest.approx(0.035, rel=1e-6)
    assert np.array_equal(read_volume(path, 2).array, cine[2])
    for frame, word in ((None, "4 frames"), (4, "no frame 4")):
        with pytest.raises(UserError, match=word):
            read_volume(path, frame)


def test_3d_file_is_a_cine_of_one_frame(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii", np.ones(OBLIQUE.shape, np.int16), OBLIQUE)
    assert read_cine(tmp_path / "a.nii").array.shape == (1, *OBLIQUE.shape)
    assert read_volume(tmp_path / "a.nii", 0).array.dtype == np.float32


def test_sitk_round_trip_in_memory() -> None:
    array = np.arange(np.prod(OBLIQUE.shape), dtype=np.int16).reshape(OBLIQUE.shape)
    volume = from_sitk(to_sitk(array, OBLIQUE))
    assert isinstance(volume, Volume)
    assert np.array_equal(volume.array, array)
    assert volume.geometry == OBLIQUE
    with pytest.raises(UserError, match="2 dimensions"):
        from_sitk(sitk.Image(4, 4, sitk.sitkUInt8))
    with pytest.raises(ValueError, match="does not fit"):
        to_sitk(array[:, 1:], OBLIQUE)


def test_label_values_are_remapped_by_name_and_unknown_ones_named(tmp_path: Path) -> None:
    geometry = Geometry((4, 1, 1), (1.0, 1.0, 8.0))
    path = tmp_path / "labels.nii.gz"
    write_volume(path, np.array([[[0, 1, 2.0000001, 3]]], np.float32), geometry)
    assert read_labels(path, {1: "LV", 2: "MYO", 3: "RV"}, LABELS).array.ravel().tolist() == [0, 3, 2, 1]
    write_volume(path, np.array([[[0, 1.5, 7, 3]]], np.float32), geometry)
    with pytest.raises(UserError, match=r"labels.nii.gz holds.*1\.5, 7 .*1 = RV"):
        read_labels(path, VALUES, LABELS)
    # The NIfTI library beneath ITK reads NaN as 0.
    for kind in (np.float32, np.float64):
        write_volume(path, np.array([[[0, 1, np.inf, np.nan]]], kind), geometry)
        with pytest.raises(UserError, match="2 NaN or infinite"):
            read_labels(path, VALUES, LABELS)


def test_geometry_difference_is_in_mm_and_says_what() -> None:
    same = Geometry(OBLIQUE.size, OBLIQUE.spacing, tuple(v + 1e-4 for v in OBLIQUE.origin), OBLIQUE.direction)  # type: ignore[arg-type]
    assert geometry_difference(OBLIQUE, same) is None
    spaced = Geometry(OBLIQUE.size, (1.4, *OBLIQUE.spacing[1:]), OBLIQUE.origin, OBLIQUE.direction)
    words = geometry_difference(OBLIQUE, spaced)
    assert words is not None
    # 32 steps of 0.0328125 mm.
    assert words.startswith("voxels up to 1.05 mm apart: spacing")
    assert "origin" not in words
    turned = Geometry(OBLIQUE.size, OBLIQUE.spacing, OBLIQUE.origin, rotation(0.5, -0.9, 1.3))
    assert "direction" in (geometry_difference(OBLIQUE, turned) or "")
    assert "size" in (geometry_difference(OBLIQUE, Geometry((1, 2, 3), OBLIQUE.spacing)) or "")
    # A single slice has no second corner along z, yet its thickness makes its volume.
    assert geometry_difference(Geometry((5, 5, 1), (1, 1, 8)), Geometry((5, 5, 1), (1, 1, 10)))


def damaged_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Name -> (file, word its message must have)."""
    write_volume(
        folder / "good.nii.gz",
        np.random.default_rng(0).normal(size=(6, 30, 30)).astype(np.float32),
        Geometry((30, 30, 6), (1, 1, 8)),
    )
    packed = (folder / "good.nii.gz").read_bytes()
    plain = gzip.decompress(packed)
    flipped = bytearray(packed)
    flipped[len(packed) // 2] ^= 0xFF
    sheared = bytearray(plain)
    sheared[252:256] = b"\0\0\1\0"  # qform 0, sform 1: the sform alone counts
    sheared[280:328] = np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 8, 0]], np.float32).tobytes()
    contents = {
        "half.nii.gz": (packed[: len(packed) // 2], "damaged or cut short"),
        "tail.nii.gz": (packed[:-9], "damaged or cut short"),
        "flipped.nii.gz": (bytes(flipped), "damaged"),
        "short_inside.nii.gz": (gzip.compress(plain[:-100]), "cut short"),
        "half.nii": (plain[: len(plain) // 2], "cut short"),
        "empty.nii.gz": (b"", "not a NIfTI file"),
        "text.nii.gz": (b"hello" * 200, "not a NIfTI file"),
        "page.nii.gz": (gzip.compress(b"<html>" * 200), "not a NIfTI file"),
        "unpacked.nii.gz": (plain, "rename it to .nii"),
        "packed.nii": (packed, "rename it to .nii.gz"),
        "sheared.nii": (bytes(sheared), "right angles"),
        "huge.nii": (plain[:42] + b"\xff\x7f" * 3 + plain[48:], "more than any cine"),
        "zero_size.nii": (plain[:42] + b"\0\0" + plain[44:], "broken NIfTI header"),
        "good.mha": (packed, "convert it to NIfTI"),
    }
    for name, (content, _) in contents.items():
        (folder / name).write_bytes(content)
    for name, shape in (("two.nii.gz", (5, 6)), ("five.nii.gz", (2, 3, 4, 5, 6))):
        write_any(folder / name, np.zeros(shape, np.float32))
    colour = sitk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True)
    sitk.WriteImage(colour, str(folder / "colour.nii.gz"))
    files = {name: (folder / name, word) for name, (_, word) in contents.items()}
    files |= {"two.nii.gz": (folder / "two.nii.gz", "2D"), "five.nii.gz": (folder / "five.nii.gz", "5D")}
    files |= {
        "colour.nii.gz": (folder / "colour.nii.gz", "grey-scale|5D"),
        "none": (folder / "none.nii.gz", "does not exist"),
    }
    return files


def write_any(path: Path, array: np.ndarray) -> None:
    """A NIfTI of any number of dimensions, which SimpleITK cannot write: a bare header and the voxels."""
    header = np.zeros(352, np.uint8)
    header[:4] = np.frombuffer(np.int32(348).tobytes(), np.uint8)
    sizes = [array.ndim, *array.shape[::-1], *[1] * (7 - array.ndim)]
    header[40:56] = np.frombuffer(np.array(sizes, np.int16).tobytes(), np.uint8)
    header[70:74] = np.frombuffer(np.array([16, 32], np.int16).tobytes(), np.uint8)
    header[76:108] = np.frombuffer(np.ones(8, np.float32).tobytes(), np.uint8)
    header[108:112] = np.frombuffer(np.float32(352).tobytes(), np.uint8)
    header[344:348] = np.frombuffer(b"n+1\0", np.uint8)
    path.write_bytes(gzip.compress(header.tobytes() + array.tobytes()))


def test_damaged_and_foreign_files_are_user_errors(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # SimpleITK alone reads half of these without a word and fills what is missing with zeros.
    for name, (path, word) in damaged_files(tmp_path).items():
        for read in (read_volume, read_cine):
            with pytest.raises(UserError, match=word) as caught:
                read(path)
            assert str(path) in str(caught.value), name
    assert capfd.readouterr().err == ""


def test_trailing_dimensions_of_one_are_no_obstacle(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(1, 2, 3, 4, 5)).astype(np.float32)
    write_any(tmp_path / "a.nii.gz", array)
    assert np.array_equal(read_cine(tmp_path / "a.nii.gz").array, array[0])
    assert np.array_equal(read_volume(tmp_path / "a.nii.gz", 1).array, array[0, 1])
    write_any(tmp_path / "b.nii.gz", array[:, :1])
    assert np.array_equal(read_volume(tmp_path / "b.nii.gz").array, array[0, 0])


def test_a_file_that_changed_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "a.nii.gz"
    write_volume(path, np.ones((2, 3, 4), np.float32), Geometry((4, 3, 2), (1, 1, 8)))
    read_volume(path)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(UserError, match="cut short"):
        read_volume(path)


@pytest.fixture
def stranger() -> Iterator[None]:
    """Someone who may not look into the test's folder, also where tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield
    os.seteuid(user)


def test_permissions_are_user_errors(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "a.nii.gz"
    write_volume(path, np.ones((2, 3, 4), np.float32), Geometry((4, 3, 2), (1, 1, 8)))
    path.chmod(0)
    tmp_path.chmod(0o500)
    request.getfixturevalue("stranger")
    with pytest.raises(UserError, match=r"a\.nii\.gz.*permissions"):
        read_volume(path)
    with pytest.raises(UserError, match=r"b\.nii\.gz.*permissions"):
        write_volume(tmp_path / "b.nii.gz", np.ones((2, 3, 4), np.float32), Geometry((4, 3, 2), (1, 1, 8)))


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_voxels_and_geometry_are_those_of_simpleitk(tmp_path: Path, kind: str) -> None:
    """Of a fresh file, of one known already, of one frame, of the other byte order, and where the header scales."""
    path, geometry = (
        tmp_path / "cine.nii.gz",
        Geometry(OBLIQUE.size, OBLIQUE.spacing, OBLIQUE.origin, OBLIQUE.direction, 30.0),
    )
    cine = np.random.default_rng(0).integers(0, 100, (3, *geometry.shape)).astype(kind)
    write_volume(path, cine, geometry)
    plain = bytearray(gzip.decompress(path.read_bytes()))
    swapped = swapped_header(plain[:352]) + cine.astype(f">{kind}").tobytes()
    scaled = plain[:112] + np.array([0.5, 7.0], np.float32).tobytes() + plain[120:]
    for name, content in (("plain", plain), ("swapped", swapped), ("scaled", scaled)):
        file = tmp_path / f"{name}.nii"
        file.write_bytes(content)
        expected = from_sitk(sitk.ReadImage(str(file)))
        assert isinstance(expected, Cine)
        for _ in range(2):
            back = read_cine(file)
            assert np.array_equal(back.array, expected.array)
            assert back.geometry == expected.geometry
            assert back.geometry.frame_step == pytest.approx(30.0)
            assert back.array.flags.writeable
        frame = read_volume(file, 1)
        assert np.array_equal(frame.array, expected.array[1])
        assert frame.geometry == replace(expected.geometry, frame_step=1.0)
    assert np.array_equal(read_cine(tmp_path / "scaled.nii").array, cine * np.float32(0.5) + 7)


def swapped_header(header: bytearray) -> bytes:
    """A NIfTI-1 header in the other byte order."""
    parts = [(0, 40, "i1"), (40, 56, "i2"), (56, 68, "i4"), (68, 76, "i2"), (76, 120, "i4"), (120, 122, "i2")]
    parts += [(122, 124, "i1"), (124, 148, "i4"), (148, 252, "i1"), (252, 256, "i2"), (256, 328, "i4"), (328, 352, "i1")]
    swapped = b"".join(np.frombuffer(header[start:stop], kind).byteswap().tobytes() for start, stop, kind in parts)
    return bytes(header[:4][::-1]) + swapped[4:]


def test_files_made_in_threads_have_the_usual_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: write_json(tmp_path / str(number), number), range(100)))
    finally:
        left = os.umask(before)
    assert left == 0o027
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
    assert len(list(tmp_path.iterdir())) == 100


def test_reading_in_many_threads(tmp_path: Path) -> None:
    # SimpleITK's own reading aborts the process now and then when several threads do it.
    paths = [tmp_path / f"{number}.nii.gz" for number in range(6)]
    for number, path in enumerate(paths):
        write_volume(path, np.full((2, 3, 4), number, np.float32), Geometry((4, 3, 2), (1, 1, 8)))
    with ThreadPoolExecutor(8) as pool:
        for number, volume in enumerate(pool.map(read_volume, paths * 50)):
            assert (volume.array == number % 6).all()


def test_writing_where_one_cannot_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file.a\.nii\.gz cannot be written"):
        write_labels(tmp_path / "file" / "a.nii.gz", np.zeros((2, 3, 4)), Geometry((4, 3, 2), (1, 1, 8)))
    with pytest.raises(UserError, match=r"ends in \.nii\.gz"):
        write_labels(tmp_path / "a.png", np.zeros((2, 3, 4)), Geometry((4, 3, 2), (1, 1, 8)))


@pytest.mark.realdata
def test_acdc_is_read_without_a_word_from_itk_and_written_in_place(acdc: Path, tmp_path: Path) -> None:
    names = [path for number in (1, 30, 77, 90) for path in sorted((acdc / f"patient{number:03d}").glob("*.nii.gz"))]
    code = "import sys; from cardiac_autoseg.data.volume import read_cine; [read_cine(p) for p in sys.argv[1:]]"
    done = subprocess.run([sys.executable, "-c", code, *map(str, names)], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    for path in (name for name in names if name.name.endswith("_gt.nii.gz")):
        labels = read_labels(path, VALUES, LABELS)
        write_labels(tmp_path / "copy.nii.gz", labels.array, labels.geometry)
        copy = read_labels(tmp_path / "copy.nii.gz", VALUES, LABELS)
        assert np.array_equal(copy.array, labels.array)
        assert np.abs(copy.geometry.corners() - labels.geometry.corners()).max() < 1e-5
