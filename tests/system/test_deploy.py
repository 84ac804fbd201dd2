"""The image, the manifests and the files for clusters in `deploy/`."""

from __future__ import annotations

import importlib.resources
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import kubernetes_validate
import pytest
import yaml

from tests.support.deploy import (
    DEPLOY,
    KUBERNETES_VERSIONS,
    documents,
    manifest,
    run_scheduler,
    write_kubeconfig,
)
from tests.support.kubernetes_api import KubernetesApi, rights
from tests.support.paths import ROOT

LOADED = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = LOADED["project"]
BARE = "bookworm"
"""A Debian with the Python that constraints.txt was resolved for."""
BARE_PYTHON = "3.11"
INSTALL_SECONDS = 1500


def _cluster_file() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(manifest("ConfigMap")["data"]["cluster.yaml"])
    return loaded


def _containers() -> list[dict[str, Any]]:
    containers: list[dict[str, Any]] = manifest("Job")["spec"]["template"]["spec"]["containers"]
    return containers


# Manifests


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_manifests_are_valid(version: str) -> None:
    kinds = set()
    for document in documents():
        kubernetes_validate.validate(document, version, strict=True)
        kinds.add(document["kind"])
    assert kinds == {"ServiceAccount", "Role", "RoleBinding", "ConfigMap", "Job"}


def test_manifests_name_each_other() -> None:
    assert {document["metadata"]["namespace"] for document in documents()} == {"ussfc"}
    account = manifest("ServiceAccount")["metadata"]
    binding = manifest("RoleBinding")
    assert binding["roleRef"]["name"] == manifest("Role")["metadata"]["name"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    ]
    pod = manifest("Job")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == account["name"]
    (config,) = (volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume)
    assert config == manifest("ConfigMap")["metadata"]["name"]
    (container,) = _containers()
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    given = Path(container["args"][container["args"].index("--cluster") + 1])
    assert str(given.parent) == mounts["cluster"]
    assert given.name in manifest("ConfigMap")["data"]
    policy = manifest("Job")["spec"]["podFailurePolicy"]["rules"]
    assert {rule["onExitCodes"]["containerName"] for rule in policy if "onExitCodes" in rule} == {
        container["name"]
    }


def test_images_are_of_this_version() -> None:
    """Client, scheduler and workers unpickle each other's tasks."""
    images = {container["image"] for container in _containers()} | {_cluster_file()["cluster"]["image"]}
    (image,) = images
    assert image.endswith(f":{PROJECT['version']}")


