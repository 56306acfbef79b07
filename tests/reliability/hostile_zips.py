"""DICOM studies in archives, and archives that are hostile themselves."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from .hostile_nifti import EITHER, USED, Hostile


def zips(good: Path) -> Iterator[Hostile]:
    """The same in archives, and archives that are hostile themselves."""

    def archive(path: Path, names: Callable[[str], str] = str, how: int = zipfile.ZIP_DEFLATED) -> None:
        with zipfile.ZipFile(path, "w", how) as made:
            for item in sorted(good.iterdir()):
                made.writestr(names(item.name), item.read_bytes())

    def spoiled(change: Callable[[bytes], bytes], path: Path) -> None:
        archive(path)
        path.write_bytes(change(path.read_bytes()))

    def flagged(data: bytes) -> bytes:
        """All members said to be encrypted."""
        broken = bytearray(data)
        for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            place = data.find(mark)
            while place >= 0:
                broken[place + at] |= 1
                place = data.find(mark, place + 4)
        return bytes(broken)

    yield Hostile("zip_good.zip", archive, USED)
    yield Hostile("zip_stored.zip", partial(archive, how=zipfile.ZIP_STORED), USED)
    yield Hostile("zip_lzma.zip", partial(archive, how=zipfile.ZIP_LZMA))
    yield Hostile("zip_slip.zip", partial(archive, names=lambda name: f"../../../slipped/{name}"), USED)
    yield Hostile("zip_absolute.zip", partial(archive, names=lambda name: f"/tmp/slipped/{name}"), USED)
    yield Hostile("zip_newline.zip", partial(archive, names=lambda name: f"a\nb/{name}\n.dcm"), USED)
    yield Hostile("zip_one_name.zip", partial(archive, names=lambda _: "same.dcm"))
    yield Hostile("zip_cut.zip", partial(spoiled, lambda data: data[: len(data) // 2]))
    yield Hostile("zip_end_cut.zip", partial(spoiled, lambda data: data[:-10]))
    yield Hostile("zip_encrypted.zip", partial(spoiled, flagged))
    yield Hostile("zip_noise.zip", lambda path: path.write_bytes(b"PK\x03\x04" + np.random.default_rng(0).bytes(5000)))
    yield Hostile("zip_checksum.zip", partial(spoiled, lambda data: data[:2000] + bytes(2000) + data[4000:]), EITHER)
    yield Hostile("zip_bomb.zip", _zip_bomb, large=True)
    yield Hostile("zip_many.zip", lambda path: _zip_of(path, {f"{number}.dcm": b"" for number in range(20_000)}), large=True)
    inner = good.parent / "inner.zip"
    yield Hostile("zip_in_zip.zip", lambda path: (archive(inner), _zip_of(path, {"inner.zip": inner.read_bytes()})))
    yield Hostile("zip_text.zip", lambda path: _zip_of(path, {"readme.txt": b"nothing"}))
    yield Hostile("zip_empty.zip", lambda path: _zip_of(path, {}))


def _zip_of(path: Path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in members.items():
            made.writestr(name, data)


def _zip_bomb(path: Path) -> None:
    """10 GB of zeros behind the beginning of a header, in 10 MB."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as made,
        made.open("image.dcm", "w", force_zip64=True) as one,
    ):
        one.write(bytes(128) + b"DICM" + b"\x08\0\0\0UL\4\0\0\0\0\0")
        for _ in range(80):
            one.write(bytes(1 << 27))
