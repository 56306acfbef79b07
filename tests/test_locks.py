"""The lock: one inside at a time, whoever dies; a stale one is recognised, a live one never is taken for stale."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cardiac_autoseg import lock_holders
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.lock_holders import Holder, myself
from cardiac_autoseg.locks import is_held, make_folder, refusing, require_held, try_lock, waiting

ELSEWHERE = {"host": "ward9", "machine": "another", "boot": "another", "space": "pid:[1]"}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life, and the lack of them, in less than a second."""
    for name, seconds in (("BEAT", 0.05), ("SILENCE", 0.5), ("GRACE", 0.2)):
        monkeypatch.setattr(lock_holders, name, seconds)
    monkeypatch.setattr("cardiac_autoseg.locks.PAUSE", (0.01, 0.02))


def leave(path: Path, **changes: object) -> Holder:
    """A lock file as some other holder would leave it."""
    holder = dataclasses.replace(myself("0123456789abcdef"), **changes)  # type: ignore[arg-type]
    path.write_text(json.dumps(dataclasses.asdict(holder)))
    return holder


def ended_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_the_file_says_who_and_goes_with_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / ".lock"
    with waiting(path):
        values = json.loads(path.read_text())
        assert values["pid"] == os.getpid()
        assert is_held(path)
        assert try_lock(path) is None
        with pytest.raises(UserError, match=rf"is trained by another process, .*process {os.getpid()} on .*since") as error:
            refusing(path, "it is trained").__enter__()
        assert "stop it" in str(error.value)
    assert list(path.parent.iterdir()) == []
    assert not is_held(path)


def test_the_lock_is_released_by_an_exception_too(tmp_path: Path) -> None:
    with pytest.raises(KeyError), waiting(tmp_path / ".lock"):
        raise KeyError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes",
    [
        lambda: {"pid": ended_process()},
        lambda: {"pid": 1, "started": "1234567"},
        lambda: {"boot": "the boot before"},
        lambda: {},
    ],
    ids=["its process is gone", "its process number was given anew", "the machine was started anew", "its own, not held"],
)
def test_a_stale_lock_of_this_machine_is_taken_at_once(tmp_path: Path, changes: Callable[[], dict[str, object]]) -> None:
    path = tmp_path / ".lock"
    leave(path, **changes())
    assert not is_held(path)
    started = time.monotonic()
    with refusing(path, "in use"):
        assert is_held(path)
    assert time.monotonic() - started < 5
    assert not list(tmp_path.iterdir())


def test_killed_and_not_yet_collected_is_gone(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    code = f"import pathlib, time; from cardiac_autoseg.locks import try_lock; try_lock(pathlib.Path({str(path)!r}))"
    child = subprocess.Popen([sys.executable, "-c", code + "; print(1, flush=True); time.sleep(60)"], stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    assert is_held(path)
    with pytest.raises(UserError, match=f"process {child.pid} "):
        refusing(path, "in use").__enter__()
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # dead, but still there to be collected
    with refusing(path, "in use"):
        pass
    child.communicate()


@pytest.mark.usefixtures("quick")
def test_another_container_of_this_machine_is_not_asked_by_process_number(tmp_path: Path) -> None:
    """Where its number means another process, or none."""
    path = tmp_path / ".lock"
    leave(path, pid=ended_process(), space="pid:[1]")
    assert is_held(path)
    assert try_lock(path) is None


@pytest.mark.usefixtures("quick")
def test_a_beating_holder_elsewhere_is_alive_whatever_the_clocks_say(tmp_path: Path) -> None:
    path, end = tmp_path / ".lock", threading.Event()
    leave(path, pid=1, **ELSEWHERE)

    def beat() -> None:
        seconds = 0
        while not end.wait(0.05):
            seconds += 1
            os.utime(path, (seconds, seconds))  # a clock that is half a century slow

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        assert try_lock(path) is None
        with pytest.raises(UserError, match="on ward9"):
            refusing(path, "in use").__enter__()
        limit = time.monotonic() + 1.5
        while time.monotonic() < limit:
            assert is_held(path)
            assert try_lock(path) is None
            time.sleep(0.02)
    finally:
        end.set()
        thread.join()


@pytest.mark.usefixtures("quick")
def test_a_silent_holder_elsewhere_is_taken_to_be_gone(tmp_path: Path) -> None:
    path, told = tmp_path / ".lock", list[str]()
    leave(path, pid=1, **ELSEWHERE)
    os.utime(path, (9e9, 9e9))  # from the future
    started = time.monotonic()
    assert is_held(path)
    with waiting(path, told.append):
        assert time.monotonic() - started > lock_holders.SILENCE
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("quick")
def test_a_pause_in_looking_is_no_silence(tmp_path: Path) -> None:
    """As when the server did not answer: nobody could give a sign of life."""
    path = tmp_path / ".lock"
    leave(path, pid=1, **ELSEWHERE)
    assert try_lock(path) is None
    time.sleep(2 * lock_holders.SILENCE)
    assert try_lock(path) is None


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"pid": -1}', '{"pid": "1", "token": "../x"}', "\x00" * 300, "[" * 4000]
)
def test_a_file_that_names_nobody_does_not_block_for_ever(tmp_path: Path, content: str) -> None:
    """Among them the empty ones that flock once was put on."""
    path = tmp_path / ".lock"
    path.write_text(content)
    assert is_held(path) == bool(content)
    assert try_lock(path) is None
    with refusing(path, "in use"):
        pass
    assert not list(tmp_path.iterdir())


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    path = tmp_path / ".lock"
    with waiting(path):
        assert try_lock(path) is None
        assert [item.name for item in tmp_path.iterdir()] == [".lock"]
    assert not list(tmp_path.iterdir())


