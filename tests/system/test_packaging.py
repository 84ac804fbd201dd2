"""The installed package: the wheel's content, neighbours with the same names, the lock file, the version."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import ussfc
from tests.support.paths import ROOT

SOURCES = ("cli.py", "pipeline", "ussfc", "configs", "pyproject.toml", "README.md", "LICENSE")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
UNLOCKED_EXTRAS = {"cuda"}


def tracked_files() -> list[str]:
    """List the files of the sources that git tracks, relative to the repository's root.

    A wheel is built from these alone, so a file that a GIS or an editor left in the checkout changes nothing.
    """
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--", *SOURCES], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("needs a git checkout: which files belong to the project is known to git alone")
    names = (name for name in listed.stdout.split("\0") if name)
    # Links to folders are tracked as well: pipeline and configs as parts of ussfc.
    return [name for name in names if (ROOT / name).is_file() or (ROOT / name).is_symlink()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.Path:
    """Build a wheel of the sources alone: neither an old `build` folder nor the checkout's other files can help."""
    tree = tmp_path_factory.mktemp("tree")
    for name in tracked_files():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tree / name, follow_symlinks=False)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist", "."],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (file,) = (tree / "dist").glob("*.whl")
    return zipfile.Path(file)


def _files(wheel: zipfile.Path) -> set[str]:
    return {name for name in wheel.root.namelist() if not name.endswith("/")}


def _dist_info(wheel: zipfile.Path) -> zipfile.Path:
    return wheel / f"ussfc-{PROJECT['version']}.dist-info"


def test_wheel_carries_the_sources_alone(wheel: zipfile.Path) -> None:
    links = {link.name for link in (ROOT / "ussfc").iterdir() if link.is_symlink()}
    expected = {
        name if name.startswith("ussfc/") else f"ussfc/{name}"
        for name in tracked_files()
        if name not in {"pyproject.toml", "README.md", "LICENSE", *(f"ussfc/{link}" for link in links)}
    }
    carried = {name for name in _files(wheel) if not name.startswith("ussfc-")}
    assert carried == expected


@pytest.mark.parametrize(
    "pattern",
    [
        r"ussfc/pipeline/runs/run\.py",
        r"ussfc/network\.py",
        r"ussfc/configs/default\.yaml",
        r"ussfc/configs/models/ussfc-s2-rgb\.yaml",
        r"ussfc/configs/models/ussfc-s2-rgb\.safetensors",
        r"ussfc/configs/models/ussfc-s2-rgb\.int8\.json",
        r"ussfc/configs/demo/\w*before\w*\.tif",
        r"ussfc/configs/demo/\w*after\w*\.tif",
        r"ussfc/configs/models/LICENSE\.txt",
        r"ussfc-[\d.]+\.dist-info/licenses/LICENSE",
    ],
)
def test_wheel_carries_what_a_run_needs(wheel: zipfile.Path, pattern: str) -> None:
    assert [name for name in _files(wheel) if re.fullmatch(pattern, name)]


def test_wheel_has_the_console_script(wheel: zipfile.Path) -> None:
    scripts = configparser.ConfigParser()
    scripts.read_string((_dist_info(wheel) / "entry_points.txt").read_text(encoding="utf-8"))
    assert dict(scripts["console_scripts"]) == {"ussfc": "ussfc.cli:main"}


def test_wheel_runs_away_from_the_checkout(wheel: zipfile.Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    wheel.root.extractall(site)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from ussfc import cli\n"
        "assert cli.__file__.startswith(sys.argv[1]); "
        "cli.main(['models', 'show', 'ussfc-s2-rgb'])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", code, str(site)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert shown.returncode == 0, shown.stderr
    assert "ussfc-s2-rgb" in shown.stdout


NEIGHBOUR = ("cli", "pipeline", "configs")
"""Top-level names of another distribution, and of the folders of this repository."""


@pytest.fixture(scope="module")
def neighbour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the wheel of a distribution that installs modules with the names of this repository's folders."""
    file = tmp_path_factory.mktemp("neighbour") / "neighbour-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        for name in ("cli.py", "pipeline/__init__.py", "configs/__init__.py"):
            wheel.writestr(name, "OWNER = 'neighbour'\n")
        info = "neighbour-1.0.dist-info"
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: neighbour\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return file


@pytest.fixture(scope="module")
def project_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with modules of the same names that must not be imported."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("cli.py", "pipeline/__init__.py", "configs/__init__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(f"raise SystemExit('imported {name} of the working directory')\n", "utf-8")
    return folder


def _installed(folder: Path, *wheels: Path) -> Path:
    """Install wheels one after the other into a fresh environment, and return its folder of programs."""
    venv.create(folder, with_pip=False)
    programs = folder / "bin"
    for file in wheels:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "-q", "--no-deps",
             "--no-index", "--no-compile", str(file)],
            cwd=folder, env=_environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    # The libraries of this very environment. Only now: pip would find this project among them.
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"), "utf-8")
    return programs


def _environment(**variables: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **variables}


