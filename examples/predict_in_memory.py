"""Segment an image in memory with a trained bundle, and print volumes and ejection fraction.

python examples/predict_in_memory.py heart/models/best cine.nii.gz
"""

from __future__ import annotations

import argparse

import numpy as np
import SimpleITK as sitk

from cardiac_autoseg import load_model
from cardiac_autoseg.data.volume import from_sitk


def main(arguments: list[str] | None = None) -> None:
    """Print the volume of each structure, frame by frame, and the LV ejection fraction of a cine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="bundle: a folder or a .zip")
    parser.add_argument("image", help="short-axis image, 3D or 4D")
    parser.add_argument("--device", help="cpu, cuda, …; without it a GPU where there is one")
    options = parser.parse_args(arguments)

    model = load_model(options.model, options.device)
    volume = from_sitk(sitk.ReadImage(options.image))
    spacing = volume.geometry.spacing_zyx
    labels = model(volume.array, spacing)  # (Z, Y, X) or (T, Z, Y, X), uint8

    frames = labels.reshape(-1, *labels.shape[-3:])
    voxel_ml = np.prod(spacing) / 1000
    millilitres = {name: (frames == value).sum(axis=(1, 2, 3)) * voxel_ml for name, value in model.labels.items() if value}
    print("frame " + "".join(f"{name + ' (mL)':>12}" for name in millilitres))
    for frame, row in enumerate(zip(*millilitres.values(), strict=True), start=1):
        print(f"{frame:5d} " + "".join(f"{value:12.1f}" for value in row))

    cavity = millilitres["LV"]
    if len(cavity) > 1 and cavity.max() > 0:
        print(f"LV ejection fraction {100 * (cavity.max() - cavity.min()) / cavity.max():.1f} %")


if __name__ == "__main__":
    main()
