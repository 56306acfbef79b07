"""Loading the image and the labels of a case of the index."""

from __future__ import annotations

from cardiac_autoseg.data.geometry import MAX_SHIFT_MM, geometry_difference
from cardiac_autoseg.data.index import Case, Dataset
from cardiac_autoseg.data.volume import Volume, read_labels, read_volume
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.workspace import Workspace


def load_image(workspace: Workspace, case: Case) -> Volume:
    """The image of a case: float32 (Z, Y, X). Raises :class:`UserError` as ``read_volume``."""
    return read_volume(workspace.resolve(case.image), case.image_frame)


def load_labels(workspace: Workspace, dataset: Dataset, case: Case, source: str) -> Volume:
    """What ``source`` drew on a case: uint8 (Z, Y, X) with the values of ``dataset.labels``.

    Raises :class:`UserError` as ``read_labels``, and if the source did not annotate the case.
    """
    if source not in dataset.sources or source not in case.labels:
        having = ", ".join(sorted(case.labels)) or "none"
        raise UserError(f"case {case.id} has no labels of source {source!r} (it has: {having})")
    reference = case.labels[source]
    return read_labels(workspace.resolve(reference.path), dataset.sources[source].values, dataset.labels, reference.frame)


def require_same_geometry(image: Volume, labels: Volume, case: Case, source: str) -> None:
    """Raise :class:`UserError` with the values if a case's image and what ``source`` drew on it do not lie in one place."""
    difference = geometry_difference(image.geometry, labels.geometry, MAX_SHIFT_MM)
    if difference is not None:
        drawn = case.labels[source].path if source in case.labels else f"the labels of {source}"
        raise UserError(
            f"case {case.id}: image and labels do not fit ({difference}): resample {drawn} onto the image {case.image}"
        )
