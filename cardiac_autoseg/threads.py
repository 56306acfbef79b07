"""Work on many cases in parallel threads: numpy, zlib and torch release Python's lock while they compute."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

from threadpoolctl import threadpool_limits

from cardiac_autoseg.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")


class Spread(Protocol):
    """A way to do the same work on many items, in any order.

    ``make`` gives the work, to each process that takes part in it; so ``make`` and items must be such that they can be sent.
    """

    def __call__(
        self, make: Callable[[], Callable[[Item], Result]], items: Sequence[Item], workers: int | None = None
    ) -> Iterator[tuple[Item, Result | UserError]]:
        """Every item with its result, as it is there; what went wrong with one item is its result."""


def in_process(
    make: Callable[[], Callable[[Item], Result]], items: Sequence[Item], workers: int | None = None
) -> Iterator[tuple[Item, Result | UserError]]:
    """The :class:`Spread` over the threads of this process."""
    return in_threads(make(), items, workers)


def in_threads(
    work: Callable[[Item], Result], items: Sequence[Item], workers: int | None = None
) -> Iterator[tuple[Item, Result | UserError]]:
    """``work`` on every item, in parallel threads and in order; a :class:`UserError` is a result, not an end."""

    def guarded(item: Item) -> Result | UserError:
        try:
            return work(item)
        except UserError as error:
            return error

    with _one_thread_each() as threads, ThreadPoolExecutor(workers or min(16, threads)) as pool:
        try:
            yield from zip(items, pool.map(guarded, items), strict=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def available_cores() -> int:
    """Cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS
        return os.cpu_count() or 1


@contextmanager
def _one_thread_each() -> Iterator[int]:
    """Libraries compute in one thread a case, which is faster than many threads on each; gives the number of threads."""
    torch = sys.modules.get("torch")  # Not imported here: it takes longer than some of the work.
    threads = torch.get_num_threads() if torch else available_cores()
    with threadpool_limits(1, user_api="blas"):
        if torch:
            torch.set_num_threads(1)
        try:
            yield threads
        finally:
            if torch:
                torch.set_num_threads(threads)
