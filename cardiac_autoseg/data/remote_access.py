"""The way to a file system of fsspec: one for all threads of a process, asked again where that may help, errors sorted."""

from __future__ import annotations

import errno
import functools
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from cardiac_autoseg.data.identifiers import unquoted
from cardiac_autoseg.errors import UserError

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 16
"""Requests at a time, where there are many small ones: each mostly waits for the answer."""
PAUSES = (0.5, 2.0)
"""Seconds before the second and the third try, after those that the protocol's own library makes."""
_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "TokenRetrievalError")
_HERE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENAMETOOLONG, errno.EMFILE)
"""Errors of the local disk: to try again would not help."""


class UnreachableError(UserError):
    """No answer, or an error of the server, and that several times."""


def tried(url: str, work: Callable[[Any, str], Result]) -> Result:
    """``work(file system, path)``, up to three times where that may help.

    Raises :class:`OSError` for what is missing, not permitted, or wrong with the local disk, :class:`UserError` for a
    protocol that is not there, and :class:`UnreachableError` for all else.
    """
    for pause in (*PAUSES, None):
        try:
            files = _files(url, os.getpid())
            return work(files, files._strip_protocol(url))
        except (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError):
            raise
        except (NotImplementedError, UserError) as error:
            raise UserError(f"{url}: {error or 'this protocol cannot do it'}") from error
        except Exception as error:  # each library has its own for a lost network
            if isinstance(error, OSError) and error.errno in _HERE:
                raise
            if type(error).__name__ in _CREDENTIALS:
                raise PermissionError(errno.EACCES, str(error), url) from error
            if pause is None:
                told = unquoted(error)
                remedy = "check the network and the endpoint; the same command goes on from there"
                raise UnreachableError(f"{url} cannot be reached ({told}): {remedy}") from error
            time.sleep(pause)
    raise AssertionError


def _files(url: str, pid: int) -> Any:
    """The file system of a URL, one for all threads of a process. Raises :class:`UserError` where there is none."""
    protocol, _, rest = url.partition("://")
    return _connected(f"{protocol}://{rest.partition('/')[0]}", pid)


@functools.lru_cache(64)
def _connected(root: str, _pid: int) -> Any:
    try:
        from fsspec.core import url_to_fs
    except ImportError as error:
        raise UserError("reading it needs fsspec: pip install 'cardiac_autoseg[remote]'") from error
    try:
        return url_to_fs(root, skip_instance_cache=True)[0]  # which is one for each thread
    except ImportError as error:
        raise UserError(
            f"{unquoted(error)}: pip install 'cardiac_autoseg[remote]' for s3://, or what its protocol needs"
        ) from error
    except ValueError as error:
        raise UserError(f"it cannot be used ({error}): give a URL such as s3://bucket/folder") from error


def at_once(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """``work`` on every item in order, several at a time; the first exception ends it."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        try:
            return list(pool.map(work, items))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
