"""Self-configuring segmentation of short-axis cardiac cine-MRI, one model per annotation source."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cardiac_autoseg.inference.model import load_model as load_model

__version__ = "0.1.0"
__all__ = ["__version__", "load_model"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `cas_train --help` does not wait for torch.
    if name == "load_model":
        from cardiac_autoseg.inference.model import load_model

        return load_model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
