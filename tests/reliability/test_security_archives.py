"""Bundles as zips and folders from anywhere: bombs, links, pipes, names that lead out."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cardiac_autoseg.bundle import Bundle, load_bundle, read_bundle, read_quality
from cardiac_autoseg.bundle_transfer import import_bundle, verify_bundle
from cardiac_autoseg.data.dicom import read_study
from cardiac_autoseg.errors import UserError

from .bundle_tools import all_problems, little_memory, refused, sealed

AREA = "Security"
Make = Callable[..., Path]


def entry(name: str, content: bytes = b"x", mode: int = 0o644, method: int = zipfile.ZIP_DEFLATED) -> Callable[..., None]:
    def add(archive: zipfile.ZipFile) -> None:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        archive.writestr(info, content, method)

    return add


def instead(name: str, content: bytes, mode: int = 0o644, method: int = zipfile.ZIP_DEFLATED) -> Callable[..., None]:
    """The archive again without ``name``, which then has another content."""

    def replace(archive: zipfile.ZipFile) -> None:
        assert archive.filename is not None
        with zipfile.ZipFile(archive.filename) as old:
            kept = {one: old.read(one) for one in old.namelist() if not one.endswith(name)}
        archive.close()
        with zipfile.ZipFile(archive.filename, "w") as new:
            for one, bytes_ in kept.items():
                new.writestr(one, bytes_)
            entry(f"m/{name}", content, mode, method)(new)

    return replace


def many(archive: zipfile.ZipFile) -> None:
    for number in range(30_000):
        archive.writestr(f"m/{number}.txt", b"")


ZIPS: dict[str, tuple[Callable[..., None], str]] = {
    "upwards": (entry("../evil.json"), "leads out"),
    "upwards from within": (entry("m/../../evil.json"), "leads out"),
    "absolute": (entry("/tmp/evil.json"), "leads out"),
    "drive": (entry("C:/evil.json"), "leads out"),
    "stream of NTFS": (entry("m/quality.json:evil"), "leads out"),
    "backslash": (entry("m\\..\\evil.json"), "leads out"),
    "link beside": (entry("m/LICENSE", b"/etc/passwd", stat.S_IFLNK | 0o777), "is a link"),
    "link for the record": (instead("bundle.json", b"/etc/passwd", stat.S_IFLNK | 0o777), "link"),
    "pipe": (entry("m/pipe", b"", stat.S_IFIFO | 0o644), "does not belong"),
    "bomb beside": (entry("m/MODEL.md", bytes(200_000_000)), "unpack"),
    "bomb for the record": (instead("bundle.json", bytes(6_000_000)), "as no bundle does"),
    "record too large": (instead("bundle.json", os.urandom(1) * (9 << 20), method=zipfile.ZIP_STORED), "would be"),
    "bomb in bzip2": (instead("bundle.json", bytes(6_000_000), method=zipfile.ZIP_BZIP2), "as no bundle does"),
    "record in bzip2": (instead("bundle.json", b'{"a":1}', method=zipfile.ZIP_BZIP2), "unusual way"),
    "record in lzma": (instead("bundle.json", b'{"a":1}', method=zipfile.ZIP_LZMA), "unusual way"),
    "a directory without end": (many, "directory takes"),
    "a zip in it": (entry("m/inner.zip", b"PK\5\6" + bytes(18)), "does not belong"),
    "a program in it": (entry("m/setup.py"), "does not belong"),
}


@pytest.mark.tries(AREA, "zips that lead out, link, or unpack to more than any bundle")
@pytest.mark.parametrize("case", ZIPS)
def test_zips(case: str, tmp_path: Path, make_bundle: Make) -> None:
    change, words = ZIPS[case]
    inside = tmp_path / "inside"
    inside.mkdir()
    path = make_bundle(inside / "m.zip", licence="none")
    archive = zipfile.ZipFile(path, "a")
    change(archive)
    archive.close()
    said = []
    with little_memory():
        for read in (lambda: import_bundle(path, tmp_path / "models"), lambda: all_problems(path)):
            with pytest.raises(UserError) as caught:
                read()
            said.append(str(caught.value))
        with suppress(UserError):  # what lies beside is not read, so that it does no harm
            load_bundle(path)
    assert any(words in text for text in said), said
    assert sorted(one.name for one in tmp_path.iterdir()) == ["inside"]


@pytest.mark.tries(AREA, "a zip whose entry is larger than it says")
def test_real_size_is_bounded_by_the_declared_one(tmp_path: Path, make_bundle: Make) -> None:
    path = make_bundle(tmp_path / "m.zip")
    archive = zipfile.ZipFile(path, "a")
    instead("bundle.json", bytes(350_000_000))(archive)
    content = bytearray(path.read_bytes())
    for signature, place in ((b"PK\1\2", 24), (b"PK\3\4", 22)):
        start = content.rindex(signature)
        content[start + place : start + place + 4] = struct.pack("<I", 1000)
    path.write_bytes(content)
    refused(path, "cannot be read", "whole zip")


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "link": (lambda file: (file.rename(file.parent.parent / "x"), file.symlink_to(file.parent.parent / "x")), "is a link"),
    "link to a password": (lambda file: (file.unlink(), file.symlink_to("/etc/passwd")), "is a link"),
    "link without end": (lambda file: (file.unlink(), file.symlink_to("/dev/zero")), "is a link"),
    "link to itself": (lambda file: (file.unlink(), file.symlink_to(file)), "is a link"),
    "pipe": (lambda file: (file.unlink(), os.mkfifo(file)), "no file"),
    "folder": (lambda file: (file.unlink(), file.mkdir()), "no file"),
    "3 GB": (lambda file: os.truncate(file, 3 << 30), "would be"),
}


@pytest.mark.tries(AREA, "files of a bundle's folder that are links, pipes, folders, or without end")
@pytest.mark.parametrize("name", ["bundle.json", "weights", "quality.json"])
@pytest.mark.parametrize("case", FOLDERS)
def test_folders(case: str, name: str, tmp_path: Path, make_bundle: Make) -> None:
    change, words = FOLDERS[case]
    folder = make_bundle(tmp_path / "m", licence="none")
    bundle = read_bundle(folder)
    if name == "quality.json":
        sealed(folder, name, b"{}")
        record = json.loads((folder / "bundle.json").read_text())
        record["files"][name] = hashlib.sha256(b"{}").hexdigest()
        (folder / "bundle.json").write_text(json.dumps(record))
    change(folder / (bundle.members[0].file if name == "weights" else name))
    read: Callable[[Path], object] = read_quality if name == "quality.json" else load_bundle
    with little_memory(), pytest.raises(UserError, match=words):
        read(folder)
    with little_memory(), pytest.raises(UserError, match=words):
        all_problems(folder)


def long_names(archive: zipfile.ZipFile) -> None:
    for number in range(1100):
        archive.writestr(f"{number}{'x' * 65_000}", b"")


DICOM_ZIPS: dict[str, tuple[Callable[..., None], str]] = {
    "a directory without end": (long_names, "directory takes"),
    "bzip2, which unpacks in one piece": (entry("a.dcm", bytes(1000), method=zipfile.ZIP_BZIP2), "unusual way"),
}


@pytest.mark.tries(AREA, "zips given as DICOM studies that would take memory without bounds")
@pytest.mark.parametrize("case", DICOM_ZIPS)
def test_dicom_zips(case: str, tmp_path: Path) -> None:
    change, words = DICOM_ZIPS[case]
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w") as archive:
        change(archive)
    with little_memory(), pytest.raises(UserError, match=words):
        read_study(path)


def test_the_bundle_used_here_is_whole(tmp_path: Path, make_bundle: Make) -> None:
    for name in ("m", "m.zip"):
        path = make_bundle(tmp_path / name, licence="none")
        assert verify_bundle(path) == []
        assert isinstance(load_bundle(path)[0], Bundle)
