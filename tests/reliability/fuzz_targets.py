"""Targets of coverage-guided fuzzing with atheris: what reads bytes that may come from anywhere.

    python tests/reliability/fuzz_targets.py TARGET FOLDER [options of libFuzzer, such as -max_total_time=60]

makes a seed corpus below FOLDER and fuzzes TARGET. A target may raise UserError, which says in words what is wrong with a
file. Any other exception, a hang (-timeout) or too much memory (-rss_limit_mb) ends the fuzzing; the bytes that did it are
in FOLDER, as crash-…, timeout-… or oom-…. The targets can be called with such bytes without atheris, too.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import sys
import warnings
import zipfile
from collections.abc import Callable
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

INSTRUMENTED = ["cardiac_autoseg", "planning", "zipfile", "pydicom"]

Target = Callable[[bytes], None]


def json_target(folder: Path) -> Target:
    """All readers of JSON; the first byte says which."""
    if __package__:
        from . import fuzz_documents
    else:
        import fuzz_documents

    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.inference.model_store import default_bundle
    from cardiac_autoseg.workspace import Workspace

    default = default_bundle()
    assert default is not None
    documents = list(fuzz_documents.documents(default / "bundle.json", default / "quality.json").values())
    for number, document in enumerate(documents):
        lines = document.valid if document.lines else [document.valid]
        text = "\n".join(json.dumps(line, separators=(",", ":")) for line in lines)
        _seed(folder, bytes([number]) + text.encode())
    work = folder / "work"

    def target(data: bytes) -> None:
        document = documents[data[0] % len(documents)] if data else documents[0]
        shutil.rmtree(work, ignore_errors=True)
        path = work / document.path
        path.parent.mkdir(parents=True)
        path.write_bytes(data[1:])
        with suppress(UserError):
            document.read(Workspace(work))

    return target


def bundle_target(folder: Path) -> Target:
    """A zip as a bundle: checked, read, its networks loaded."""
    from cardiac_autoseg.bundle import load_bundle, read_quality
    from cardiac_autoseg.bundle_transfer import damage
    from cardiac_autoseg.errors import UserError

    _, content = tiny_bundle()
    _seed(folder, content)
    _seed(folder, repacked(content, zipfile.ZIP_DEFLATED))
    path = folder / "work.zip"

    def target(data: bytes) -> None:
        path.write_bytes(data)
        damage(path)
        for read in (load_bundle, read_quality):
            with suppress(UserError):
                read(path)

    return target


def weights_target(folder: Path) -> Target:
    """The bytes of a safetensors file, with the checksum that fits: who made it may have made that, too."""
    import dataclasses

    from cardiac_autoseg.bundle import load_network
    from cardiac_autoseg.errors import UserError

    bundle, content = tiny_bundle()
    member = bundle.members[0]
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        _seed(folder, archive.read(next(name for name in archive.namelist() if name.endswith(member.file))))
    work = folder / "work"
    work.mkdir()

    def target(data: bytes) -> None:
        (work / member.file).write_bytes(data)
        fitting = dataclasses.replace(member, sha256=hashlib.sha256(data).hexdigest())
        with suppress(UserError):
            load_network(work, fitting, bundle.plans[member.plan])

    return target


def dicom_target(folder: Path) -> Target:
    """A DICOM file, as a file by itself, and a zip of DICOM files."""
    import numpy as np

    from cardiac_autoseg.data.dicom import is_dicom_input, read_study
    from cardiac_autoseg.errors import UserError

    for content in dicom_files():
        _seed(folder, content)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.dcm", content)
        _seed(folder, packed.getvalue())
    work = folder / "work.dcm"

    def target(data: bytes) -> None:
        work.write_bytes(data)
        is_dicom_input(work)
        with suppress(UserError), np.errstate(all="ignore"):
            read_study(work)

    return target


def nifti_target(folder: Path) -> Target:
    """A NIfTI file, packed or not."""
    import gzip

    from cardiac_autoseg.data.header import read_header, read_note
    from cardiac_autoseg.data.volume import count_frames, read_cine, read_volume
    from cardiac_autoseg.errors import UserError

    for content in nifti_files(folder):
        _seed(folder, content)
        _seed(folder, gzip.compress(content))
    work = folder / "work.nii.gz"

    def target(data: bytes) -> None:
        work.write_bytes(data)
        read_note(work)
        for read in (read_header, count_frames, read_volume, read_cine):
            with suppress(UserError):
                read(work)

    return target


TARGETS: dict[str, Callable[[Path], Target]] = {
    "json": json_target,
    "bundle": bundle_target,
    "weights": weights_target,
    "dicom": dicom_target,
    "nifti": nifti_target,
}


def tiny_bundle() -> tuple[Any, bytes]:
    """A bundle of one tiny network, and its zip."""
    import tempfile

    import torch

    from cardiac_autoseg.bundle import Bundle, Member, save_bundle
    from cardiac_autoseg.data.index import LABELS
    from cardiac_autoseg.networks import build_network
    from planning.plan import Plan, UNetShape

    numbers: dict[str, Any] = dict.fromkeys(("memory_gb", "gflops", "batch", "steps", "learning_rate"), 1)
    numbers |= dict.fromkeys(("memory_bytes", "gflops_per_slice", "parameters"), 1)
    shape = UNetShape((1, 1), ((1, 1), (2, 2)), convolutions=1)
    texts = {"architecture": "unet", "dataset": "d", "target": "cpu", "augmentation": "device", "fingerprint_hash": ""}
    plan = Plan(
        **numbers, **texts, classes=tuple(LABELS), spacing=(1.5, 1.5), patch=(32, 32), divisor=(4, 4),
        clip_percentiles=(0.5, 99.5), network=shape, reasons={},
    )  # fmt: skip
    torch.manual_seed(0)
    member = Member("unet", "ce_dice", "expert", "0", 0, "a")
    bundle = Bundle(name="m", labels=LABELS, plans={"a": plan}, members=(member,), licence="none", created="then")
    with tempfile.TemporaryDirectory() as place:
        saved = save_bundle(Path(place) / "m.zip", bundle, [build_network(plan).state_dict()], quality={"a": 1})
        return saved, (Path(place) / "m.zip").read_bytes()


def repacked(content: bytes, method: int) -> bytes:
    """A zip with its files compressed by ``method``."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(packed, "w", method) as new:
        for name in archive.namelist():
            new.writestr(name, archive.read(name))
    return packed.getvalue()


