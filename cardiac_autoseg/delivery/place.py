"""Where scans come from and results go to when that is remote: they are fetched and put through temporary folders.

What is done, whose results a remote folder holds and what its index says is found out by the same code as for a local one:
from a likeness of the folder, in which files have their true sizes but hold only those parts that are looked at.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cardiac_autoseg.data.remote import AnyPath, RemotePath, in_words
from cardiac_autoseg.data.remote_access import at_once
from cardiac_autoseg.data.scan import Fetched, Scan
from cardiac_autoseg.delivery.inputs import RECORD, Input
from cardiac_autoseg.delivery.outputs import OF_CASE
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import LARGEST_JSON
from cardiac_autoseg.locks import waiting
from cardiac_autoseg.temporaries import clear_abandoned, temporary_folder, temporary_path

_ENDS = 1 << 16
"""Of labels and arrays, so many bytes at both ends say whether they are whole, and of which scan."""
_LONGEST_NAME = 255


@dataclass(frozen=True)
class Place:
    """A folder for results: ``folder`` itself, or, where it is ``remote``, a likeness of that."""

    folder: Path
    remote: RemotePath | None = None
    _marks: dict[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> AnyPath:
        """The folder as the user named it."""
        return self.remote or self.folder

    def look(self, cases: Sequence[str]) -> None:
        """Take into the likeness what is there of these ``cases``. Raises :class:`UserError`."""
        there = self._list()
        names = [RECORD, *(f"{case}{end}" for case in cases for end in (".nii.gz", *OF_CASE))]
        self._take([there[name] for name in names if name in there])

    def refresh(self) -> None:
        """Take into the likeness the records of all cases, and which have a page. Raises :class:`UserError`."""
        if self.remote is None:
            return
        there = self._list()
        for path in self.folder.iterdir():
            if path.name not in there:
                path.unlink()
        self._take([path for name, path in there.items() if path.suffix == ".json" or name.endswith(".html")])

    def send(self, *names: str) -> None:
        """Put these files of the likeness, as far as they are there. Raises :class:`UserError` and :class:`OSError`."""
        for name in names:
            if self.remote is not None and (self.folder / name).is_file():
                (self.remote / name).put(self.folder / name)

    def _list(self) -> dict[str, RemotePath]:
        assert self.remote is not None
        try:
            found = {path.name: path for path in self.remote.iterdir() if path.kind == "file"}
        except FileNotFoundError:
            return {}  # as long as there is nothing in it
        except OSError as error:
            raise UserError(in_words(self.remote, error)) from error
        return {name: path for name, path in found.items() if len(name.encode()) <= _LONGEST_NAME and "\0" not in name}

    def _take(self, paths: Sequence[RemotePath]) -> None:
        try:
            at_once(self._take_one, [path for path in paths if self._marks.get(path.name) != path.mark])
        except OSError as error:
            raise UserError(
                f"{self.remote} could not be looked at ({error.strerror or error}): the same command goes on"
            ) from error

    def _take_one(self, path: RemotePath) -> None:
        """A file of the true size: whole if it is a record, with both ends if it is looked into, else without content."""
        here, size = self.folder / path.name, path.size
        if path.suffix == ".json":
            parts = [(0, size)] if size <= LARGEST_JSON else []
        elif path.name.endswith((".nii.gz", ".npz")):
            parts = [(0, size)] if size <= 2 * _ENDS else [(0, _ENDS), (size - _ENDS, size)]
        else:
            parts = []
        with here.open("wb") as stream:
            for start, stop in parts:
                stream.seek(start)
                stream.write(path.read(start, stop))
            stream.truncate(size)
        self._marks[path.name] = path.mark


@contextmanager
def opened(output: AnyPath, cases: Sequence[str], report: Callable[[str], None]) -> Iterator[Place]:
    """The folder ``output`` for results of ``cases``, held against other processes if it is local.

    Errors about the likeness are told as being about the folder.
    """
    if isinstance(output, Path):
        with waiting(output / ".lock", report):
            yield Place(output)
        return
    with temporary_folder(_temporary("results")) as scratch, _told(scratch, output) as folder:
        folder.mkdir()
        place = Place(folder, output)
        place.look(cases)
        yield place


@contextmanager
def staged(folder: Path, remote: RemotePath | None) -> Iterator[Path]:
    """Where to make the files of a case: in ``folder``, or for a remote one in a temporary folder of the same name."""
    if remote is None:
        yield folder
        return
    with temporary_folder(_temporary("case")) as scratch:
        here = scratch / remote.name
        here.mkdir()
        yield here


def put_case(folder: Path, remote: RemotePath, name: str) -> None:
    """Put the files of a case, its labels last, as they say that it is done.

    Raises :class:`UserError` where that is not permitted, and :class:`OSError` where nobody answers.
    """
    labels = folder / f"{name}.nii.gz"
    at_once(lambda path: (remote / path.name).put(path), [path for path in folder.iterdir() if path != labels])
    (remote / labels.name).put(labels)


def read_fetched(item: Input, read: Callable[[Input], Scan]) -> Scan:
    """``read(item)``, of a remote one after it was fetched.

    Fetched files are removed once they are read; those of a DICOM study, to which its results refer, with the scan. Raises
    what ``read`` raises, and :class:`UserError` where it could not be fetched.
    """
    if isinstance(item.path, Path):
        return read(item)
    from cardiac_autoseg.data.remote_tree import fetch

    scratch = temporary_path(_temporary("scan"))
    scratch.mkdir(mode=0o700)
    clear_abandoned(scratch)
    fetched = Fetched(scratch)
    try:
        # The scan's hash and name are made of the last two parts of its path.
        local = scratch / item.path.parent.name / item.path.name
        fetch(item.path, local)
        scan = read(dataclasses.replace(item, path=local))
    except UserError as error:
        fetched.remove()
        raise UserError(str(error).replace(str(local), str(item.path))) from error
    except BaseException:
        fetched.remove()
        raise
    if not scan.instances:
        fetched.remove()
        return scan
    notes = tuple(note.replace(str(local), str(item.path)) for note in scan.notes)
    return dataclasses.replace(scan, fetched=fetched, notes=notes)


def _temporary(name: str) -> Path:
    """A place for temporary files, which TMPDIR moves."""
    return Path(os.path.realpath(tempfile.gettempdir())) / name


@contextmanager
def _told(scratch: Path, remote: RemotePath) -> Iterator[Path]:
    """The likeness in ``scratch``, of the same name as the remote folder; errors name that instead."""
    folder = scratch / remote.name
    try:
        yield folder
    except UserError as error:
        raise UserError(str(error).replace(str(folder), str(remote))) from error
