"""Small data sets in every layout that is imported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid

from cardiac_autoseg.data.scan import Instance, Scan
from cardiac_autoseg.data.volume import Geometry, write_labels, write_volume
from cardiac_autoseg.workspace import Workspace

GEOMETRY = Geometry(size=(20, 16, 3), spacing=(1.5, 1.5, 8.0))


def heart(radius: int = 3) -> np.ndarray:
    """Labels (3, 16, 20): an LV disc within a ring of myocardium, an RV beside it."""
    y, x = np.mgrid[:16, :20]
    distance = np.hypot(y - 8, x - 12)
    plane = np.zeros((16, 20), np.uint8)
    plane[(y > 4) & (y < 12) & (x > 2) & (x < 12)] = 1
    plane[distance < radius + 2] = 2
    plane[distance < radius] = 3
    return np.stack([plane] * 3)


def picture(seed: int) -> np.ndarray:
    """An image (3, 16, 20) that no other seed gives."""
    return np.random.default_rng(seed).integers(0, 500, (3, 16, 20)).astype(np.int16)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def acdc_like(tmp_path: Path) -> Path:
    """Three patients in ACDC's layout; the third is not labelled."""
    root = tmp_path / "acdc_like"
    for number in (1, 2, 3):
        folder = root / "training" / f"patient{number:03d}"
        folder.mkdir(parents=True)
        (folder / "Info.cfg").write_text(
            f"ED: 2\nES: 9\nGroup: {'NOR' if number < 3 else 'DCM'}\nHeight: 180.0\nWeight: 0\n"
        )
        for frame in (2, 9):
            name = f"{folder.name}_frame{frame:02d}"
            write_volume(folder / f"{name}.nii.gz", picture(10 * number + frame), GEOMETRY)
            if number < 3:
                write_labels(folder / f"{name}_gt.nii.gz", heart(3 if frame == 2 else 2), GEOMETRY)
    return root


@pytest.fixture
def mnms_like(tmp_path: Path) -> Path:
    """Two labelled subjects and an unlabelled one of M&Ms; one more is in the table alone."""
    root = tmp_path / "OpenDataset"
    to_mnms = np.array([0, 3, 2, 1], np.uint8)
    for seed, (part, code) in enumerate(
        (("Training/Labeled", "A1B2C3"), ("Testing", "D4E5F6"), ("Training/Unlabeled", "G7H8I9"))
    ):
        folder = root / part / code
        images = np.stack([picture(100 * (seed + 1) + frame) for frame in range(4)])
        masks = np.zeros(images.shape, np.uint8)
        if "Unlabeled" not in part:
            masks[1], masks[3] = to_mnms[heart(3)], to_mnms[heart(2)]
        write_volume(folder / f"{code}_sa.nii.gz", images, GEOMETRY)
        write_labels(folder / f"{code}_sa_gt.nii.gz", masks, GEOMETRY)
    (root / "information.csv").write_text(
        "\ufeff,External code,VendorName,Vendor,Centre,ED,ES,Age,Pathology,Sex,Height,Weight\n"
        "0,A1B2C3,Siemens,A,1,1,3,50,DCM,M,180,80\n1,D4E5F6,Philips,B,2,1.0,3.0,60,NOR,F,N/A,70\n"
        "2,G7H8I9,GE,C,4,1,3,,HCM,F,160,60\n3,MISSIN,GE,C,4,0,9,,HCM,F,160,60\n",
        encoding="utf-8",
    )
    return root


@pytest.fixture
def mnms2_like(tmp_path: Path) -> Path:
    """Two subjects of M&Ms-2, long-axis files beside."""
    root = tmp_path / "MnM2"
    for number in (1, 2):
        folder = root / "dataset" / f"{number:03d}"
        for phase, radius in (("ED", 3), ("ES", 2)):
            image = picture(number * 7 + radius)
            write_volume(folder / f"{number:03d}_SA_{phase}.nii.gz", image, GEOMETRY)
            write_volume(folder / f"{number:03d}_LA_{phase}.nii.gz", image, GEOMETRY)
            write_labels(
                folder / f"{number:03d}_SA_{phase}_gt.nii.gz", np.array([0, 3, 2, 1], np.uint8)[heart(radius)], GEOMETRY
            )
        write_volume(folder / f"{number:03d}_SA_CINE.nii.gz", np.stack([picture(1), picture(2)]), GEOMETRY)
    (root / "dataset_information.csv").write_text("SUBJECT_CODE;DISEASE;VENDOR\n1;NOR;SIEMENS\n002;FALL;GE\n")
    return root