def test_job_is_repeatable_and_has_few_rights() -> None:
    job = manifest("Job")["spec"]
    pod = job["template"]["spec"]
    assert job["backoffLimit"] > 0
    assert pod["restartPolicy"] == "Never"  # podFailurePolicy takes no other
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = _containers()
    security = container["securityContext"]
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert {"cpu", "memory", "ephemeral-storage"} <= set(container["resources"]["requests"])
    assert {"memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
    # What the image has as home and for temporary files is the only place that can be written to.
    (scratch,) = (volume["name"] for volume in pod["volumes"] if "emptyDir" in volume)
    (place,) = (mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == scratch)
    assert f"HOME={place} " in (DEPLOY / "Containerfile").read_text("utf-8")


def test_services_do_not_become_configuration() -> None:
    """Kubernetes would set USSFC_..._SERVICE_HOST for the service of a Dask cluster called ussfc-..."""
    assert manifest("Job")["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_files_hold_no_secret() -> None:
    sensitive = re.compile(r"SECRET|TOKEN|PASSWORD|ACCESS_KEY|CONNECTION_STRING", re.IGNORECASE)
    assert "Secret" not in {document["kind"] for document in documents()}
    variables = [*_cluster_file()["cluster"]["options"]["env"], *_containers()[0].get("env", [])]
    for variable in variables:
        if sensitive.search(variable["name"]):
            assert set(variable) == {"name", "valueFrom"}
            assert set(variable["valueFrom"]) == {"secretKeyRef"}
    assert [variable for variable in variables if sensitive.search(variable["name"])]
    names = {variable["valueFrom"]["secretKeyRef"]["name"] for variable in variables}
    assert names == {source["secretRef"]["name"] for source in _containers()[0]["envFrom"]}
    for file in (path for path in DEPLOY.rglob("*") if path.is_file()):
        text = file.read_text("utf-8")
        assert not re.search(r"AKIA[0-9A-Z]{12}|BEGIN [A-Z ]*PRIVATE KEY", text), file
        assert not re.search(r"(?i)(secret_access_key|password|token)=(?!\.\.\.)\S", text), file


# What the client of the Dask operator does


def _spec() -> dict[str, Any]:
    operator = pytest.importorskip("dask_kubernetes.operator")
    cluster = _cluster_file()["cluster"]
    memory = cluster["memory"].removesuffix("B")
    resources = {"requests": {"cpu": str(cluster["threads"]), "memory": memory}, "limits": {"memory": memory}}
    made: dict[str, Any] = operator.make_cluster_spec(
        name="ussfc-test",
        image=cluster["image"],
        n_workers=1,
        resources=resources,
        env=cluster["options"]["env"],
        worker_command="dask worker",
        scheduler_service_type="LoadBalancer",
        idle_timeout=cluster["options"]["idle_timeout"],
    )
    return made


def _crd(kind: str) -> dict[str, Any]:
    """Return the schema that the operator registers for a kind."""
    charts = importlib.resources.files("dask_kubernetes").joinpath("operator/deployment/helm")
    text = charts.joinpath(f"dask-kubernetes-operator/crds/{kind}.yaml").read_text("utf-8")
    (version,) = yaml.safe_load(text)["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def test_pods_of_the_cluster_file_are_valid() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    spec = _spec()
    jsonschema.Draft7Validator(_crd("daskcluster")).validate(spec)
    # A definition like that lets unknown keys pass; the pods are checked word by word.
    for part in ("scheduler", "worker"):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": part},
            "spec": spec["spec"][part]["spec"],
        }
        kubernetes_validate.validate(pod, KUBERNETES_VERSIONS[-1], strict=True)


CLIENT = """
import json, sys
from dask_kubernetes.operator import KubeCluster
from distributed import Client

spec = json.load(sys.stdin)
with KubeCluster(custom_cluster_spec=spec, namespace="ussfc", quiet=True) as cluster, Client(cluster) as client:
    assert client.submit(sum, [1, 2]).result(timeout=30) == 3
    cluster.adapt(minimum=0, maximum=2)
    cluster.scale(2)
    assert cluster.get_logs()
"""
"""In a process of its own, which takes with it what kr8s leaves to the garbage collector."""


def test_role_allows_the_client_and_no_more(tmp_path: Path) -> None:
    spec = json.dumps(_spec())
    granted = rights(manifest("Role")["rules"])
    with run_scheduler(tmp_path / "scheduler.json") as (scheduler, dashboard_port):
        api = KubernetesApi("ussfc", granted, scheduler, dashboard_port)
        with api.serve() as address:
            kubeconfig = write_kubeconfig(tmp_path / "kubeconfig", address)
            done = subprocess.run(
                [sys.executable, "-c", CLIENT],
                env={**os.environ, "KUBECONFIG": str(kubeconfig), "NO_PROXY": "*", "no_proxy": "*"},
                input=spec,
                capture_output=True,
                text=True,
                check=False,
            )
    assert not api.forbidden, done.stderr
    assert done.returncode == 0, done.stderr
    assert api.used == granted


# The image


def _instructions() -> list[tuple[str, str]]:
    """Instructions of the Containerfile: name and the rest, continued lines joined."""
    text = (DEPLOY / "Containerfile").read_text("utf-8")
    lines = re.sub(r"\\\n\s*", "", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def _extras() -> list[str]:
    """Return the extras of an image built without a choice."""
    return dict(rest.split("=", 1) for name, rest in _instructions() if name == "ARG")["EXTRAS"].split(",")


def _copied() -> list[str]:
    return [source for name, rest in _instructions() if name == "COPY" for source in rest.split()[:-1]]


def test_containerfile_copies_all_sources() -> None:
    copied = _copied()
    assert [source for source in copied if not (ROOT / source).exists()] == []
    assert {"cli.py", "pipeline", "ussfc", "configs", "pyproject.toml", "README.md", "LICENSE"} <= set(copied)


def test_builder_gets_copied_files_alone() -> None:
    lines = (DEPLOY / "Containerfile.dockerignore").read_text("utf-8").splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*"  # .git and tests with it
    assert sorted(line[1:] for line in patterns if line.startswith("!")) == sorted(_copied())
    assert patterns[-1] == "**/__pycache__"


def test_apptainer_builds_what_the_containerfile_does() -> None:
    text = (DEPLOY / "apptainer" / "ussfc.def").read_text("utf-8")
    sections: dict[str, list[str]] = {}
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.startswith("%"):
            sections[line[1:]] = []
        elif sections and line.strip():
            sections[list(sections)[-1]].append(line.strip())
    pairs = [line.split() for line in sections["files"]]
    assert sorted(source for source, _ in pairs) == sorted(_copied())
    assert all(target == f"/usr/src/ussfc/{source}" for source, target in pairs)
    steps = [line for line in sections["post"] if "install.sh" in line]
    assert [re.sub("[{ }]", "", step) for step in steps] == [
        re.sub("[${ }]", "", step)
        for name, rest in _instructions()
        for step in rest.split(" && ")
        if name == "RUN" and "install.sh" in step
    ]
    assert f"org.opencontainers.image.version {PROJECT['version']}" in sections["labels"]
    assert f"org.opencontainers.image.licenses {PROJECT['license']}" in sections["labels"]


def test_dependencies_are_installed_before_the_code() -> None:
    steps = [(name, rest) for name, rest in _instructions() if name in ("COPY", "RUN")]
    (installed,) = (i for i, (_, rest) in enumerate(steps) if "install.sh dependencies" in rest)
    before = {source for name, rest in steps[:installed] if name == "COPY" for source in rest.split()[:-1]}
    assert before == {"deploy/install.sh", "pyproject.toml", "constraints.txt"}


def test_image_runs_without_root() -> None:
    last = dict(_instructions())
    assert last["ENTRYPOINT"] == '["ussfc"]'
    assert "ussfc" in PROJECT["scripts"]
    user = last["USER"].split(":")[0]
    assert user.isdecimal()  # a name would not do for runAsNonRoot
    assert int(user) > 0
    assert int(user) == manifest("Job")["spec"]["template"]["spec"]["securityContext"]["runAsUser"]
    assert set(_extras()) <= set(PROJECT["optional-dependencies"])


# The script that installs


def _script(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    # Not what this process has of its own environment's Python.
    kept = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        ["sh", str(DEPLOY / "install.sh"), *map(str, arguments)],
        env={**kept, "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def _publish(index: Path, name: str, version: str, requires: str | None) -> None:
    """Put the smallest wheel that pip takes into a package index, a folder."""
    folder = index / name
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    head = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    file = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", head + (f"Requires-Dist: {requires}\n" if requires else ""))
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    with (folder / "index.html").open("a", encoding="utf-8") as page:
        page.write(f'<a href="{quote(file.name)}">{file.name}</a>\n')


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Write a project, an index with its dependencies, and an index that has torch and nothing else."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["setuptools>=990"]\n'
        '[project]\nname = "small"\nversion = "1"\ndependencies = ["torch", "plain"]\n'
        "[project.optional-dependencies]\n"
        's3 = ["storage"]\ngcs = ["other"]\nazure = ["third"]\nboth = ["small[s3, gcs]"]\n'
    )
    (source / "constraints.txt").write_text("plain==1.0\ntorch==2.0\n")
    for name, version, requires in (
        ("plain", "1.0", None), ("plain", "2.0", None), ("storage", "1.0", None), ("other", "1.0", None),
        ("third", "1.0", None), ("setuptools", "999.0", None), ("cudalibraries", "1.0", None),
        ("torch", "2.0", "cudalibraries"),
    ):  # fmt: skip
        _publish(tmp_path / "usual", name, version, requires)
    _publish(tmp_path / "own", "torch", "2.0+cpu", "plain")
    _publish(tmp_path / "own", "torch", "3.0+cpu", None)
    return tmp_path


@pytest.mark.parametrize(
    ("own_index", "extras", "expected"),
    [
        pytest.param(True, "azure", {"torch-2.0+cpu", "third-1.0"}, marks=pytest.mark.soak),
        (False, "both", {"torch-2.0", "cudalibraries-1.0", "storage-1.0", "other-1.0"}),
    ],
)
def test_dependencies_follow_constraints_and_extras(
    small: Path, own_index: bool, extras: str, expected: set[str]
) -> None:
    target = small / "target"
    done = _script(
        *("dependencies", small / "source", target),
        PIP_CONFIG_FILE=os.devnull,
        PIP_FIND_LINKS="",
        PIP_INDEX_URL=(small / "usual").as_uri(),
        PIP_NO_COMPILE="1",
        EXTRAS=extras,
        TORCH_INDEX=(small / "own").as_uri() if own_index else "",
    )
    assert done.returncode == 0, done.stderr
    found = {path.name.removesuffix(".dist-info") for path in target.glob("lib/*/site-packages/*.dist-info")}
    assert {name for name in found if not name.startswith("pip-")} == expected | {
        "plain-1.0",
        "setuptools-999.0",
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "step '' not known; expected: system, dependencies or program"),
        (["everything"], "step everything not known"),
        (["dependencies", "SOURCE"], "expected: install.sh dependencies SOURCE TARGET"),
        (["dependencies", "SOURCE", "TARGET"], "extra 'gpu' not found"),
        (["program", "SOURCE", "TARGET"], "no virtual environment; run the step dependencies first"),
    ],
)
def test_wrong_use_of_the_script_leaves_nothing(small: Path, arguments: list[str], message: str) -> None:
    places = {"SOURCE": small / "source", "TARGET": small / "target"}
    done = _script(*(places.get(word, word) for word in arguments), EXTRAS="s3,gpu")
    assert done.returncode != 0
    assert message in done.stderr
    assert not (small / "target").exists()


@pytest.mark.soak
def test_program_is_installed_without_a_download(tmp_path: Path) -> None:
    target = tmp_path / "target"
    venv.create(target, with_pip=True)
    # The libraries of this very environment stand for the step dependencies, which takes minutes.
    subprocess.run([target / "bin/pip", "uninstall", "-q", "-y", "setuptools"], check=True)
    (site,) = target.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    source = _sources(tmp_path / "source")
    done = _script("program", source, target, PIP_CONFIG_FILE=os.devnull)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(source)
    _check_program([str(target / "bin" / "ussfc")], tmp_path)
    where = subprocess.run(
        [target / "bin" / "python", "-c", "import ussfc.cli, ussfc.configs, ussfc.pipeline; print(ussfc.cli.__file__)"],
        cwd=tmp_path, env=_clean(tmp_path), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(where.stdout.strip()).parent == site / "ussfc"


def _sources(folder: Path) -> Path:
    """Copy the files of the Containerfile as they lie in the image."""
    for source in _copied():
        place = folder / source
        place.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, place)
    return folder


def _clean(home: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(home)}


def _check_program(command: list[str], folder: Path, environment: Mapping[str, str] | None = None) -> None:
    for arguments, text in ((["--version"], PROJECT["version"]), (["models", "list"], "ussfc-s2-rgb")):
        shown = subprocess.run(
            [*command, *arguments],
            cwd=folder,
            env=environment or _clean(folder),
            capture_output=True,
            text=True,
            check=False,
        )
        assert shown.returncode == 0, shown.stderr
        assert text in shown.stdout


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the smallest Debian."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip("needs root and debootstrap")
    root = tmp_path_factory.mktemp("debian")
    subprocess.run(["debootstrap", "--variant=minbase", BARE, str(root)], check=True, capture_output=True)
    root.chmod(0o755)  # pytest's folders are the user's alone, and this one becomes everybody's /
    (root / "etc/pip.conf").write_text("[global]\nno-index = true\nfind-links = /wheels\n")
    return root


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fetch every dependency for that Debian's Python, as this machine fetches its own."""
    folder = tmp_path_factory.mktemp("wheels")
    requirements = [*PROJECT["dependencies"], *LOADED["build-system"]["requires"]]
    requirements += [line for extra in _extras() for line in PROJECT["optional-dependencies"][extra]]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "-c", "constraints.txt", "--only-binary=:all:",
         f"--python-version={BARE_PYTHON}", "-d", str(folder), *requirements],
        cwd=ROOT, check=True, timeout=INSTALL_SECONDS,
    )  # fmt: skip
    return folder


