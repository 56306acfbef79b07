"""The Kubernetes example: fields that the KubeRay API has, names that fit each other, and nobody with rights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "examples" / "kubernetes"
TEXT = (FOLDER / "raycluster.yaml").read_text()
README = (FOLDER / "README.md").read_text()

# Of docs/reference/api.md in ray-project/kuberay, API group ray.io/v1.
CLUSTER = {"suspend", "managedBy", "autoscalerOptions", "headServiceAnnotations", "enableInTreeAutoscaling"}
CLUSTER |= {"gcsFaultToleranceOptions", "headGroupSpec", "rayVersion", "workerGroupSpecs"}
AUTOSCALER = {"resources", "image", "imagePullPolicy", "securityContext", "idleTimeoutSeconds", "upscalingMode", "version"}
AUTOSCALER |= {"env", "envFrom", "volumeMounts"}
HEAD = {"template", "headService", "enableIngress", "rayStartParams", "serviceType"}
WORKERS = {"suspend", "groupName", "replicas", "minReplicas", "maxReplicas", "idleTimeoutSeconds", "rayStartParams"}
WORKERS |= {"template", "scaleStrategy", "numOfHosts"}


def with_gpus() -> str:
    """The file with the group for GPUs taken in: everything behind its line of explanation, without the comment signs."""
    plain, line, rest = TEXT.partition("    # GPUs:")
    explained, _, group = rest.partition("\n")
    assert line and explained
    return plain + re.sub(r"(?m)^    # ", "    ", group)


@pytest.fixture(params=["as it is", "with GPUs"])
def documents(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    claim, cluster = yaml.safe_load_all(TEXT if request.param == "as it is" else with_gpus())
    assert len(cluster["spec"]["workerGroupSpecs"]) == (1 if request.param == "as it is" else 2)
    return claim, cluster


def groups(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    return [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]


def test_only_fields_that_there_are(documents: tuple[dict[str, Any], dict[str, Any]]) -> None:
    claim, cluster = documents
    assert (claim["apiVersion"], claim["kind"]) == ("v1", "PersistentVolumeClaim")
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    spec = cluster["spec"]
    assert set(spec) <= CLUSTER
    assert set(spec["autoscalerOptions"]) <= AUTOSCALER
    assert set(spec["headGroupSpec"]) <= HEAD
    assert spec["enableInTreeAutoscaling"] is True
    for group in spec["workerGroupSpecs"]:
        assert set(group) <= WORKERS
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"] < 1000
    names = [group["groupName"] for group in spec["workerGroupSpecs"]]
    assert len(set(names)) == len(names)
    # KubeRay takes text only.
    assert all(isinstance(value, str) for group in groups(cluster) for value in group["rayStartParams"].values())


def test_versions_and_images_fit(documents: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, cluster = documents
    pinned = re.search(r"(?m)^ray==(\S+)$", (ROOT / "constraints.txt").read_text())
    assert pinned and cluster["spec"]["rayVersion"] == pinned[1]
    version = re.search(r'version="([\d.]+)"', (ROOT / "setup.py").read_text())
    assert version
    container = (ROOT / "examples" / "container" / "README.md").read_text()
    for group in groups(cluster):
        (one,) = group["template"]["spec"]["containers"]
        image, _, tag = one["image"].partition(":")
        assert image == "cardiac_autoseg" and tag.removesuffix("-cuda") == version[1]
        assert f"-t {one['image']} " in container, "the README of the container says how it is built"
        assert ("nvidia.com/gpu" in one["resources"]["limits"]) == tag.endswith("-cuda")


def test_nobody_has_rights_and_nothing_is_reported(documents: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, cluster = documents
    autoscaler = cluster["spec"]["autoscalerOptions"]
    containers = [autoscaler, *(group["template"]["spec"]["containers"][0] for group in groups(cluster))]
    user = re.search(r"(?m)^USER (\d+):(\d+)$", (ROOT / "examples" / "container" / "Dockerfile").read_text())
    assert user
    for one in containers:
        confined = one["securityContext"]
        assert confined["runAsNonRoot"] is True and confined["allowPrivilegeEscalation"] is False
        assert (confined["runAsUser"], confined["runAsGroup"]) == (int(user[1]), int(user[2]))
        assert confined["capabilities"] == {"drop": ["ALL"]}
        assert {"name": "RAY_USAGE_STATS_ENABLED", "value": "0"} in one["env"]
    for group in groups(cluster):
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert group["rayStartParams"]["disable-usage-stats"] == "true"


def test_resources_and_volumes(documents: tuple[dict[str, Any], dict[str, Any]]) -> None:
    claim, cluster = documents
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in groups(cluster):
        pod = group["template"]["spec"]
        (one,) = pod["containers"]
        assert one["resources"]["requests"]["memory"] == one["resources"]["limits"]["memory"]
        assert {"cpu", "memory"} <= set(one["resources"]["requests"])
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {mount["name"]: mount["mountPath"] for mount in one["volumeMounts"]}
        assert set(mounts) == set(volumes)
        assert volumes["data"]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert mounts == {"data": "/data", "temporary": "/tmp"}
        # The image has no dashboard, which the operator's own probes ask.
        assert one["livenessProbe"]["exec"]["command"] == one["readinessProbe"]["exec"]["command"] == ["ray", "health-check"]


def test_commands_of_the_readme_fit(documents: tuple[dict[str, Any], dict[str, Any]]) -> None:
    _, cluster = documents
    assert f"ray.io/cluster={cluster['metadata']['name']},ray.io/node-type=head" in README
    name = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["name"]
    assert f"-c {name} -- cas_predict --cluster auto -i '/data/" in README
    for path in re.findall(r"-f (\S+)", README):
        assert (ROOT / path).is_file(), path
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (FOLDER / target).exists(), target
    installed = (ROOT / "setup.py").read_text()
    for command in set(re.findall(r"\bcas_(\w+) ", README)):
        assert f'"{command}",' in installed, command


def test_ray_has_what_the_example_asks_of_it() -> None:
    ray = pytest.importorskip("ray.scripts.scripts")
    options = {option for parameter in ray.start.params for option in parameter.opts}
    (cluster,) = list(yaml.safe_load_all(TEXT))[1:]
    for group in groups(cluster):
        assert {f"--{name}" for name in group["rayStartParams"]} <= options
    assert "health-check" in ray.cli.commands
