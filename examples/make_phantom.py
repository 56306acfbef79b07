"""Make a small synthetic data set in ACDC's layout, and compare the volumes of its labels with the truth.

python examples/make_phantom.py phantom_data
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from cardiac_autoseg.data.volume import read_volume
from cardiac_autoseg.phantom import write_acdc

LV = 3


def main(arguments: list[str] | None = None) -> None:
    """Write five subjects, one of each group, and print LV volumes: counted in the labels, and true."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where to write the data set")
    parser.add_argument("--subjects", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", choices=("small", "normal"), default="small")
    options = parser.parse_args(arguments)
    print("patient     group  LV EDV counted / true     LV ESV counted / true     EF true")
    for folder in write_acdc(options.folder, options.subjects, options.seed, size=options.size):
        info = dict(line.split(": ") for line in (folder / "Info.cfg").read_text().splitlines())
        true = json.loads((folder / "truth.json").read_text())["imaged"]
        counted = {}
        for phase in ("ED", "ES"):
            labels = read_volume(folder / f"{folder.name}_frame{int(info[phase]):02d}_gt.nii.gz")
            counted[phase] = (labels.array == LV).sum() * np.prod(labels.geometry.spacing) / 1000
        print(
            f"{folder.name}  {info['Group']:5}  {counted['ED']:7.1f} / {true['lv_edv_ml']:5.1f} mL"
            f"        {counted['ES']:7.1f} / {true['lv_esv_ml']:5.1f} mL        {true['lv_ef_percent']:5.1f} %"
        )


if __name__ == "__main__":
    main()
