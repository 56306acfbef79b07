"""The one exception for mistakes a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """What is wrong, in which file, and what to do about it: commands print the message and exit with code 2."""
