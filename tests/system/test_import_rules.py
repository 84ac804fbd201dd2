"""Import rules: the contracts of pyproject.toml, and those of cli.py that they cannot hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

HEAVY = ("torch", "numpy", "rasterio", "dask", "distributed", "geopandas", "zarr", "xarray", "scipy", "odc")
COMMAND_LINE = {"click", "rich", "yaml", "ussfc"}


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def _imports(source: Path) -> Iterator[tuple[str, str]]:
    """(module, name) of every import of a file, also inside functions; name is empty for `import module`."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, f"{source}: relative import"
            for alias in node.names:
                yield node.module, alias.name


def test_import_contracts_are_kept() -> None:
    result = _python(
        "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_command_line_uses_public_names_alone() -> None:
    for module, name in _imports(ROOT / "cli.py"):
        top = module.partition(".")[0]
        assert top in COMMAND_LINE or top in sys.stdlib_module_names, f"cli.py imports {module}"
        assert top in sys.stdlib_module_names or not any(
            part.startswith("_") for part in (*module.split("."), name)
        ), f"cli.py imports {module} {name}, which is private"


@pytest.mark.parametrize(
    "code",
    [
        pytest.param("import ussfc.cli", id="import"),
        pytest.param("from ussfc import cli; cli.main(['--help'], standalone_mode=False)", id="help"),
        pytest.param(
            "from ussfc import cli; cli.main(['run', '--help'], standalone_mode=False)", id="help of run"
        ),
    ],
)
def test_command_line_starts_light(code: str) -> None:
    result = _python(f"import sys; {code}; print(*sorted(sys.modules), file=sys.stderr)")
    assert result.returncode == 0, result.stderr
    assert "click" in result.stderr.split()
    assert [name for name in HEAVY if name in result.stderr.split()] == []
