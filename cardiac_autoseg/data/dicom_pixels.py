"""Pixels of DICOM frames: decoded, rescaled, bright where the tissue is bright."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder, pixel_array
from pydicom.uid import (
    HTJ2K,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000TransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from cardiac_autoseg.data.dicom_files import Files, read_whole
from cardiac_autoseg.data.dicom_frames import Frame
from cardiac_autoseg.errors import UserError

MAX_VOXELS = 1 << 31
"""Eight GiB as float32; a cine has a hundredth of that."""


def load_pixels(
    files: Files, frames: Sequence[Sequence[Frame | None]], shape: tuple[int, int]
) -> tuple[NDArray[np.float32], dict[Path, str]]:
    """The values (T, Z, Y, X), float32, of ``frames`` [frame][slice] of ``shape`` (Y, X); zeros where there is None.

    Values are the stored ones times the rescale slope plus the intercept; MONOCHROME1 is turned about the brightest value
    stored this way. Also returns the files that cannot be read, and why. Raises :class:`UserError` where a decoder for the
    compression is missing.
    """
    if len(frames) * len(frames[0]) * shape[0] * shape[1] > MAX_VOXELS:
        raise UserError(
            f"{files.root}: a cine of {len(frames)} x {len(frames[0])} x {shape[0]} x {shape[1]} voxels is too large"
        )
    array = np.zeros((len(frames), len(frames[0]), *shape), np.float32)
    wanted: dict[Path, list[tuple[int, int, Frame]]] = defaultdict(list)
    for t, row in enumerate(frames):
        for z, frame in enumerate(row):
            if frame is not None:
                wanted[frame.path].append((t, z, frame))
    broken: dict[Path, str] = {}
    for path, places in wanted.items():
        try:
            dataset = read_whole(files, path)
            _check_decoder(path, dataset)
            # pylibjpeg's decoder of RLE panics on damaged data, which is no Exception and writes to stderr.
            plugin = "pydicom" if dataset.file_meta.TransferSyntaxUID == RLELossless else ""
            stored = pixel_array(dataset, decoding_plugin=plugin)
            stored = stored[None] if stored.ndim == 2 else stored
            for t, z, frame in places:
                array[t, z] = stored[frame.number - 1] * np.float32(frame.slope) + np.float32(frame.intercept)
        except UserError:
            raise
        except Exception as error:  # pydicom and its decoders raise nearly every type on damaged pixels
            broken[path] = " ".join(str(error).split())[:200] or type(error).__name__
    inverted = np.array([[frame is not None and frame.inverted for frame in row] for row in frames])
    if inverted.any():
        array[inverted] = array[inverted].max() - array[inverted]
    return array, broken


def _check_decoder(path: Path, dataset: Dataset) -> None:
    """Raise :class:`UserError` that names the package to install if the file's compression cannot be decoded."""
    syntax = UID(dataset.file_meta.TransferSyntaxUID)
    try:
        if get_decoder(syntax).is_available:
            return
    except NotImplementedError:
        raise UserError(
            f"{path} is compressed as {syntax.name}, which cannot be read: export it as uncompressed DICOM"
        ) from None
    package = "a decoder that pydicom knows"
    for names, syntaxes in (
        ("pylibjpeg pylibjpeg-openjpeg", (*JPEG2000TransferSyntaxes, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL)),
        ("pylibjpeg pylibjpeg-libjpeg", JPEGTransferSyntaxes),
    ):
        if syntax in syntaxes:
            package = f"`pip install {names}`"
            break
    raise UserError(f"{path} is compressed as {syntax.name}, for which no decoder is installed: {package}, or export it raw")