@pytest.mark.soak
def test_script_installs_on_a_bare_debian(bare: Path, wheels: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    subprocess.run(["cp", "-a", str(bare), str(root)], check=True)
    _sources(root / "usr/src/ussfc")
    (root / "wheels").mkdir()
    mounted = (
        f'mount -t proc proc "{root}/proc" && mount --bind "{wheels}" "{root}/wheels" && exec chroot "$@"'
    )

    def inside(*arguments: str, user: str = "0:0") -> list[str]:
        chroot = [f"--userspec={user}", str(root), "/usr/bin/env", "-i"]
        environment = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/tmp", f"EXTRAS={','.join(_extras())}"]
        return ["unshare", "--mount", "sh", "-c", mounted, "sh", *chroot, *environment, *arguments]

    for step in (
        ["system"],
        ["dependencies", "/usr/src/ussfc", "/opt/ussfc"],
        ["program", "/usr/src/ussfc", "/opt/ussfc"],
    ):
        command = inside("/usr/src/ussfc/deploy/install.sh", *step)
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS)
        assert done.returncode == 0, (step, done.stdout, done.stderr)
    shutil.rmtree(root / "usr/src/ussfc")
    _check_program(inside("/opt/ussfc/bin/ussfc", user="65534:65534"), Path("/"), os.environ)
    assert not [tool for tool in ("gcc", "cc", "g++", "make") if (root / "usr/bin" / tool).exists()]


