"""What the tests of hostile bundles share: replacing files with fitting checksums, and bounds on memory."""

from __future__ import annotations

import hashlib
import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cardiac_autoseg.bundle import load_bundle
from cardiac_autoseg.bundle_transfer import import_bundle, verify_bundle
from cardiac_autoseg.errors import UserError


def sealed(folder: Path, name: str, content: bytes) -> None:
    """Replace a file of a bundle by ``content``, and its checksum by the right one."""
    (folder / name).write_bytes(content)
    record = json.loads((folder / "bundle.json").read_text())
    digest = hashlib.sha256(content).hexdigest()
    for member in record["members"]:
        if member["file"] == name:
            member["sha256"] = digest
    if name in record["files"]:
        record["files"][name] = digest
    (folder / "bundle.json").write_text(json.dumps(record))


@contextmanager
def little_memory(megabytes: int = 300) -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < megabytes * 1000


def refused(path: Path, *words: str) -> None:
    """Every way to open the bundle at ``path`` is refused in words, one of which has ``words``, without memory."""
    said = []
    with little_memory():
        for read in (load_bundle, lambda one: import_bundle(one, one.parent / "models"), all_problems):
            with pytest.raises(UserError) as caught:
                read(path)
            said.append(str(caught.value))
    assert not (path.parent / "models").exists()
    assert all(str(path) in text for text in said[:1])
    assert any(word in text for word in words for text in said), said


def all_problems(path: Path) -> None:
    if problems := verify_bundle(path):
        raise UserError("; ".join(problems))
