"""The package itself: public names, and the environment after its import."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import ussfc
from tests.support.paths import ROOT
from ussfc.spec import Band


def test_public_names_are_all_there() -> None:
    for name in set(ussfc.__all__) - {"__version__"}:
        assert getattr(ussfc, name).__name__ == name
    assert set(ussfc.__all__) <= set(dir(ussfc))
    with pytest.raises(AttributeError, match="nothing"):
        _ = ussfc.nothing


def openmp_settings(code: str, **environment: str) -> dict[str, str]:
    """Return the settings that torch's OpenMP library lists in a new process after ``code``, by name.

    The library is loaded by itself, which takes a hundredth of the time of ``import torch``.
    """
    spec = find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    libraries = list((Path(spec.origin).parent / "lib").glob("libgomp*.so*"))
    if not libraries:
        pytest.skip("this build of PyTorch brings no libgomp")
    load = f"import ctypes, sys; assert 'torch' not in sys.modules; ctypes.CDLL({str(libraries[0])!r})"
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))
    }
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; {load}"],
        env=inherited | {"OMP_DISPLAY_ENV": "VERBOSE", "PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (line.partition("=") for line in done.stderr.splitlines() if "=" in line)
    return {name.split()[-1]: value.strip(" '") for name, _, value in lines}


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import ussfc", id="Python"),
        pytest.param("from ussfc.cli import main", id="command line"),
        # A Dask worker first meets the package in the tasks that it unpickles.
        pytest.param(f"import pickle; pickle.loads({pickle.dumps(Band(name='red'))!r})", id="worker"),
    ],
)
def test_waiting_threads_sleep(code: str) -> None:
    found = openmp_settings(code)
    assert (found["OMP_WAIT_POLICY"], found["GOMP_SPINCOUNT"]) == ("PASSIVE", "0")


@pytest.mark.parametrize(("name", "value"), [("OMP_WAIT_POLICY", "ACTIVE"), ("GOMP_SPINCOUNT", "77")])
def test_users_wait_policy_wins(name: str, value: str) -> None:
    assert openmp_settings("import ussfc", **{name: value})[name] == value


def test_import_sets_one_variable() -> None:
    code = "import os; before = dict(os.environ); import ussfc; print(os.environ.items() - before.items())"
    inherited = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "{('OMP_WAIT_POLICY', 'PASSIVE')}"
