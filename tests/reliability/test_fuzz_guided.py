"""Coverage-guided fuzzing of what reads bytes from anywhere, for a fixed time; and what it once found, for ever."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from cardiac_autoseg.bundle_transfer import damage
from cardiac_autoseg.training.record import cut_log

from . import fuzz_targets

AREA = "Fuzzing"
SECONDS = int(os.environ.get("CAS_FUZZ_SECONDS", "120"))
MEMORY_MB = 3000


@pytest.mark.tries(AREA, "coverage-guided fuzzing (atheris) of JSON readers, bundles, weights, DICOM and NIfTI, runs")
@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
def test_guided(target: str, tmp_path: Path, full: bool, tries: Any) -> None:
    if not full or importlib.util.find_spec("atheris") is None:
        pytest.skip("only in full, where there is atheris")
    script = Path(fuzz_targets.__file__)
    limits = [f"-max_total_time={SECONDS}", f"-rss_limit_mb={MEMORY_MB}", "-malloc_limit_mb=2500", "-timeout=30"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), target, str(tmp_path), *limits]
    done = subprocess.run(command, capture_output=True, env=environment, timeout=SECONDS + 300)
    said = done.stderr.decode("utf-8", "replace")
    found = {path.name: path.read_bytes()[:2000] for path in tmp_path.glob("*-*") if path.is_file()}
    assert done.returncode == 0, f"{found}\n{said[-4000:]}"
    runs = re.search(r"Done (\d+) runs", said)
    assert runs is not None
    tries.count, tries.note = int(runs[1]), f"{SECONDS} s a target"


@pytest.mark.tries(AREA, "the seeds of the fuzzing, each cut short and with bytes flipped")
@pytest.mark.parametrize("target", fuzz_targets.TARGETS)
def test_seeds(target: str, tmp_path: Path, full: bool, tries: Any) -> None:
    read = fuzz_targets.TARGETS[target](tmp_path)
    tries.count = 0
    for path in sorted((tmp_path / "corpus").iterdir()):
        content = path.read_bytes()
        parts = 60 if full else 3
        changed = [content, b"", *(content[: len(content) * part // parts] for part in range(1, parts))]
        for part in range(parts):
            place = len(content) * part // parts
            changed.append(content[:place] + bytes([content[place] ^ 0x85]) + content[place + 1 :])
        for one in changed:
            read(one)
            tries.count += 1


@pytest.mark.tries(AREA, "what fuzzing found: a zip with a file without a name")
def test_file_without_a_name(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("x", b"")
    content = bytearray(packed.getvalue())
    place = content.index(b"PK\1\2")
    content[place + 28 : place + 30] = bytes(2)  # the length of the name
    content[place + 30 : place + 32] = b"\1\0"  # so that the byte of the name is an extra field
    (tmp_path / "m.zip").write_bytes(content)
    assert "m.zip" in damage(tmp_path / "m.zip")[0]


@pytest.mark.tries(AREA, "what fuzzing found: a log of a run that is no UTF-8, or whose lines are no objects")
@pytest.mark.parametrize("content", [b'{"step": 1}\n\xff\n', b"null\n", b'{"step": "x"}', b"[" * 100_000, b'{"loss": 1}'])
def test_log_that_is_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_bytes(content)
    assert cut_log(tmp_path / "log.jsonl", 5) in ([], [{"step": 1}])
