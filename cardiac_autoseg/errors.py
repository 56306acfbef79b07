"""The one exception for mistakes a user can mend, and the many of a machine without memory."""

from __future__ import annotations

OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "allocate memory",
    "failed to allocate",
    "could not create a memory",
    "could not create a primitive",
    "can't start new thread",
    "bad_alloc",
)
"""How libraries say it. oneDNN does not get its code into memory, and creates no primitive."""


class UserError(Exception):
    """What is wrong, in which file, and what to do about it: commands print the message and exit with code 2."""


def first_line(error: BaseException) -> str:
    """What an error says, in a line; its kind, where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory, of the machine or of a GPU: libraries have errors of their own for it.

    A ``ValueError`` is about values, whatever it says.
    """
    if isinstance(error, MemoryError | ValueError):
        return isinstance(error, MemoryError)
    return any(text in str(error).lower() for text in OUT_OF_MEMORY)
