"""The one exception for mistakes a user can mend, and the many of a machine without memory."""

from __future__ import annotations


class UserError(Exception):
    """What is wrong, in which file, and what to do about it: commands print the message and exit with code 2."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, of the machine or of a GPU: torch and ITK have errors of their own for it."""
    texts = ("allocate memory", "out of memory", "bad_alloc", "failed to allocate", "can't start new thread")
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in texts)