def _output(command: list[str], folder: Path, **variables: str) -> str:
    done = subprocess.run(
        command, cwd=folder, env=_environment(**variables), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.soak
@pytest.mark.parametrize("first", ["ours", "neighbour"])
def test_neighbours_with_our_names_live_on(
    wheel: zipfile.Path, neighbour: Path, project_folder: Path, tmp_path: Path, first: str
) -> None:
    ours = Path(str(wheel.root.filename))
    wheels = (ours, neighbour) if first == "ours" else (neighbour, ours)
    programs = _installed(tmp_path / "environment", *wheels)
    python, ussfc = str(programs / "python"), str(programs / "ussfc")
    for folder, variables in ((tmp_path, {}), (project_folder, {"PYTHONPATH": "."})):
        assert "Change detection for two images" in _output([ussfc, "--help"], folder, **variables)
        assert _output([ussfc, "models", "list"], folder, **variables).startswith("ussfc-s2-rgb")
        code = "import ussfc; from ussfc import detect_changes, load_config, run; print(ussfc.__file__)"
        found = _output([python, "-c", code], folder, **variables)
        assert Path(found.strip()).is_relative_to(tmp_path / "environment")
    for name in NEIGHBOUR:
        assert _output([python, "-c", f"import {name}; print({name}.OWNER)"], tmp_path) == "neighbour\n"


def test_only_ussfc_is_installed_at_the_top(wheel: zipfile.Path, tmp_path: Path) -> None:
    python = _installed(tmp_path / "environment", Path(str(wheel.root.filename))) / "python"
    code = "import importlib.util, sys; print([n for n in sys.argv[1:] if importlib.util.find_spec(n)])"
    assert _output([str(python), "-c", code, "ussfc", *NEIGHBOUR], tmp_path) == "['ussfc']\n"


def test_version_is_the_same_everywhere(wheel: zipfile.Path) -> None:
    metadata = Parser().parsestr((_dist_info(wheel) / "METADATA").read_text(encoding="utf-8"))
    assert metadata["Version"] == PROJECT["version"]
    headings = re.findall(
        r"^## \[(\d[^\]]*)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert headings[0] == PROJECT["version"]


def test_description_leads_to_nothing_outside_of_the_package(wheel: zipfile.Path) -> None:
    metadata = Parser().parsestr((_dist_info(wheel) / "METADATA").read_text(encoding="utf-8"))
    targets = re.findall(r"\]\(([^)]+)\)", metadata.get_payload())
    assert targets
    assert all(target.startswith("https://") for target in targets)
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_citation_is_of_this_version_and_names_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["version"] == PROJECT["version"]
    assert " AND ".join(citation["license"]) == PROJECT["license"]
    assert [each["name"] for each in citation["authors"]] == [each["name"] for each in PROJECT["authors"]]
    assert "10.1109/TGRS.2023.3261273" in [each["doi"] for each in citation["references"]]


def test_licences_of_weights_and_imagery_are_stated(wheel: zipfile.Path) -> None:
    info = _dist_info(wheel)
    metadata = Parser().parsestr((info / "METADATA").read_text(encoding="utf-8"))
    assert metadata["License-Expression"] == "Apache-2.0 AND CC-BY-NC-SA-4.0 AND CC-BY-4.0"
    texts = {
        name: (info / "licenses" / name).read_text(encoding="utf-8")
        for name in metadata.get_all("License-File", [])
    }
    assert "Apache License" in texts["LICENSE"]
    weights = {
        "CC-BY-NC-SA-4.0": texts["configs/models/LICENSE.txt"],
        "CC-BY-4.0": texts["configs/models/LICENSE-vhr.txt"],
    }
    assert "Attribution-NonCommercial-ShareAlike 4.0 International" in weights["CC-BY-NC-SA-4.0"]
    assert "https://creativecommons.org/licenses/by/4.0/legalcode" in weights["CC-BY-4.0"]
    assert "Copernicus Sentinel data" in texts["configs/demo/SOURCE.txt"]
    # Every file of weights is named there, and its card agrees.
    for name in ussfc.list_models():
        card = ussfc.find_model(name)
        assert card.licence is not None
        assert card.weights.uri in weights[card.licence.weights.replace(" ", "-")]


def _locked() -> dict[str, Version]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert pins == sorted(pins)
    for pin in pins:
        assert re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin), pin
    return {name: Version(version) for name, version in (pin.split("==") for pin in pins)}


CONDA_NAMES = {
    "dask": "dask-core",
    "isal": "python-isal",
    "matplotlib": "matplotlib-base",
    "torch": "pytorch",
}
"""Names of packages that differ on conda-forge."""


def test_conda_recipe_has_the_dependencies_of_the_package() -> None:
    recipe = yaml.safe_load((ROOT / "deploy" / "conda" / "recipe.yaml").read_text("utf-8"))
    expected = []
    for line in PROJECT["dependencies"]:
        requirement = Requirement(line)
        expected.append(f"{CONDA_NAMES.get(requirement.name, requirement.name)} {requirement.specifier}")
    assert recipe["requirements"]["run"] == ["python >=${{ python_min }}", *expected]
    assert recipe["context"]["version"] == PROJECT["version"]
    about = recipe["about"]
    assert (about["summary"], about["license"], about["license_file"]) == (
        PROJECT["description"],
        PROJECT["license"],
        PROJECT["license-files"],
    )
    scripts = [f"{name} = {target}" for name, target in PROJECT["scripts"].items()]
    assert recipe["build"]["python"]["entry_points"] == scripts


@pytest.mark.parametrize("extra", [None, *(extra for extra in EXTRAS if extra not in UNLOCKED_EXTRAS)])
def test_dependencies_are_locked_within_bounds(extra: str | None) -> None:
    locked = _locked()
    for line in PROJECT["dependencies"] if extra is None else EXTRAS[extra]:
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        if name == PROJECT["name"]:
            assert requirement.extras <= set(EXTRAS)
            continue
        assert name in locked, f"constraints.txt does not lock {name}"
        assert requirement.specifier.contains(locked[name]), f"{line}, but {locked[name]} is locked"
