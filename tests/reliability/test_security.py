"""Nobody is let in: no module runs code of others, no file of theirs is opened as code, no name leads out."""

from __future__ import annotations

import ast
import io
import json
import pickle
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cardiac_autoseg
import planning
from cardiac_autoseg.bundle import load_bundle, read_bundle
from cardiac_autoseg.bundle_transfer import damage, import_bundle
from cardiac_autoseg.data.dicom import read_study
from cardiac_autoseg.data.index import load_dataset
from cardiac_autoseg.errors import UserError
from cardiac_autoseg.training.checkpoints import read_tensors
from cardiac_autoseg.trust.trust import load_trust

from .bundle_tools import sealed

AREA = "Security"
PACKAGES = [Path(package.__file__ or "").parent for package in (cardiac_autoseg, planning)]
Make = Callable[..., Path]

FORBIDDEN_MODULES = {
    *("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "code", "pty", "telnetlib"),
    *("requests", "urllib.request", "http", "ftplib", "smtplib", "xmlrpc", "xml", "webbrowser", "asyncio"),
}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load", "torch.save", "torch.hub.load"),
    *("tempfile.mktemp", "pydicom.data.get_testdata_file", "zipfile.ZipFile.extractall", "np.memmap", "np.fromfile"),
}


MAY_CONNECT = ("cluster/*.py", "data/remote*.py", "training/distributed.py", "training/collectives.py")
"""Modules that speak to other machines, when the user asks for it: by --cluster, a URL, or a plan of several devices."""
CONNECTING = {"socket", "ray", "fsspec", "s3fs", "torch.distributed"}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> set[str]:
    """The modules that a module imports, wherever it does; of packages the first part as well."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {item.name for item in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or "", *(f"{node.module}.{item.name}" for item in node.names)}
    return names | {name.split(".")[0] for name in names}


def forbidden(tree: ast.Module) -> Iterator[str]:
    """What no module may do, in words."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = node.module if isinstance(node, ast.ImportFrom) else ""
            names = [module or ""] if module else [item.name for item in node.names]
            names += [f"{module}.{item.name}" for item in node.names] if module else []
            for name in names:
                if name in FORBIDDEN_MODULES or name.split(".")[0] in FORBIDDEN_MODULES:
                    yield f"line {node.lineno}: imports {name}"
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            options = {item.arg: ast.unparse(item.value) for item in node.keywords}
            if name in FORBIDDEN_CALLS or name.endswith((".extractall", ".extract", ".unpack_archive")):
                yield f"line {node.lineno}: calls {name}"
            if name in ("np.load", "numpy.load") and options.get("allow_pickle") != "False":
                yield f"line {node.lineno}: np.load without allow_pickle=False"
            if options.get("shell", "False") != "False" or options.get("autoescape", "True") != "True":
                yield f"line {node.lineno}: {name} with shell, or without escaping"


@pytest.mark.tries(AREA, "modules of the packages: no pickle, eval, shell, network, unescaped template")
def test_no_module_does_what_it_must_not(tries: Any) -> None:
    found = {str(path): list(forbidden(tree)) for path, tree in sources()}
    tries.count = len(found)
    assert {path: problems for path, problems in found.items() if problems} == {}
    connecting = {path for path, tree in sources() if imported(tree) & CONNECTING}
    allowed = {path for package in PACKAGES for pattern in MAY_CONNECT for path in package.glob(pattern)}
    assert connecting <= allowed
    # The test itself sees what it should see.
    bad = "import pickle\nfrom urllib import request\nnp.load(x)\ntorch.load(x)\neval(x)\nsubprocess.run(x, shell=True)"
    assert len(list(forbidden(ast.parse(bad)))) == 6
    # Modules are imported by name only from a list in the program.
    for path in (one for package in PACKAGES for one in package.rglob("*.py")):
        for name in re.findall(r"import_module\((.*)\)", path.read_text(encoding="utf-8")):
            assert name.startswith('f"cardiac_autoseg.cli.{'), path


@pytest.mark.tries(AREA, "templates of the pages: no filter or mark that leaves a text unescaped")
def test_no_template_leaves_texts_unescaped(tries: Any) -> None:
    templates = sorted((PACKAGES[0] / "report").glob("*.html"))
    tries.count = len(templates)
    for path in templates:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*safe|autoescape|Markup", text), path
        # Every attribute that is filled in stands in quotes.
        assert not re.search(r"=\{\{", text), path