def dicom_files() -> list[bytes]:
    """A classic MR image, and an enhanced one with several frames, both tiny."""
    import pydicom
    from pydicom.dataset import Dataset, FileMetaDataset

    def image(frames: int) -> bytes:
        data = Dataset()
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        data.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4" + ("" if frames == 1 else ".1")
        data.SOPInstanceUID = data.SeriesInstanceUID = data.StudyInstanceUID = "1.2.3"
        data.Modality, data.SeriesDescription, data.PatientName = "MR", "cine sa", "A^B"
        data.Rows = data.Columns = 4
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.PixelSpacing, data.SliceThickness, data.TriggerTime = [1.5, 1.5], 8, 10
        data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
        if frames > 1:
            data.NumberOfFrames = frames
            measures, place, way, groups = Dataset(), Dataset(), Dataset(), []
            measures.PixelSpacing, measures.SliceThickness = [1.5, 1.5], 8
            way.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            for number in range(frames):
                place, group = Dataset(), Dataset()
                place.ImagePositionPatient = [0, 0, 8 * number]
                group.PlanePositionSequence = [place]
                groups.append(group)
            shared = Dataset()
            shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [way]
            data.SharedFunctionalGroupsSequence, data.PerFrameFunctionalGroupsSequence = [shared], groups
        data.PixelData = bytes(range(32)) * frames
        stream = io.BytesIO()
        pydicom.dcmwrite(stream, data, enforce_file_format=True)
        return stream.getvalue()

    return [image(1), image(3)]


def nifti_files(folder: Path) -> list[bytes]:
    """A 3D and a 4D image, both tiny."""
    import numpy as np
    import SimpleITK as sitk

    contents = []
    for shape in ((2, 3, 4), (2, 2, 3, 4)):
        image = sitk.GetImageFromArray(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), isVector=False)
        sitk.WriteImage(image, str(folder / "seed.nii"))
        contents.append((folder / "seed.nii").read_bytes())
    (folder / "seed.nii").unlink()
    return contents


def _seed(folder: Path, content: bytes) -> None:
    corpus = folder / "corpus"
    corpus.mkdir(exist_ok=True)
    (corpus / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)


@contextmanager
def _quiet() -> Any:
    """pydicom warns of every oddity, which are all there is here."""
    import logging

    logging.disable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def main() -> None:
    import atheris

    name, folder = sys.argv[1], Path(sys.argv[2])
    sys.path.insert(0, str(Path(__file__).parent))
    with atheris.instrument_imports(include=INSTRUMENTED) if "--plain" not in sys.argv else nullcontext(), _quiet():
        target = TARGETS[name](folder)
    logging_off = _quiet()
    options = [item for item in sys.argv[3:] if item != "--plain"]
    atheris.Setup([sys.argv[0], f"-artifact_prefix={folder}/", *options, str(folder / "corpus")], target)
    with logging_off:
        atheris.Fuzz()


if __name__ == "__main__":
    main()
