"""Filling the templates of the pages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from cardiac_autoseg.data.identifiers import without_folders


def render(template: str, context: dict[str, Any]) -> str:
    """Fill ``template``, a file beside this module; every text is escaped. ``parts.html`` holds what the pages share.

    Messages that name files do so without the folders above them: a page may be passed on.
    """
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_shown
    )
    return environment.get_template(template).render(context)


def _shown(value: Any) -> Any:
    return without_folders(value) if isinstance(value, str) and not isinstance(value, Markup) else value
