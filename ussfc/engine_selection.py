"""Selection of the engine and precision that a machine computes a network fastest with, measured once and kept."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Protocol, TypeVar

import numpy as np

from ussfc.cores import has_cuda_driver
from ussfc.engines import FloatArray
from ussfc.errors import ModelError
from ussfc.local_files import replace_file, users_cache

Choice = tuple[str, str]
"""Engine and precision."""

CUDA_ORDER: tuple[Choice, ...] = (("triton", "float16"), ("torch", "float16"), ("torch", "float32"))
"""Choices on a CUDA device from the fastest to the slowest: factors apart on every one measured."""

TIMED_BATCHES = 2
"""Batches that are timed, after one that warms up; the best counts."""

ANYWHERE: Mapping[str, tuple[Choice, ...]] = {
    "cpu": (("openvino", "float32"), ("torch", "float32"), ("openvino", "bfloat16")),
    "cuda": (("torch", "float16"), ("torch", "float32")),
}
"""Choices that every machine with such a device has, the fastest first."""


class Predictor(Protocol):
    """A detector, as far as its speed is concerned."""

    @property
    def bands(self) -> int:
        """Bands of each date."""

    @property
    def patch_size(self) -> int:
        """Side of a patch, pixels."""

    @property
    def batch_size(self) -> int:
        """Patches per call."""

    def predict(self, before: FloatArray, after: FloatArray) -> FloatArray:
        """Compute ``(batch_size, patch_size, patch_size)`` from two ``(batch_size, bands, patch_size, patch_size)``."""


class Candidate(Protocol):
    """A spec of a detector, see :class:`ussfc.detector.DetectorSpec`."""

    @property
    def engine(self) -> str:
        """Name of the engine."""

    @property
    def precision(self) -> str:
        """Name of the precision."""

    @property
    def device(self) -> str:
        """``cpu`` or ``cuda``."""

    @property
    def speed_key(self) -> str:
        """Text that names everything that decides the speed on one machine."""

    def build(self, streams: int | None = None) -> Predictor:
        """Return the detector, for so many calls at the same time.

        Raises:
            ModelError: this machine cannot build it.
        """


AnyCandidate = TypeVar("AnyCandidate", bound=Candidate)


def choice_of(candidate: Candidate) -> Choice:
    """Return engine and precision of a candidate."""
    return candidate.engine, candidate.precision


def anywhere(candidates: Sequence[AnyCandidate]) -> AnyCandidate:
    """Return the fastest candidate of those that any machine with such a device can build.

    Args:
        candidates: at least one, all of one device; where no machine is sure to have any, the first is taken.
    """
    known = {choice_of(candidate): candidate for candidate in candidates}
    order = ANYWHERE[candidates[0].device]
    return next((known[choice] for choice in order if choice in known), candidates[0])


def seconds_per_batch(detector: Predictor, clock: Callable[[], float] = perf_counter) -> float:
    """Measure how long a detector takes for a batch: the best of :data:`TIMED_BATCHES` after one that warms up."""
    shape = (detector.batch_size, detector.bands, detector.patch_size, detector.patch_size)
    pair = np.random.default_rng(0).random((2, *shape), np.float32)
    times = []
    for _ in range(TIMED_BATCHES + 1):
        start = clock()
        detector.predict(*pair)
        times.append(clock() - start)
    return min(times[1:])


def patches_per_second(candidate: Candidate, calls: int, clock: Callable[[], float] = perf_counter) -> float:
    """Measure how many patches this machine computes a second: the best of :data:`TIMED_BATCHES` rounds after one more.

    Args:
        candidate: what computes them.
        calls: calls at the same time, each of a batch; as many as a run makes.
        clock: returns seconds.

    Raises:
        ModelError: this machine cannot build it.
    """
    detector = candidate.build(streams=calls)
    shape = (detector.batch_size, detector.bands, detector.patch_size, detector.patch_size)
    before, after = np.random.default_rng(0).random((2, *shape), np.float32)
    times = []
    with ThreadPoolExecutor(calls, "ussfc-measure") as threads:
        for _ in range(TIMED_BATCHES + 1):
            start = clock()
            rounds = [threads.submit(detector.predict, before, after) for _ in range(calls)]
            for each in rounds:
                each.result()
            times.append(clock() - start)
    return calls * detector.batch_size / min(times[1:])


def fastest(
    candidates: Sequence[AnyCandidate],
    *,
    measure: Callable[[Predictor], float] = seconds_per_batch,
    cache: EngineCache | None = None,
) -> AnyCandidate:
    """Return the fastest candidate of those that this machine can build.

    On a CPU each computes a few patches, about a second in all; on CUDA the order is known. The choice is kept in the
    cache, for this processor, these versions and a network of this shape.

    Args:
        candidates: at least one; they differ in engine and precision alone.
        measure: returns the seconds that a detector takes for a batch.
        cache: earlier choices; None: the user's, see :class:`EngineCache`.

    Raises:
        ModelError: none can be built; the message is that of the last.
    """
    cache = cache or EngineCache()
    by_choice = {choice_of(candidate): candidate for candidate in candidates}
    known = cache.get(candidates)
    if known in by_choice:
        return by_choice[known]
    error: ModelError | None = None
    seconds: dict[Choice, float] = {}
    lasting = True
    for candidate in sorted(candidates, key=_preference):
        on_cpu = candidate.device == "cpu"
        try:
            # One stream: several would measure how much of the machine other programs leave.
            detector = candidate.build(streams=1)
        except ModelError as found:
            error = found
            # A GPU without room or compiler today may have it tomorrow; a processor learns no instructions.
            lasting = on_cpu
            continue
        seconds[choice_of(candidate)] = measure(detector) if on_cpu else 0.0
        # One at a time: two would be twice the memory.
        del detector
        if not on_cpu:
            break
    if not seconds:
        assert error is not None
        raise error
    choice = min(seconds, key=lambda each: seconds[each])
    if lasting:
        cache.put(candidates, choice)
    return by_choice[choice]


def _preference(candidate: Candidate) -> int:
    choice = choice_of(candidate)
    return CUDA_ORDER.index(choice) if choice in CUDA_ORDER else len(CUDA_ORDER)


class EngineCache:
    """Choices that earlier processes measured, in a JSON file that processes and releases share.

    Args:
        file: the file; None: ``ussfc/engines.json`` under ``XDG_CACHE_HOME`` or ``~/.cache``.
        processor: facts that distinguish this processor, and its GPU, from others; None: found here.
        release: version of ussfc; None: the installed one.
    """

    def __init__(
        self, file: Path | None = None, processor: Sequence[str] | None = None, release: str | None = None
    ) -> None:
        self._file = file or _users_file()
        self._processor = list(processor) if processor is not None else _processor()
        self._release = release or version("ussfc")

    def get(self, candidates: Sequence[Candidate]) -> Choice | None:
        """Return the choice among these candidates; None: there is none yet."""
        found = self._content().get(self._key(candidates))
        return (str(found[0]), str(found[1])) if isinstance(found, list) and len(found) == 2 else None

    def put(self, candidates: Sequence[Candidate], choice: Choice) -> None:
        """Keep the choice among these candidates, if the file can be written."""
        # A machine without a home that can be written measures every time.
        with suppress(OSError):
            if self._file is None:
                return
            self._file.parent.mkdir(parents=True, exist_ok=True)
            content = {**self._content(), self._key(candidates): list(choice)}
            replace_file(self._file, json.dumps(content).encode())

    def _key(self, candidates: Sequence[Candidate]) -> str:
        speeds = sorted(candidate.speed_key for candidate in candidates)
        facts = json.dumps([self._processor, self._release, speeds])
        return hashlib.sha256(facts.encode()).hexdigest()[:16]

    def _content(self) -> dict[str, list[str]]:
        # Missing, unreadable or torn: the choice is measured again.
        with suppress(OSError, ValueError):
            found = json.loads(self._file.read_text()) if self._file else None
            if isinstance(found, dict):
                return found
        return {}


def engine_was_chosen() -> bool:
    """Return True if this machine's user has a choice of an engine from an earlier process, for whatever network."""
    file = _users_file()
    return file is not None and file.exists()


def _users_file() -> Path | None:
    """Return the file in the user's cache; None: the user has no home."""
    cache = users_cache()
    return cache and cache / "engines.json"


def _processor() -> list[str]:
    """Return facts that distinguish this processor, and its GPU if there is one, from others."""
    facts = cpu_facts()
    if not has_cuda_driver():
        return facts
    import torch

    if torch.cuda.is_available():
        facts.append(torch.cuda.get_device_name())
    return facts


def cpu_facts() -> list[str]:
    """Return facts that distinguish this processor from others; torch is not loaded."""
    facts = [platform.machine()]
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "flags", "Features")):
                facts.append(line)
            if not line:
                break
    return facts