class Touch:
    """When unpickled, makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def torch_pickle(touch: Touch) -> bytes:
    stream = io.BytesIO()
    torch.save({"weights": touch}, stream)
    return stream.getvalue()


def numpy_pickle(touch: Touch) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([touch], dtype=object), allow_pickle=True)
    return stream.getvalue()


def numpy_pickles(touch: Touch) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, probabilities=np.array([touch], dtype=object), record=np.array([touch], dtype=object))
    return stream.getvalue()


FORMS: dict[str, Callable[[Touch], bytes]] = {
    "pickle": pickle.dumps,
    "torch.save": torch_pickle,
    "npy": numpy_pickle,
    "npz": numpy_pickles,
}


@pytest.mark.tries(AREA, "a pickle that makes a file, in place of a file that is read")
@pytest.mark.parametrize("form", FORMS)
def test_no_pickle_is_opened(form: str, tmp_path: Path, make_bundle: Make, workspace_copy: Path, tries: Any) -> None:
    from cardiac_autoseg.inference.crossvalidation import summed_probabilities
    from cardiac_autoseg.inference.finished import FinishedRun
    from cardiac_autoseg.preprocessing.store import PreprocessedStore, image_path, label_path
    from cardiac_autoseg.trust.observations import _read
    from cardiac_autoseg.workspace import RunKey, Workspace
    from planning.plan import Plan

    made = tmp_path / "made"
    content = FORMS[form](Touch(made))
    folder = make_bundle(tmp_path / "m")
    bundle = read_bundle(folder)
    weights = bundle.members[0].file
    workspace = Workspace(workspace_copy)
    dataset = load_dataset(workspace.dataset)
    case = dataset.cases[0]
    store = PreprocessedStore(workspace)
    file = tmp_path / "file"
    file.write_bytes(content)

    def folder_with(name: str) -> None:
        sealed(folder, name, content)
        for read in (load_bundle, load_trust):
            read(folder)

    def record() -> None:
        (folder / "bundle.json").write_bytes(content)
        read_bundle(folder)

    def array(path: Path, read: Callable[[], object]) -> None:
        path.write_bytes(content)
        read()

    def probabilities() -> None:
        plan = Plan.from_json(json.loads(workspace.plan("unet").read_text()))
        run = FinishedRun(RunKey("unet", "expert", "ce_dice", "0", 0), tmp_path / "run", plan, ())
        target = tmp_path / "run" / "validation" / "probabilities" / f"{case.id}.npy"
        for path in (target, target.parents[1] / f"{case.id}.npy", target.parents[1] / f"{case.id}.npz"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        summed_probabilities([run], case, (10, 10))

    tried: list[Callable[[], object]] = [
        lambda: load_bundle(file),
        lambda: damage(file),
        lambda: import_bundle(file, tmp_path / "models"),
        lambda: folder_with("MODEL_CARD.md"),
        lambda: folder_with(weights),
        record,
        lambda: read_tensors(file),
        lambda: array(image_path(workspace, case.id), lambda: store.image(case.id)),
        lambda: array(label_path(workspace, case.id, "expert"), lambda: store.labels(case.id, "expert", mapped=True)),
        lambda: _read(file, "key"),
        probabilities,
        lambda: read_study(file),
    ]
    tries.count = len(tried)
    for one in tried:
        with suppress(UserError):
            one()
        assert not made.exists()
    pickle.loads(pickle.dumps(Touch(made)))
    assert made.exists(), "the pickle would have worked"


@pytest.mark.tries(AREA, "names in an index that lead out of the workspace")
@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/b", "..", ".", "", "a\0b"])
def test_names_in_an_index(name: str, workspace_copy: Path, tries: Any) -> None:
    path = workspace_copy / "dataset.json"
    values = json.loads(path.read_text())
    tries.count = 2
    source = {**values, "sources": {**values["sources"], name: values["sources"]["expert"]}}
    case = {**values, "cases": [{**values["cases"][0], "id": name}, *values["cases"][1:]]}
    for changed in (source, case):
        path.write_text(json.dumps(changed))
        with pytest.raises(UserError, match="cannot be the name"):
            load_dataset(path)