@pytest.fixture
def nnunet_like(tmp_path: Path) -> Path:
    """Two subjects of two frames in nnU-Net's layout; a second source has one of the four."""
    root = tmp_path / "Dataset027_ACDC"
    for number in (1, 2):
        for frame, radius in ((1, 2), (8, 3)):
            name = f"patient{number:03d}_frame{frame:02d}"
            write_volume(root / "imagesTr" / f"{name}_0000.nii.gz", picture(number * 50 + frame), GEOMETRY)
            write_labels(root / "labelsTr" / f"{name}.nii.gz", heart(radius), GEOMETRY)
    write_labels(root / "labelsTr_student" / "patient001_frame08.nii.gz", heart(2), GEOMETRY)
    (root / "dataset.json").write_text(
        json.dumps({"labels": {"background": 0, "RV": 1, "MLV": 2, "LVC": 3}, "file_ending": ".nii.gz", "numTraining": 4})
    )
    return root


@pytest.fixture
def folder_like(tmp_path: Path) -> Path:
    """Two subjects in plain folders: one as two 3D files, one as a 4D file; two sources with values of their own."""
    root = tmp_path / "plain"
    for name, radius in (("a_first", 3), ("a_second", 2)):
        write_volume(root / "images" / f"{name}.nii.gz", picture(radius), GEOMETRY)
        write_labels(root / "labels" / "one" / f"{name}.nii.gz", heart(radius), GEOMETRY)
    write_volume(root / "images" / "b.nii.gz", np.stack([picture(31), picture(32), picture(33)]), GEOMETRY)
    swapped = np.array([0, 3, 2, 1], np.uint8)
    write_labels(root / "labels" / "two" / "b_seg.nii.gz", swapped[np.stack([heart(3), heart(2), heart(1)])], GEOMETRY)
    (root / "labels" / "two" / "labels.json").write_text(json.dumps({"1": "LV", "2": "myocardium", "3": "right ventricle"}))
    (root / "cases.csv").write_text(
        "case,subject,phase,frame,group,height_cm,weight_kg,image\na_first,A,ed,,DCM,171.5,80,\na_second,A,ES,,DCM,171.5,80,\n"
        "b_ED,B,ED,1,NOR,,,b\nb_ES,B,ES,3,NOR,,,b\n"
    )
    return root


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def report(messages: list[str]) -> Callable[[str], None]:
    return messages.append


def _mr_header(uids: dict[str, str], sop_class: str) -> Dataset:
    """What every image of the tiny study has; an oblique stack of 13 x 11 pixels, a number that fills no byte."""
    header = Dataset()
    header.SOPClassUID, header.SOPInstanceUID = sop_class, generate_uid()
    header.StudyInstanceUID, header.SeriesInstanceUID, header.FrameOfReferenceUID = (
        uids["study"],
        uids["series"],
        uids["frame"],
    )
    header.PatientName, header.PatientID, header.PatientBirthDate, header.PatientSex = "Doe^Jané", "ID7", "19600102", "F"
    header.SpecificCharacterSet = "ISO_IR 100"
    header.StudyDate, header.StudyTime, header.AccessionNumber, header.StudyID = "20200304", "101112.5", "", "1"
    header.ReferringPhysicianName, header.Modality, header.SeriesNumber = "", "MR", 4
    header.Rows, header.Columns = 13, 11
    return header