def test_a_link_whose_answer_was_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network file system asks again, and is told that the name exists."""
    real = os.link

    def link(*names: Path) -> None:
        real(*names)
        real(*names)

    monkeypatch.setattr(os, "link", link)
    with refusing(tmp_path / ".lock", "in use"):
        assert is_held(tmp_path / ".lock")


def test_a_stale_lock_is_not_broken_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who was slow to break it does not remove the lock that another one has taken meanwhile."""
    from cardiac_autoseg import locks

    path, taken = tmp_path / ".lock", list[object]()
    leave(path, pid=ended_process())
    real = locks.is_alive

    def alive(asked: Path, *others: object) -> object:
        found = real(asked, *others)  # type: ignore[arg-type]
        if asked == path and not taken:
            taken.append(None)
            taken[0] = try_lock(path)  # the quick one, between the look of the slow one and what it does about it
        return found

    monkeypatch.setattr(locks, "is_alive", alive)
    assert try_lock(path) is None
    assert isinstance(taken[0], locks.Lock)
    assert taken[0].is_there()


def test_who_died_while_breaking_is_no_hindrance(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    stale = leave(path, pid=ended_process())
    leave(tmp_path / f".lock.{stale.token}", token="fedcba9876543210", pid=ended_process())
    with refusing(path, "in use"):
        pass
    assert not list(tmp_path.iterdir())


def test_a_forked_child_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    lock = try_lock(path)
    assert lock
    child = os.fork()
    if child == 0:
        lock.release()
        os._exit(3)
    os.waitpid(child, 0)
    assert lock.is_there()
    lock.release()


@pytest.mark.usefixtures("quick")
def test_the_holder_learns_that_its_folder_has_vanished_or_its_lock_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with waiting(folder / ".lock") as lock:
        require_held(folder / "sub" / "file")
        require_held(tmp_path / "elsewhere")
        folder.rename(tmp_path / "away")
        with pytest.raises(OSError, match="vanished"):
            require_held(folder / "sub" / "file")
        (tmp_path / "away").rename(folder)
        require_held(folder / "file")
        leave(folder / ".lock", pid=1)
        limit = time.monotonic() + 10
        while not lock.lost and time.monotonic() < limit:
            time.sleep(0.02)
        with pytest.raises(OSError, match="taken over by"):
            require_held(folder / "file")
    assert (folder / ".lock").is_file()  # the other one's


def test_a_folder_that_vanished_is_not_made_anew_by_its_holder(tmp_path: Path) -> None:
    """Whatever the moment: a look beforehand would leave a gap in which it can go."""
    folder, away = tmp_path / "run", tmp_path / "away"
    with waiting(folder / ".lock"):
        make_folder(folder / "sub" / "below")
        assert (folder / "sub" / "below").is_dir()
        folder.rename(away)
        for attempt in (lambda: make_folder(folder / "sub" / "below"), lambda: try_lock(folder / "sub" / ".lock")):
            with pytest.raises(FileNotFoundError, match="vanished"):
                attempt()
        make_folder(tmp_path / "elsewhere" / "below")
        assert not folder.exists()
        away.rename(folder)
    make_folder(tmp_path / "other" / "below")
    assert (tmp_path / "other" / "below").is_dir()


def test_a_folder_moved_away_and_back_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with waiting(folder / ".lock"):
        folder.rename(tmp_path / "away")
    (tmp_path / "away").rename(folder)
    assert not is_held(folder / ".lock")
    with refusing(folder / ".lock", "in use"):
        pass


CONTENDER = """
import os, random, sys, time
from pathlib import Path
from cardiac_autoseg import locks
path, inside, end, count = Path(sys.argv[1]), Path(sys.argv[2]), time.monotonic() + 1, 0
while time.monotonic() < end:
    if lock := locks.try_lock(path):
        os.close(os.open(inside, os.O_CREAT | os.O_EXCL))  # fails where another one is inside
        time.sleep(random.random() * 0.001)
        inside.unlink()
        count += 1
        lock.release()
    time.sleep(0.0005)
print(count)
"""


def test_never_two_inside(tmp_path: Path) -> None:
    """Eight processes contend for a second; with kill -9 among them: tests/reliability/test_two_at_once.py."""
    command = [sys.executable, "-c", CONTENDER, str(tmp_path / ".lock"), str(tmp_path / "inside")]
    contenders = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    counts = [int(contender.communicate(timeout=60)[0]) for contender in contenders]
    assert sum(counts) > 8
    assert not list(tmp_path.iterdir())
