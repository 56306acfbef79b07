"""``cas_models``: the trained bundles there are: list, inspect, verify, export, import, ONNX."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cardiac_autoseg.cli import common

if TYPE_CHECKING:
    from pathlib import Path

    from cardiac_autoseg.bundle import Bundle
    from cardiac_autoseg.workspace import Workspace

COLUMNS = ("name", "networks", "trained on", "CV Dice", "MB", "licence", "where")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``cas_models``; exit codes as in :mod:`cardiac_autoseg.cli.common`."""
    parser = common.make_parser(
        "The trained models (bundles) of the workspace and of the package: list them, look into one, check its files, pass"
        " it on as a zip, take one in, write its networks as ONNX.",
        workspace=False,
    )
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)

    def add(name: str, words: str, result: str, model: str = "") -> argparse.ArgumentParser:
        one = common.make_parser(words)
        if model:
            one.add_argument("model", metavar="MODEL", help=model)
        common.add_json(one, result)
        return actions.add_parser(
            name, parents=[one], add_help=False, help=words, description=words, formatter_class=one.formatter_class
        )

    which = "bundle: name in the workspace or the package, folder, or .zip"
    add("list", "the bundles of the workspace and of the package", "the list")
    inspect = add("inspect", "what a bundle says about itself", "its record", which)
    inspect.add_argument("--card", action="store_true", help="print the model card (Markdown) instead")
    add("verify", "check every file of a bundle; exit code 1 when something is wrong", "what is wrong", which)
    export = add("export", "write a bundle as one zip, to pass on", "what was written", which)
    export.add_argument("-o", "--output", metavar="FILE", help="the .zip; without it <name>.zip here")
    take = add("import", "add a bundle's zip to the workspace, after checking all of it", "what was added")
    take.add_argument("archive", metavar="ZIP", help="zip that cas_models export or cas_ensemble --zip wrote")
    take.add_argument("--name", metavar="NAME", help="name in the workspace; without it the bundle's own")
    onnx = add("onnx", "write each network as an ONNX file, compared with the original", "the files", which)
    onnx.add_argument("-o", "--output", metavar="DIR", required=True, help="folder for the .onnx files")
    return common.run(parser, _work, arguments)


def _work(values: argparse.Namespace) -> int:
    actions = {
        "list": _list,
        "inspect": _inspect,
        "verify": _verify,
        "export": _export,
        "import": _import,
        "onnx": _onnx,
    }
    return actions[values.action](values)


def _list(values: argparse.Namespace) -> int:
    from cardiac_autoseg.bundle import read_bundle
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.inference.model_store import list_bundles

    workspace = common.workspace_or_none(values.workspace)
    default, rows, problems = _default(workspace), [], []
    for found in list_bundles(workspace):
        row: dict[str, Any] = {"name": found.name, "path": str(found.path), "packaged": found.packaged}
        try:
            row |= _summary(read_bundle(found.path), found.path) | {"default": found.path == default, "problem": ""}
        except UserError as error:
            row |= {"default": False, "problem": str(error)}
            problems.append(str(error))
        rows.append(row)
    if values.json:
        common.print_json(rows)
    elif rows:
        _print_table([_cells(row) for row in rows if not row["problem"]])
        print("* what cas_predict takes without --model" if default else "no default: name one with cas_predict --model")
    else:
        print("no bundles: make one with cas_ensemble, or take one in with cas_models import")
    for problem in problems:
        common.tell(f"left out: {problem}")
    return common.SOME_FAILED if problems else common.OK


def _default(workspace: Workspace | None) -> Path | None:
    """The bundle that ``cas_predict`` takes where none is named."""
    from cardiac_autoseg.errors import UserError
    from cardiac_autoseg.inference.model_store import find_bundle

    try:
        return find_bundle(workspace, None)
    except UserError:
        return None


def _summary(bundle: Bundle, path: Path) -> dict[str, Any]:
    """The columns of the list, JSON-ready."""
    from collections import Counter

    from cardiac_autoseg.bundle import file_names

    scores = bundle.card.get("scores") or bundle.scores
    data = bundle.training_data
    names = file_names(bundle)
    size = sum((path / name).stat().st_size for name in names if (path / name).is_file()) if path.is_dir() else 0
    return {
        "networks": dict(Counter(member.architecture for member in bundle.members)),
        "trained_on": {key: data[key] for key in ("dataset", "subjects", "source") if key in data},
        "cv_dice": scores.get("mean_dice"),
        "megabytes": round((size or path.stat().st_size) / 1e6, 2),
        "licence": bundle.licence,
        "created": bundle.created,
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    networks = ", ".join(f"{count} {name}" for name, count in row["networks"].items())
    data = row["trained_on"]
    subjects = f" ({data['subjects']} subjects)" if "subjects" in data else ""
    return (
        f"{'* ' if row['default'] else '  '}{row['name']}",
        networks,
        f"{data.get('dataset', '?')} {data.get('source', '')}{subjects}",
        "-" if row["cv_dice"] is None else f"{row['cv_dice']:.3f}",
        f"{row['megabytes']:.1f}",
        row["licence"] or "not said",
        "package" if row["packaged"] else "workspace",
    )


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    header = (f"  {COLUMNS[0]}", *COLUMNS[1:])
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(COLUMNS))]
    for row in (header, *rows):
        cells = (
            cell.rjust(width) if name in ("CV Dice", "MB") else cell.ljust(width)
            for name, cell, width in zip(COLUMNS, row, widths, strict=True)
        )
        print("  ".join(cells).rstrip())


