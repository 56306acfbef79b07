"""``python -m cardiac_autoseg COMMAND …``: every command, where the cas_* scripts are not on the path."""

from __future__ import annotations

import sys

from cardiac_autoseg.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
