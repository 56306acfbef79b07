"""Volumes, cines, and SimpleITK's images of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk

from cardiac_autoseg.data.geometry import Geometry
from cardiac_autoseg.errors import UserError


@dataclass(frozen=True)
class Volume:
    """A 3D image: ``array`` is (Z, Y, X)."""

    array: np.ndarray
    geometry: Geometry


@dataclass(frozen=True)
class Cine:
    """A 3D + time image: ``array`` is (T, Z, Y, X), ``geometry`` that of each frame."""

    array: np.ndarray
    geometry: Geometry


def from_sitk(image: sitk.Image) -> Volume | Cine:
    """A SimpleITK image as a :class:`Volume` (3D) or :class:`Cine` (4D), in its own type.

    Raises :class:`UserError` for other dimensions and for pixels of several components.
    """
    dimension = image.GetDimension()
    if dimension not in (3, 4) or image.GetNumberOfComponentsPerPixel() != 1:
        raise UserError(
            f"an image of {dimension} dimensions and {image.GetNumberOfComponentsPerPixel()} components a pixel is neither a"
            " stack of slices (3D) nor a cine of them (4D): give a 3D or 4D grey-scale image"
        )
    geometry, array = geometry_of(image), sitk.GetArrayFromImage(image)
    return Volume(array, geometry) if dimension == 3 else Cine(array, geometry)


def geometry_of(image: sitk.Image | sitk.ImageFileReader) -> Geometry:
    """Where the voxels of an image, or of a frame of it, lie."""
    size, spacing, origin, dimension = image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDimension()
    direction = np.reshape(image.GetDirection(), (dimension, dimension))[:3, :3].ravel()
    return Geometry(
        size=(size[0], size[1], size[2]),
        spacing=(spacing[0], spacing[1], spacing[2]),
        # A reader says -0.0 where the image it reads has 0.0.
        origin=(origin[0] + 0.0, origin[1] + 0.0, origin[2] + 0.0),
        direction=tuple(float(value) + 0.0 for value in direction),
        frame_step=spacing[3] if dimension == 4 else 1.0,
    )


def to_sitk(array: np.ndarray, geometry: Geometry) -> sitk.Image:
    """An array (Z, Y, X) or (T, Z, Y, X) as a SimpleITK image in ``geometry``.

    Raises ``ValueError`` if the array's shape is not that of the geometry.
    """
    if array.ndim not in (3, 4) or array.shape[-3:] != geometry.shape:
        raise ValueError(f"array of shape {array.shape} does not fit a geometry of shape {geometry.shape}")
    if array.dtype in (np.bool_, np.float16):
        # SimpleITK knows neither.
        array = array.astype(np.uint8 if array.dtype == np.bool_ else np.float32)
    image = sitk.GetImageFromArray(array, isVector=False)
    image.SetSpacing(geometry.spacing if array.ndim == 3 else (*geometry.spacing, geometry.frame_step or 1.0))
    image.SetOrigin((*geometry.origin, 0.0)[: array.ndim])
    direction = np.eye(array.ndim)
    direction[:3, :3] = np.reshape(geometry.direction, (3, 3))
    image.SetDirection(direction.ravel())
    return image