def _inspect(values: argparse.Namespace) -> int:
    import hashlib
    import json

    from cardiac_autoseg.bundle import read_bundle
    from cardiac_autoseg.bundle_files import CARD, RECORD, read_bytes
    from cardiac_autoseg.model_card import model_card

    path = _path(values)
    bundle = read_bundle(path)
    if values.card:
        print(read_bytes(path, CARD).decode() if CARD in bundle.files else model_card(bundle), end="")
        return common.OK
    record = read_bytes(path, RECORD)
    digest = hashlib.sha256(record).hexdigest()
    if values.json:
        common.print_json({"path": str(path), "sha256": digest, **json.loads(record)})
        return common.OK
    print(f"{bundle.name}, made {bundle.created} with cardiac_autoseg {bundle.version}")
    summary = _summary(bundle, path)
    _, networks, data, dice, size, licence, _ = _cells(summary | {"name": "", "default": False, "packaged": False})
    lines = {
        "path": f"{path} ({size} MB)",
        "networks": networks,
        "spacing": ", ".join(dict.fromkeys(f"{p.spacing[0]:g} x {p.spacing[1]:g} mm" for p in bundle.plans.values())),
        "labels": ", ".join(f"{value} {name}" for name, value in bundle.labels.items()),
        "trained on": data,
        "CV Dice": dice,
        "afterwards": bundle.postprocessing,
        "licence": licence,
        "record": f"{RECORD}, SHA-256 {digest}",
    }
    for name, text in lines.items():
        print(f"  {name:<12}{text}")
    for name, sha256 in ({member.file: member.sha256 for member in bundle.members} | bundle.files).items():
        print(f"  {'file':<12}{name}, SHA-256 {sha256}")
    return common.OK


def _verify(values: argparse.Namespace) -> int:
    from cardiac_autoseg.bundle_transfer import verify_bundle

    path = _path(values)
    problems = verify_bundle(path)
    if values.json:
        common.print_json({"path": str(path), "problems": problems})
    else:
        print("\n".join(problems) or f"{path}: every file is as it was made, and loads")
    return common.SOME_FAILED if problems else common.OK


def _export(values: argparse.Namespace) -> int:
    from pathlib import Path

    from cardiac_autoseg.bundle_transfer import export_bundle

    path = _path(values)
    archive = Path(values.output or f"{path.stem if path.is_file() else path.name}.zip").expanduser()
    bundle = export_bundle(path, archive)
    if not bundle.licence:
        common.tell(f"{path} says no licence of its weights: whoever receives it cannot know what they may do with them")
    if values.json:
        common.print_json({"path": str(archive), **_summary(bundle, archive)})
    else:
        print(f"{archive} ({archive.stat().st_size / 1e6:.1f} MB)")
    return common.OK


def _import(values: argparse.Namespace) -> int:
    from pathlib import Path

    from cardiac_autoseg.bundle import read_bundle
    from cardiac_autoseg.bundle_transfer import import_bundle
    from cardiac_autoseg.workspace import find_workspace

    folder = find_workspace(values.workspace).root / "models"
    path = import_bundle(Path(values.archive).expanduser(), folder, values.name)
    bundle = read_bundle(path)
    if values.json:
        common.print_json({"path": str(path), "name": path.name, **_summary(bundle, path)})
    else:
        print(f"{path}: {len(bundle.members)} network(s), licence: {bundle.licence or 'not said'}")
    return common.OK


def _onnx(values: argparse.Namespace) -> int:
    from pathlib import Path

    from cardiac_autoseg.inference.onnx_export import export_onnx

    exported = export_onnx(_path(values), Path(values.output).expanduser(), common.teller(values))
    if values.json:
        common.print_json([{"path": str(item.path), "largest_difference": item.difference} for item in exported])
    return common.OK


def _path(values: argparse.Namespace) -> Path:
    from cardiac_autoseg.inference.model_store import bundle_called

    return bundle_called(common.workspace_or_none(values.workspace), values.model)
