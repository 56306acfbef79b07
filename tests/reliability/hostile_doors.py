"""Sending broken input through a command, in a process with limits, or in this one; and what is asked of the outcome."""

from __future__ import annotations

import io
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

from .conftest import Tries
from .hostile_nifti import EITHER, REFUSED, USED, Hostile

AREA = "Bad input"
MORE_MEMORY_MB = 1500
"""What a bad case may take beyond what good ones take."""
_MOST_ADDRESSES = 24 << 30


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its code (None: it did not in time), all it said, and the most memory it held."""

    code: int | None
    text: str
    megabytes: float = 0.0

    def problems(self, codes: Iterable[int] = (0, 1, 2)) -> list[str]:
        """What no command may do, whatever it is given."""
        if self.code is None:
            return [f"it did not end in time: {self.text[-500:]}"]
        _, traceback, last = self.text.rpartition("Traceback (most recent call last)")
        found = [traceback + last[-1500:]] if traceback else []
        return found + ([f"exit code {self.code}"] if self.code not in codes else [])


def process(words: Sequence[object], seconds: float) -> Outcome:
    """Run ``python -m cardiac_autoseg WORDS`` with limits of time and memory."""
    peaks: list[float] = []
    with (
        Path(os.devnull).open() as nothing,
        subprocess.Popen(
            [sys.executable, "-m", "cardiac_autoseg", *map(str, words)],
            stdin=nothing,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"},
            start_new_session=True,
        ) as child,
    ):
        resource.prlimit(child.pid, resource.RLIMIT_AS, (_MOST_ADDRESSES, _MOST_ADDRESSES))
        with _alarm(seconds, lambda: os.killpg(child.pid, signal.SIGKILL)) as alarm:
            assert child.stdout is not None
            watch = threading.Thread(target=lambda: peaks.extend(_peaks(child.pid)), daemon=True)
            watch.start()
            said = child.stdout.read()
            child.wait()
            watch.join()
    text = said.decode("utf-8", "backslashreplace")
    return Outcome(None if alarm.rang else child.returncode, text, max(peaks, default=0.0))


def _peaks(pid: int) -> Iterator[float]:
    """The most memory (MB) that a process has held, again and again until it ends.

    Not the system's count at the end, which starts with the memory of the process that made the new one.
    """
    while True:
        try:
            lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        except OSError:
            return
        found = [line for line in lines if line.startswith("VmHWM")]
        if not found:
            return
        yield int(found[0].split()[1]) / 1024
        time.sleep(0.02)


def here(main: Callable[[Sequence[str]], int], words: Sequence[object], seconds: float = 20) -> Outcome:
    """Call a command's ``main`` in this process, with a limit of time: a start costs a second, and there are many tries."""
    said = io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace", write_through=True)

    def late() -> None:
        raise TimeoutError("too late")

    with redirect_stdout(said), redirect_stderr(said), _alarm(seconds, late) as alarm:
        try:
            code: int | None = main([str(word) for word in words])
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 2
        except BaseException:
            code = None if alarm.rang else 70
            traceback.print_exc()
    buffer = said.detach()
    assert isinstance(buffer, io.BytesIO)
    return Outcome(code, buffer.getvalue().decode("utf-8"))


class _alarm:  # noqa: N801 - used like a function
    """Rings after so many seconds of the clock."""

    def __init__(self, seconds: float, ring: Callable[[], None]) -> None:
        self.seconds, self.ring, self.rang = seconds, ring, False

    def _now(self, *_: object) -> None:
        self.rang = True
        self.ring()

    def __enter__(self) -> _alarm:
        self.before = signal.signal(signal.SIGALRM, self._now)
        signal.setitimer(signal.ITIMER_REAL, self.seconds)
        return self

    def __exit__(self, *_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.before)


def write_all(folder: Path, items: Iterable[Hostile]) -> None:
    """Make the files of all tries in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    for item in items:
        item.write(folder / item.name)


def judge(items: Iterable[Hostile], text: str, made: Callable[[Hostile], bool]) -> dict[str, str]:
    """Which tries did not hold, and why: what is refused must be named and make nothing, what is used make something.

    A file is named, or its case: an index holds the place that a link leads to.
    """
    wrong = {}
    for item in items:
        case = re.escape(item.name.split(".nii")[0])
        named, done = item.name in text or bool(re.search(rf"(case|labels of) {case}\b", text)), made(item)
        if item.expected == USED and not done:
            wrong[item.name] = f"nothing was made of it: {_about(item.name, text)}"
        elif item.expected == REFUSED and (done or not named):
            wrong[item.name] = "something was made of it" if done else "it was not named"
        elif item.expected == EITHER and not (done or named):
            wrong[item.name] = "nothing was made of it, and it was not named"
    return wrong


def _about(name: str, text: str) -> str:
    return "; ".join(line for line in text.splitlines() if name in line)[:300] or "it was not named"


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below a folder, links not followed, with its size and time: what must stay as it is."""
    found = {}
    for parent, folders, names in os.walk(folder):
        for name in (*folders, *names):
            status = os.lstat(os.path.join(parent, name))  # noqa: PTH118
            if name in names:
                found[os.path.join(parent, name)] = (status.st_size, status.st_mtime_ns)  # noqa: PTH118
    return found


def patience(seconds: float) -> float:
    """A limit of time for a machine that may be busy: what hangs does so for ever."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)) + time.get_clock_info("monotonic").resolution


def report(tries: Tries, count: int, wrong: dict[str, str], outcome: Outcome, codes: tuple[int, ...]) -> None:
    """Say how many tries held, and fail if any did not."""
    problems = outcome.problems(codes)
    tries.count, tries.held = count, 0 if problems else max(0, count - len(wrong))
    assert not problems, "\n".join(problems) + outcome.text[-2000:]
    assert not wrong, "\n".join(f"{name!r}: {why}" for name, why in wrong.items())