def _save_dicom(header: Dataset, path: Path) -> Path:
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID, header.file_meta.MediaStorageSOPInstanceUID = (
        header.SOPClassUID,
        header.SOPInstanceUID,
    )
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    header.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def dicom_scan(tmp_path: Path) -> Callable[..., Scan]:
    """A function that writes a tiny study (3 times, 4 slices; headers only) and gives it as a scan.

    ``enhanced`` makes it one multi-frame file; ``holes`` are (time, slice) without source; ``change`` may spoil a header.
    """
    direction = np.linalg.qr(np.array([[0.7, -0.3, 0.6], [0.7, 0.3, -0.6], [0.1, 0.9, 0.4]]))[0]
    direction[:, 2] = np.cross(direction[:, 0], direction[:, 1])
    geometry = Geometry(
        (11, 13, 4), (1.25, 1.25, 8.0), (-12.5, 30.0, 7.25), tuple(float(value) for value in direction.ravel())
    )
    orientation = [f"{value:.10g}" for value in direction[:, :2].T.ravel()]

    def position(z: int) -> list[str]:
        return [f"{value:.10g}" for value in np.array(geometry.origin) + direction[:, 2] * 8.0 * z]

    def plane_of(item: Dataset, z: int) -> None:
        item.ImagePositionPatient, item.ImageOrientationPatient, item.PixelSpacing = (
            position(z),
            orientation,
            ["1.25", "1.25"],
        )

    def single(uids: dict[str, str], change: Callable[[Dataset], object]) -> list[list[Instance]]:
        rows = []
        for time in range(3):
            rows.append([])
            for z in range(4):
                header = _mr_header(uids, MRImageStorage)
                plane_of(header, z)
                header.SliceThickness, header.TriggerTime, header.InstanceNumber = 6, 30 * time, 4 * time + z + 1
                change(header)
                rows[-1].append(Instance(_save_dicom(header, tmp_path / f"{time}_{z}.dcm"), header.SOPInstanceUID))
        return rows

    def multi(uids: dict[str, str], change: Callable[[Dataset], object]) -> list[list[Instance]]:
        header = _mr_header(uids, EnhancedMRImageStorage)
        header.NumberOfFrames, groups = 12, []
        for number in range(12):
            group, where, facing, measures = Dataset(), Dataset(), Dataset(), Dataset()
            where.ImagePositionPatient, facing.ImageOrientationPatient = position(number % 4), orientation
            measures.PixelSpacing = ["1.25", "1.25"]
            group.PlanePositionSequence, group.PlaneOrientationSequence = [where], [facing]
            group.PixelMeasuresSequence = [measures]
            groups.append(group)
        header.PerFrameFunctionalGroupsSequence = groups
        change(header)
        path = _save_dicom(header, tmp_path / "all.dcm")
        return [[Instance(path, header.SOPInstanceUID, 4 * time + z + 1) for z in range(4)] for time in range(3)]

    def make(
        enhanced: bool = False,
        holes: tuple[tuple[int, int], ...] = (),
        change: Callable[[Dataset], object] = id,
    ) -> Scan:
        uids = {name: generate_uid() for name in ("study", "series", "frame")}
        rows = (multi if enhanced else single)(uids, change)
        instances = tuple(tuple(None if (t, z) in holes else rows[t][z] for z in range(4)) for t in range(3))
        return Scan("tiny", tmp_path, np.zeros((3, 4, 13, 11), np.float32), geometry, instances=instances)

    return make


@pytest.fixture
def beating() -> np.ndarray:
    """Labels (3, 4, 13, 11) of a heart that contracts; its last slice is empty, and its RV is missing in the third frame."""
    y, x = np.mgrid[:13, :11]
    distance = np.hypot(y - 6, x - 6)
    labels = np.zeros((3, 4, 13, 11), np.uint8)
    for time in range(3):
        for z in range(3):
            plane = labels[time, z]
            plane[(y > 3) & (y < 10) & (x < 3) & (time < 2)] = 1
            plane[distance < 4.5 - 0.5 * time] = 2
            plane[distance < 2.8 - 0.5 * time - 0.3 * z] = 3
    return labels
