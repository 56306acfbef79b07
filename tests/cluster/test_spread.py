"""Work spread over workers, and what may happen to them. The work is made in functions, as test modules cannot be imported
on workers: it is sent whole."""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cardiac_autoseg.cluster import spread as module
from cardiac_autoseg.cluster.connect import connected
from cardiac_autoseg.cluster.spread import Needs, capacity, spread_over
from cardiac_autoseg.errors import UserError

SMALL = Needs(1, 0.0, 100 << 20)


@pytest.fixture
def ray(cluster: Any) -> Iterator[Any]:
    with connected(cluster.address) as found:
        yield found


@pytest.fixture
def said() -> list[str]:
    return []


def noting(folder: Path, work: Callable[[int], Any]) -> Callable[[], Callable[[int], Any]]:
    """``work`` that leaves a line for each worker that was made, and for each item that was tried."""

    def make() -> Callable[[int], Any]:
        import os

        with (folder / "made").open("a") as stream:
            stream.write(f"{os.getpid()}\n")

        def noted(item: int) -> Any:
            with (folder / "tried").open("a") as stream:
                stream.write(f"{item}\n")
            return work(item)

        return noted

    return make


def tried(folder: Path) -> Counter[int]:
    return Counter(int(line) for line in (folder / "tried").read_text().split())


def test_every_item_is_done_once_by_workers_that_load_once(ray: Any, tmp_path: Path, said: list[str]) -> None:
    found = dict(spread_over(ray, SMALL, said.append)(noting(tmp_path, lambda item: item * item), range(100)))
    assert found == {item: item * item for item in range(100)}
    assert set(tried(tmp_path).values()) == {1}
    assert 1 <= len((tmp_path / "made").read_text().split()) <= 2
    assert any("has started" in line for line in said)
    assert list(spread_over(ray, SMALL, said.append)(noting(tmp_path, abs), [])) == []


def test_an_item_that_fails_is_tried_again_once_and_then_set_aside(ray: Any, tmp_path: Path, said: list[str]) -> None:
    def work(item: int) -> int:
        if item == 3:
            raise UserError("the file 3 is broken")
        if item == 5:
            raise ZeroDivisionError("something nobody foresaw")
        flag = tmp_path / "once"
        if item == 7 and not flag.exists():
            flag.touch()
            raise MemoryError("not enough, for a moment")
        return item

    found = dict(spread_over(ray, SMALL, said.append)(noting(tmp_path, work), range(20)))
    assert str(found.pop(3)) == "the file 3 is broken"
    assert "ZeroDivisionError: something nobody foresaw" in str(found.pop(5))
    assert found == {item: item for item in range(20) if item not in (3, 5)}
    assert {item: count for item, count in tried(tmp_path).items() if count > 1} == {3: 2, 5: 2, 7: 2}


def test_an_item_that_kills_its_worker_is_told_from_those_that_were_with_it(
    ray: Any, tmp_path: Path, said: list[str]
) -> None:
    def work(item: int) -> int:
        import os
        import signal

        time.sleep(0.2)  # so that others are at hand
        if item == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return item

    found = dict(spread_over(ray, SMALL, said.append)(noting(tmp_path, work), range(24)))
    assert "its worker on" in str(found.pop(4))
    assert found == {item: item for item in range(24) if item != 4}
    assert tried(tmp_path)[4] == 2
    assert max(tried(tmp_path).values()) == 2
    assert sum("is lost" in line for line in said) == 2


def test_an_error_of_the_disk_ends_it(ray: Any, tmp_path: Path, said: list[str]) -> None:
    def work(item: int) -> int:
        if item == 2:
            raise OSError(errno.ENOSPC, "No space left on device", "/some/file")
        return item

    with pytest.raises(OSError, match="No space left") as caught:
        list(spread_over(ray, SMALL, said.append)(noting(tmp_path, work), range(10)))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/some/file")


def test_workers_that_cannot_start_are_given_up_in_words(ray: Any, said: list[str]) -> None:
    def make() -> Callable[[int], int]:
        raise UserError("the model is not on this machine")

    with pytest.raises(UserError, match=r"3 workers in a row could not start.*the model is not on this machine"):
        list(spread_over(ray, SMALL, said.append)(make, range(10)))


def test_a_cluster_without_room_is_not_waited_for_without_end(
    ray: Any, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 2.0)
    huge = Needs(1000, 0.0, 0)
    assert capacity(ray, huge) == 0
    with pytest.raises(UserError, match="the cluster gave no worker"):
        list(spread_over(ray, huge, said.append)(lambda: abs, range(10)))
    assert "no machine of the cluster has room for a worker (1000 CPU, 0.0 GB): waiting for one" in said


@pytest.mark.slow
def test_a_machine_that_is_lost_costs_nothing_but_time(make_cluster: Any, tmp_path: Path, said: list[str]) -> None:
    cluster = make_cluster(nodes=1, cpus=1)

    def work(item: int) -> int:
        time.sleep(0.1)
        return item

    with connected(cluster.address) as ray:
        # Only now, as nodes of one address are all alike to a driver that looks for its own.
        node = cluster.add_node(num_cpus=1, object_store_memory=100 << 20, include_dashboard=False)
        cluster.wait_for_nodes()
        found = {}
        for item, result in spread_over(ray, SMALL, said.append)(noting(tmp_path, work), range(120)):
            assert item not in found
            found[item] = result
            if len(found) == 30:
                threading.Thread(target=cluster.remove_node, args=(node,), kwargs={"allow_graceful": False}).start()
    assert found == {item: item for item in range(120)}
    assert sum("is lost" in line for line in said) == 1
    assert max(tried(tmp_path).values()) <= 2


@pytest.mark.parametrize(
    ("needs", "resources", "room"),
    [
        (Needs(1, 0.0, 0), {"CPU": 4.0}, 4),
        (Needs(2, 0.0, 0), {"CPU": 5.0}, 2),
        (Needs(1, 0.0, 4 << 30), {"CPU": 16.0, "memory": 9 * 2.0**30}, 2),
        (Needs(1, 1 / 3, 0), {"CPU": 16.0, "GPU": 2.0}, 6),
        (Needs(1, 2.0, 0), {"CPU": 16.0, "GPU": 3.0}, 1),
        (Needs(1, 1.0, 0), {"CPU": 16.0}, 0),
    ],
)
def test_room_is_what_is_scarcest(needs: Needs, resources: dict[str, float], room: int) -> None:
    assert needs.fit(resources) == room
