"""Graphs of networks that earlier processes folded, in files that processes share.

A worker that finds its graph there does not load torch, which takes two to three seconds of a processor and 200 MB.
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ussfc.local_files import open_regular, replace_file, users_cache

if TYPE_CHECKING:
    from ussfc.engines.openvino_runtime import openvino

MOST_FILES = 16
"""Graphs that are kept, about 9 MB each; the ones written first make room."""

FORMAT = b"ussfc graph 1\n"
"""First bytes of a file, before the digest of the rest."""

_DIGEST = hashlib.sha256().digest_size


class GraphCache:
    """Graphs by the facts that decide them.

    A file that is damaged, cut short or of another format counts as missing. A folder that cannot be written keeps
    nothing.

    Args:
        folder: None: ``ussfc/graphs`` under ``XDG_CACHE_HOME`` or ``~/.cache``.
    """

    def __init__(self, folder: Path | None = None) -> None:
        cache = users_cache()
        self._folder = folder or (cache and cache / "graphs")

    def get(self, facts: str) -> openvino.Model | None:
        """Return the graph of these facts; None: it is not there."""
        if self._folder is None:
            return None
        try:
            with open_regular(self._file(self._folder, facts)) as file:
                content = file.read()
        except OSError:
            return None
        start = len(FORMAT) + _DIGEST
        body = content[start:]
        if content[:start] != FORMAT + hashlib.sha256(body).digest():
            return None
        try:
            return _parsed(body)
        except RuntimeError:
            return None

    def put(self, facts: str, model: openvino.Model) -> None:
        """Keep a graph, if the folder can be written."""
        if self._folder is None:
            return
        # OpenVINO reports a full disk as a RuntimeError, or cuts the file short: it is read before it is kept.
        with suppress(OSError, RuntimeError):
            body = _serialised(model)
            _parsed(body)
            content = FORMAT + hashlib.sha256(body).digest() + body
            self._folder.mkdir(parents=True, exist_ok=True)
            replace_file(self._file(self._folder, facts), content)
            self._make_room()

    def _make_room(self) -> None:
        assert self._folder is not None
        known = sorted(self._ages(self._folder), reverse=True)
        for _, path in known[MOST_FILES:]:
            path.unlink(missing_ok=True)

    @staticmethod
    def _ages(folder: Path) -> Iterator[tuple[float, Path]]:
        # Parts of processes that were killed as well.
        for path in folder.iterdir():
            with suppress(OSError):
                yield path.stat().st_mtime, path

    @staticmethod
    def _file(folder: Path, facts: str) -> Path:
        return folder / f"{hashlib.sha256(facts.encode()).hexdigest()[:32]}.graph"


@functools.cache
def code_digest() -> str:
    """Return the digest of the code that folds a network and builds its graph; another one builds another graph."""
    package = Path(__file__).parents[1]
    names = "network.py", "layers.py", "folded.py", "weights.py", "engines/openvino_graph.py"
    return hashlib.sha256(b"".join((package / name).read_bytes() for name in names)).hexdigest()


def _serialised(model: openvino.Model) -> bytes:
    """Return length and bytes of the description, and the constants behind them."""
    from ussfc.engines.openvino_runtime import openvino

    with tempfile.TemporaryDirectory(prefix="ussfc-graph-") as folder:
        description = Path(folder) / "graph.xml"
        # Constants of half the size would not give the bytes of a graph that was just built.
        openvino.save_model(model, description, compress_to_fp16=False)
        text = description.read_bytes()
        return len(text).to_bytes(8, "little") + text + description.with_suffix(".bin").read_bytes()


def _parsed(body: bytes) -> openvino.Model:
    from ussfc.engines.openvino_engine import core

    length = int.from_bytes(body[:8], "little")
    return core().read_model(body[8 : 8 + length], body[8 + length :])
