"""Scans in an object store, and results put there: the same as with local folders, whatever goes wrong on the way."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest

import cardiac_autoseg.data.remote_access as access
from cardiac_autoseg.cli.predict import main
from cardiac_autoseg.data.remote import RemotePath, any_path
from cardiac_autoseg.data.volume import write_volume
from cardiac_autoseg.delivery.inputs import find_inputs
from cardiac_autoseg.phantom import Subject
from cardiac_autoseg.phantom.dicom import write_dicom

pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")

PATIENT = "Mustermann^Erika"


class Store:
    """An S3 server on this machine with one bucket, and what lies in it."""

    def __init__(self) -> None:
        self.port = 0
        self.start()
        self.client.create_bucket(Bucket="bucket")

    def start(self) -> None:
        self.server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=self.port, verbose=False)
        self.server.start()
        self.port = self.server.get_host_and_port()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def client(self) -> Any:
        import boto3

        return boto3.client("s3", endpoint_url=self.url, region_name="us-east-1")

    def put(self, tree: Path) -> None:
        for path in tree.rglob("*"):
            if path.is_file():
                self.client.put_object(Bucket="bucket", Key=path.relative_to(tree).as_posix(), Body=path.read_bytes())

    def files(self, prefix: str) -> dict[str, bytes]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix=f"{prefix}/")
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key[len(prefix) + 1 :]: self.client.get_object(Bucket="bucket", Key=key)["Body"].read() for key in keys}

    def times(self, prefix: str) -> dict[str, Any]:
        found = self.client.list_objects_v2(Bucket="bucket", Prefix=f"{prefix}/").get("Contents", [])
        return {entry["Key"][len(prefix) + 1 :]: entry["LastModified"] for entry in found}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Store]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(access, "PAUSES", (0.0, 0.0))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    made = Store()
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    access._connected.cache_clear()
    yield made
    access._connected.cache_clear()
    import requests

    requests.post(f"{made.url}/moto-api/reset-auth", data=b"inf", timeout=60)
    requests.post(f"{made.url}/moto-api/reset", timeout=60)
    made.server.stop()
    assert list((tmp_path / "temporary").iterdir()) == [], "what was fetched or to be put is left behind"


@pytest.fixture
def tree(tmp_path: Path, subject: Subject) -> Path:
    """Scans of all kinds below a folder called like the bucket."""
    root = tmp_path / "bucket"
    write_volume(root / "scans" / "volume.nii.gz", subject.image_ed, subject.geometry)
    write_volume(root / "scans" / "cine.nii.gz", subject.cine[:3], subject.geometry)
    files = write_dicom(root / "studies" / "one" / "DICOM", subject, elements={"PatientName": PATIENT})
    (root / "studies" / "one" / "notes.txt").write_text("no image")
    with zipfile.ZipFile(root / "study_Erika-Mustermann.zip", "w") as archive:
        for file in files:
            archive.write(file, file.name)
    return root


def run(*arguments: object) -> int:
    return main([*map(str, arguments), "--device", "cpu"])


def volumes(folder: Path, subject: Subject, *names: str) -> Path:
    for number, name in enumerate(names):
        write_volume(folder / "scans" / f"{name}.nii.gz", subject.image_ed + number, subject.geometry)
    return folder


def same(ours: dict[str, bytes], theirs: dict[str, bytes]) -> None:
    """The same files, to the byte; of DICOM objects, which have times and UIDs of their own, the same pixels and study."""
    assert sorted(ours) == sorted(theirs)
    for name, content in ours.items():
        if name.endswith(".dcm"):
            first, second = (pydicom.dcmread(pydicom.filebase.DicomBytesIO(one)) for one in (content, theirs[name]))
            assert first.get("PixelData") == second.get("PixelData")
            assert first.PatientName == second.PatientName == PATIENT
            assert first.StudyInstanceUID == second.StudyInstanceUID
        elif name.endswith(".json"):
            # The length of a DICOM object is that of its new UIDs.
            assert without_dicom(json.loads(content)) == without_dicom(json.loads(theirs[name])), name
        else:
            assert content == theirs[name], name


def without_dicom(record: dict[str, Any]) -> dict[str, Any]:
    sizes = {file: size for file, size in record.get("bytes", {}).items() if not file.endswith(".dcm")}
    return record | {"bytes": sizes}


def local_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_results_are_those_of_local_folders(tmp_path: Path, store: Store, tree: Path, small_bundle: Path) -> None:
    store.put(tree)
    names = ("scans/*.nii.gz", "studies/one", "study_Erika-Mustermann.zip")
    options = ("--model", small_bundle, "--slicer", "--save-probabilities", "--fast")
    local, given = tmp_path / "results", [tmp_path / "which.csv", tmp_path / "which_remote.csv"]
    assert run("-i", *(tree / name for name in names), "-o", local, *options, "--names", given[0]) == 0
    remote = [f"s3://bucket/{name}" for name in names]
    assert run("-i", *remote, "-o", "s3://bucket/results/", *options, "--names", given[1]) == 0
    ours = store.files("results")
    same(ours, local_files(local))
    assert {"volume.nii.gz", "cine.html", "one_seg.dcm", "index.html", "measurements.csv"} < set(ours)
    assert not any("mustermann" in name.lower() for name in ours)
    rows = [list(csv.reader(path.open())) for path in given]
    assert [row[0] for row in rows[0]] == [row[0] for row in rows[1]]
    assert rows[1][-1][1] == "s3://bucket/study_Erika-Mustermann.zip"
    # Scans from here to there, and from there to here.
    assert run("-i", tree / "scans", "-o", "s3://bucket/mixed", "--model", small_bundle) == 0
    assert run("-i", "s3://bucket/scans", "-o", tmp_path / "mixed", "--model", small_bundle) == 0
    same(store.files("mixed"), local_files(tmp_path / "mixed"))
    # Done is done, whichever way the scans are given.
    before = store.times("mixed")
    assert run("-i", "s3://bucket/scans/volume.nii.gz", tree / "scans" / "cine.nii.gz", "-o", "s3://bucket/mixed") == 2
    again = ("-i", "s3://bucket/scans/volume.nii.gz", tree / "scans" / "cine.nii.gz", "-o", "s3://bucket/mixed")
    assert run(*again, "--model", small_bundle) == 0
    after = store.times("mixed")
    assert {name: after[name] for name in after if name.startswith(("volume", "cine"))} == {
        name: before[name] for name in before if name.startswith(("volume", "cine"))
    }


def test_inputs_are_called_as_local_ones(tmp_path: Path, store: Store, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "scans" / ".hidden.nii.gz").write_bytes(b"")
    (tree / "more" / "deep").mkdir(parents=True)
    shutil.copy(tree / "scans" / "cine.nii.gz", tree / "more" / "deep" / "cine.nii.gz")
    shutil.copy(tree / "scans" / "cine.nii.gz", tree / "more" / "Cine.nii.gz")
    shutil.copytree(tree / "studies" / "one", tree / "studies" / "two")
    store.put(tree)
    monkeypatch.chdir(tmp_path)
    for patterns in (
        ("scans",), ("scans", "more/deep"), ("*/*.nii.gz",), ("**/*.nii.gz",), ("studies/*",), ("studies/*/DICOM",),
        ("more/**",), ("[ms]*/*.gz",), ("*.zip", "scans/?ine.nii.gz"), ("studies/t?o", "more/*"),
    ):  # fmt: skip
        here = find_inputs([f"bucket/{pattern}" for pattern in patterns])
        there = find_inputs([f"s3://bucket/{pattern}" for pattern in patterns])
        assert [(f"s3://{item.path}", item.name, item.dicom) for item in here] == [
            (str(item.path), item.name, item.dicom) for item in there
        ], patterns
    # What lies in the output folder are results.
    assert len(find_inputs(["s3://bucket/**/*.nii.gz"], any_path("s3://bucket/more"))) == 2


def test_interrupted_and_started_again(
    tmp_path: Path, store: Store, subject: Subject, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(volumes(tmp_path / "bucket", subject, "a", "b", "c"))
    command = ("-i", "s3://bucket/scans/*", "-o", "s3://bucket/out", "--model", small_bundle)
    put = RemotePath.put

    def stopped(self: RemotePath, local: Path) -> None:
        if self.name == "b.nii.gz":
            raise KeyboardInterrupt
        put(self, local)

    with monkeypatch.context() as patched:
        patched.setattr(RemotePath, "put", stopped)
        assert run(*command) == 130
    there = store.times("out")
    assert {"a.nii.gz", "b.html", "index.html"} < set(there), "the labels come last"
    assert "b.nii.gz" not in there
    done = []
    monkeypatch.setattr(RemotePath, "put", lambda self, local: (done.append(self.name), put(self, local))[1])
    assert run(*command) == 0
    assert "a.nii.gz" not in done and {"b.nii.gz", "b.html"} < set(done)
    assert run("-i", tmp_path / "bucket" / "scans", "-o", tmp_path / "out", "--model", small_bundle) == 0
    assert store.files("out") == local_files(tmp_path / "out")


def test_server_that_goes_away(
    tmp_path: Path,
    store: Store,
    subject: Subject,
    small_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store.put(volumes(tmp_path / "bucket", subject, "a", "b", "c"))
    command = ("-i", "s3://bucket/scans/*", "-o", "s3://bucket/out", "--model", small_bundle)
    put = RemotePath.put

    def last(self: RemotePath, local: Path) -> None:
        put(self, local)
        if self.name == "a.nii.gz":
            store.server.stop()

    with monkeypatch.context() as patched:
        patched.setattr(RemotePath, "put", last)
        capsys.readouterr()
        assert run(*command) == 2
    said = capsys.readouterr().err
    assert "cannot be reached" in said and "Traceback" not in said
    assert run(*command) == 2, "nor is it there for another run"
    store.start()
    assert run(*command) == 0
    assert {f"{name}.nii.gz" for name in "abc"} < set(store.files("out"))


def test_an_error_that_passes_is_not_seen(
    tmp_path: Path, store: Store, subject: Subject, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put(volumes(tmp_path / "bucket", subject, "a"))
    files = access._connected("s3://bucket", os.getpid())
    fails = {"get_file": 2, "put_file": 2, "ls": 1, "cat_file": 2, "info": 2}

    def failing(name: str) -> Any:
        right = getattr(files, name)

        def once_more(*arguments: Any, **options: Any) -> Any:
            if fails[name]:
                fails[name] -= 1
                raise ConnectionResetError("the connection was lost")
            return right(*arguments, **options)

        return once_more

    for name in fails:
        monkeypatch.setattr(files, name, failing(name))
    assert run("-i", "s3://bucket/scans/*", "-o", "s3://bucket/out", "--model", small_bundle) == 0
    assert fails == dict.fromkeys(fails, 0)


def test_bad_cases_do_not_stop_the_others(
    tmp_path: Path,
    store: Store,
    subject: Subject,
    small_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = volumes(tmp_path / "bucket", subject, "good", "vanished", "zealous")
    (root / "scans" / "broken.nii.gz").write_bytes((root / "scans" / "good.nii.gz").read_bytes()[:999])
    store.put(root)
    found = find_inputs

    def then_vanished(*arguments: Any) -> Any:
        items = found(*arguments)
        store.client.delete_object(Bucket="bucket", Key="scans/vanished.nii.gz")
        return items

    monkeypatch.setattr("cardiac_autoseg.delivery.inputs.find_inputs", then_vanished)
    command = ("-i", "s3://bucket/scans/*", "-o", "s3://bucket/out", "--model", small_bundle)
    capsys.readouterr()
    assert run(*command, "--json") == 1
    said = capsys.readouterr()
    records = {record["name"]: record for record in json.loads(said.out)}
    assert {name: record["status"] == "failed" for name, record in records.items()} == {
        "good": False, "zealous": False, "broken": True, "vanished": True,
    }  # fmt: skip
    assert records["good"]["shape"] == [1, *subject.image_ed.shape]
    assert "s3://bucket/scans/broken.nii.gz: FAILED" in said.err and "damaged or cut short" in said.err
    assert "does not exist" in records["vanished"]["problem"]
    pages = store.files("out")
    for text in (pages["index.html"].decode(), json.dumps(records), said.err):
        assert str(tmp_path) not in text and "temporary" not in text
    assert "s3://" not in pages["index.html"].decode(), "folders do not reach the results"


def test_wrong_names_and_no_permission(
    tmp_path: Path,
    store: Store,
    subject: Subject,
    small_bundle: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import requests

    store.put(volumes(tmp_path / "bucket", subject, "a"))

    def said(*arguments: object, code: int = 2) -> str:
        capsys.readouterr()
        assert run(*arguments, "--model", small_bundle) == code
        return capsys.readouterr().err

    good = ("-i", "s3://bucket/scans/a.nii.gz")
    assert "names nothing to segment" in said("-i", "s3://bucket/none/*.nii.gz", "-o", tmp_path / "out")
    assert "names nothing to segment" in said("-i", "s3://nowhere/a.nii.gz", "-o", tmp_path / "out")
    assert "s3://nowhere/out/prediction.json does not exist" in said(*good, "-o", "s3://nowhere/out")
    assert "Protocol not known" in said("-i", "nonsense://a/b.nii.gz", "-o", tmp_path / "out")
    assert "is a file" in said(*good, "-o", "s3://bucket/scans/a.nii.gz")
    assert "would replace an input" in said(*good, "-o", "s3://bucket/scans")
    assert "local file" in said(*good, "-o", "s3://bucket/out", "--names", "s3://bucket/which.csv")
    assert "s3://bucket/a::zip" in said("-i", "s3://bucket/a::zip://b", "-o", tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "fsspec", None)
        patched.setitem(sys.modules, "fsspec.core", None)
        access._connected.cache_clear()
        assert "pip install 'cardiac_autoseg[remote]'" in said(*good, "-o", tmp_path / "out")
        # What is local needs none of it.
        assert run("-i", tmp_path / "bucket" / "scans", "-o", tmp_path / "local", "--model", small_bundle) == 0
    requests.post(f"{store.url}/moto-api/reset-auth", data=b"0", timeout=60)
    assert "may not be accessed" in said(*good, "-o", tmp_path / "out")
    assert "may not be accessed" in said("-i", "s3://bucket/scans/*", "-o", tmp_path / "out")
    assert "may not be accessed" in said("-i", tmp_path / "bucket" / "scans", "-o", "s3://bucket/out")
    # Of several, the others are done.
    told = said("-i", "s3://bucket/scans/a.nii.gz", tmp_path / "bucket" / "scans", "-o", tmp_path / "some", code=2)
    assert "a" in told
    write_volume(tmp_path / "b.nii.gz", subject.image_ed, subject.geometry)
    told = said(*good, tmp_path / "b.nii.gz", "-o", tmp_path / "some", code=1)
    assert "s3://bucket/scans/a.nii.gz" in told and "may not be accessed" in told
    assert (tmp_path / "some" / "b.nii.gz").is_file()


def test_results_of_another_model_or_scan_are_refused(
    tmp_path: Path, store: Store, subject: Subject, small_bundle: Path, make_bundle: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_bundle(tmp_path / "other", seed=1, fold="all", name="other")
    store.put(volumes(tmp_path / "bucket", subject, "a"))
    command = ("-i", "s3://bucket/scans/*", "-o", "s3://bucket/out")
    assert run(*command, "--model", small_bundle, "--slicer") == 0
    assert run(*command, "--model", other) == 2
    assert "s3://bucket/out holds predictions of another model" in capsys.readouterr().err
    store.put(volumes(tmp_path / "again" / "bucket", subject, "b", "a"))
    assert run("-i", "s3://bucket/scans/a.nii.gz", "-o", "s3://bucket/out", "--model", small_bundle) == 2
    assert "is of another scan" in capsys.readouterr().err
    assert (
        run(*command[:1], "s3://bucket/scans/a.nii.gz", *command[2:], "--model", other, "--overwrite", "--labels-only") == 0
    )
    assert {name for name in store.files("out") if name.startswith("a")} == {"a.nii.gz"}, (
        "of the earlier prediction nothing is left"
    )


def test_results_cut_short_are_made_again(tmp_path: Path, store: Store, subject: Subject, small_bundle: Path) -> None:
    store.put(volumes(tmp_path / "bucket", subject, "a"))
    command = ("-i", "s3://bucket/scans/*", "-o", "s3://bucket/out", "--model", small_bundle, "--save-probabilities")
    assert run(*command) == 0
    whole = store.files("out")
    for name in ("a.nii.gz", "a.html", "a.json", "a.npz"):
        store.client.put_object(Bucket="bucket", Key=f"out/{name}", Body=whole[name][: len(whole[name]) // 2])
        assert run(*command) == 0
        assert store.files("out") == whole, name


def test_few_scans_lie_here_at_a_time(
    tmp_path: Path, store: Store, subject: Subject, small_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del store
    files = write_dicom(tmp_path / "study", subject, enhanced=True)
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.store.clear()
    for number in range(7):
        for file in files:
            memory.pipe_file(f"/many/study{number}/{file.name}", file.read_bytes())
    most, get = [0], RemotePath.get

    def counted(self: RemotePath, local: Path) -> None:
        get(self, local)
        most.append(sum(1 for path in Path(tempfile.gettempdir()).iterdir() if ".scan." in path.name))

    monkeypatch.setattr(RemotePath, "get", counted)
    assert run("-i", "memory://many/*", "-o", "memory://out", "--model", small_bundle, "--labels-only", "--fast") == 0
    assert 1 <= max(most) <= 4
    assert len([name for name in memory.store if name.startswith("/out/") and name.endswith(".nii.gz")]) == 7
    memory.store.clear()


def test_another_protocol(
    tmp_path: Path, store: Store, subject: Subject, small_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.store.clear()
    root = volumes(tmp_path / "bucket", subject, "a", "b")
    store.put(root)
    for path in (root / "scans").iterdir():
        memory.pipe_file(f"/bucket/scans/{path.name}", path.read_bytes())
    assert run("-i", root / "scans", "-o", f"file://{tmp_path}/out", "--model", small_bundle) == 0
    for place in ("memory://bucket/out", "s3://bucket/out"):
        assert run("-i", "memory://bucket/scans/*.nii.gz", "-o", place, "--model", small_bundle) == 0
    theirs = local_files(tmp_path / "out")
    assert {name.removeprefix("/bucket/out/"): memory.cat(name) for name in memory.store if "/out/" in name} == theirs
    assert store.files("out") == theirs
    capsys.readouterr()
    assert run("-i", "memory://bucket/scans/*.nii.gz", "-o", "memory://bucket/out", "--model", small_bundle) == 0
    assert "2 of 2 scans are done in memory://bucket/out" in capsys.readouterr().out
    memory.store.clear()
