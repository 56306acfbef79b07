"""A bundle's networks as ONNX files, each compared with its original before it is kept.

Written by PyTorch's TorchScript exporter (``dynamo=False``): the same call serves PyTorch 2.4 to 2.13, needs no further
package, and gives every axis but the channels any size.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cardiac_autoseg.bundle import Bundle, Member, load_bundle
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.files import atomic_path
from cardiac_autoseg.model_card import USE
from planning.plan import Plan

OPSET = 17
TOLERANCE = 1e-4
"""Largest difference of a probability; float32 sums in another order differ by about 1e-6."""
SIZES = ((1, 2, 2), (3, 5, 3), (2, 8, 11))
"""(slices, multiples of the divisor in y, in x) that are compared."""
INSTALL = "pip install 'cardiac_autoseg[onnx]'"


@dataclass(frozen=True)
class Exported:
    """One ONNX file, and the largest absolute difference of its probabilities from the network's."""

    path: Path
    difference: float


class _Probabilities(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, C, H, W), sums to 1 over C."""
        return torch.softmax(self.network(image), 1)


def export_onnx(
    path: Path, output: Path, report: Callable[[str], None], tolerance: float = TOLERANCE
) -> tuple[Exported, ...]:
    """Write each network of the bundle at ``path`` as an ``.onnx`` file in the folder ``output``.

    Input "image" (B, 1, H, W) float32, resampled and normalised as the metadata say, H and W multiples of the divisor;
    output "probabilities" (B, C, H, W). Each file is run by onnxruntime on images of several sizes and compared with the
    network. Raises :class:`UserError` if onnx or onnxruntime is not installed, the bundle is damaged, or a probability
    differs by more than ``tolerance``: then that file is not written.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError as error:
        raise UserError(f"ONNX export needs onnx and onnxruntime ({error}): {INSTALL}") from error
    bundle, networks = load_bundle(path)
    exported = []
    for member, network in zip(bundle.members, networks, strict=True):
        plan, target = bundle.plans[member.plan], output / Path(member.file).with_suffix(".onnx").name
        whole = _Probabilities(network).eval()
        with atomic_path(target) as temporary:
            _write(whole, plan, temporary)
            model = onnx.load(temporary)
            onnx.helper.set_model_props(model, metadata(bundle, member))
            onnx.checker.check_model(model, full_check=True)
            onnx.save(model, temporary)
            session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
            difference = _difference(session, whole, plan)
            if not difference <= tolerance:
                raise UserError(
                    f"{target}: its probabilities differ from the network's by up to {difference:.2g}, more than"
                    f" {tolerance:g}; it is not written: use the bundle itself, or other versions of torch and onnxruntime"
                )
        exported.append(Exported(target, difference))
        report(f"{target}: largest difference from the network {difference:.1e}")
    return tuple(exported)


def metadata(bundle: Bundle, member: Member) -> dict[str, str]:
    """What a user of the ONNX file must know, as ONNX's text properties: lists and numbers are JSON."""
    plan = bundle.plans[member.plan]
    values: dict[str, Any] = {
        "classes": list(plan.classes),
        "spacing_mm_yx": list(plan.spacing),
        "divisor_yx": list(plan.divisor),
        "clip_percentiles": list(plan.clip_percentiles),
        "normalisation": "of each volume: clip at its clip_percentiles, scale so that these become 0 and 1; then resample"
        " each slice to spacing_mm_yx and pad with 0 to multiples of divisor_yx, twice the divisor at least",
        "orientation_lps_xy": list(bundle.orientation),
        "postprocessing": bundle.postprocessing,
        "bundle": bundle.name,
        "weights_sha256": member.sha256,
        "cardiac_autoseg": bundle.version,
        "licence": bundle.licence,
        "use": USE,
    }
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def _write(network: nn.Module, plan: Plan, path: Path) -> None:
    axes = {0: "slices", 2: "height", 3: "width"}
    example = torch.zeros(2, 1, 3 * plan.divisor[0], 4 * plan.divisor[1])
    with warnings.catch_warnings(), torch.no_grad(), _scattered_unpooling():
        # That this exporter is the older one, and that sizes are traced: the comparison shows what came of it.
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(
            network,
            (example,),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_axes={"image": axes, "probabilities": axes},
        )


@contextmanager
def _scattered_unpooling() -> Iterator[None]:
    """In the block, ENet's max-unpooling is a scatter, which the exporter knows; the result is the same."""
    plain = functional.max_unpool2d

    def unpool(x: Tensor, indices: Tensor, _: object) -> Tensor:
        batch, channels, height, width = x.shape
        flat = torch.zeros((batch, channels, 4 * height * width), dtype=x.dtype)
        return flat.scatter(2, indices.flatten(2), x.flatten(2)).reshape(batch, channels, 2 * height, 2 * width)

    functional.max_unpool2d = unpool  # type: ignore[assignment]
    try:
        yield
    finally:
        functional.max_unpool2d = plain


def _difference(session: Any, network: nn.Module, plan: Plan) -> float:
    """The largest difference of a probability between onnxruntime and torch, over images of several sizes."""
    largest = 0.0
    generator = torch.Generator().manual_seed(0)
    for slices, rows, columns in SIZES:
        size = (rows * plan.divisor[0], columns * plan.divisor[1])
        noise = torch.rand((slices, 1, *size), generator=generator)
        # Areas and edges, as scans have them.
        blocks = functional.interpolate(torch.rand((slices, 1, 3 * rows, 3 * columns), generator=generator), size=size)
        for image in (noise, blocks):
            with torch.inference_mode():
                expected = network(image).numpy()
            found = session.run(["probabilities"], {"image": image.numpy()})[0]
            if found.shape != expected.shape:
                return float("inf")
            largest = max(largest, float(np.abs(found - expected).max()))
    return largest