@pytest.mark.soak
def test_containerfile_builds_an_image_that_runs(bare: Path, wheels: Path, tmp_path: Path) -> None:
    if shutil.which("buildah") is None:
        pytest.skip("needs buildah")
    store = ["--storage-driver=vfs", f"--root={tmp_path}/store", f"--runroot={tmp_path}/run"]

    def buildah(*arguments: str) -> str:
        done = subprocess.run(
            ["buildah", *store, *arguments], cwd=ROOT, capture_output=True, text=True, check=False,
            timeout=INSTALL_SECONDS,
        )  # fmt: skip
        assert done.returncode == 0, (arguments, done.stdout, done.stderr)
        return done.stdout.strip()

    base = buildah("from", "scratch")
    buildah("add", "-q", base, str(bare), "/")
    buildah("commit", "-q", base, "localhost/base:1")
    buildah(
        *("bud", "--isolation=chroot", "-f", "deploy/Containerfile", "-t", "localhost/ussfc:1"),
        *("--build-arg=BASE=localhost/base:1", f"--volume={wheels}:/wheels:ro"),
        ".",
    )
    made = buildah("from", "localhost/ussfc:1")
    run = ["buildah", *store, "run", "--isolation=chroot", made, "--"]
    _check_program([*run, "ussfc"], tmp_path, os.environ)
    shown = buildah("run", "--isolation=chroot", made, "--", "sh", "-c", "id -u; ls /usr/src; dask --version")
    assert shown.splitlines()[0] == "10001"
    assert "ussfc" not in shown
    assert buildah("inspect", "--format", "{{.OCIv1.Config.Entrypoint}}", made) == "[ussfc]"
    assert buildah("inspect", "--format", "{{.OCIv1.Config.StopSignal}}", made) == "SIGINT"
