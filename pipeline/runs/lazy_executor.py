"""The executor of a run: started when it is first needed, for tiles and products alike."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from ussfc.pipeline.events import Subscriber
from ussfc.pipeline.execution.worker_cache import PROCESS_CACHE
from ussfc.pipeline.parallel.backoff import Backoff
from ussfc.pipeline.runs.detector import resolve_detector
from ussfc.pipeline.runs.plan import RunPlan
from ussfc.pipeline.runs.stages import scratch_folder
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.run_name import STARTING
from ussfc.pipeline.types import DetectorSpec

if TYPE_CHECKING:
    from ussfc.pipeline.execution.executor import Executor
    from ussfc.pipeline.runs.infer import Computation

Answer = TypeVar("Answer")


class LazyExecutor:
    """The executor of a run, for its tiles and its products: started when first needed, closed with the stack."""

    def __init__(
        self,
        plan: RunPlan,
        out: Folder,
        subscriber: Subscriber,
        computation: Computation,
        stack: ExitStack,
    ) -> None:
        """Start nothing yet.

        Args:
            plan: of the run.
            out: output folder.
            subscriber: receives the events.
            computation: how the tiles are computed.
            stack: ends the workers.
        """
        self._plan = plan
        self._out = out
        self.subscriber = subscriber
        self.computation = computation
        self._stack = stack
        self._detector: DetectorSpec | None = None

    @cached_property
    def executor(self) -> Executor:
        """The executor of the plan."""
        from ussfc.pipeline.execution.dask_executor import DaskExecutor

        if self.computation.executor_of is not None:
            return self.computation.executor_of(self._plan)
        scratch = self._stack.enter_context(scratch_folder(self._out, self._plan.config, layout.DASK_SCRATCH))
        made = executor_for(self._plan, scratch, self.subscriber, self.computation.fail_fast)
        return self._stack.enter_context(made) if isinstance(made, DaskExecutor) else made

    def started(self) -> Executor | None:
        """Return the executor whose tiles had squares of the products made in passing; None where none were.

        It is not started for squares alone.
        """
        started: Executor | None = vars(self).get("executor")
        return started if self._plan.makes_squares else None

    def build_ahead(self) -> None:
        """Choose the detector of this process, and build it on a thread while the scenes are looked at."""
        if self._plan.cluster is None and self.computation.executor_of is None:
            # Chosen before: where engines have to be measured first, nothing else may want the cores.
            self._detector = resolve_detector(self._plan, self.computation.detector)
            threads = ThreadPoolExecutor(1, "ussfc-detector")
            self._stack.callback(threads.shutdown)
            # What is wrong with it is reported with the first tile.
            threads.submit(PROCESS_CACHE.detector, self._detector)

    def resolve_detector(self, begun: str | None) -> DetectorSpec:
        """Return the detector of the run; see :func:`ussfc.pipeline.runs.detector.resolve_detector`."""
        if self._detector is not None and begun is None:
            return self._detector
        ask = self.ask if begun is None else None
        return resolve_detector(self._plan, self.computation.detector, begun, ask)

    def ask(self, function: Callable[..., Answer], *args: object) -> list[Answer]:
        """Return a function's answer on each worker that is there."""
        work = self._out / layout.WORK
        if work.find_json(layout.RUN_KEY) is None and not self._out.exists(layout.MANIFEST):
            # Workers may be hours in a queue: the folder is known as ours meanwhile. A finished run, which may have no
            # key any more, is guarded by its manifest.
            work.write_record(layout.RUN_KEY, STARTING)
        return self.executor.ask(function, *args)


def executor_for(
    plan: RunPlan,
    scratch: Path,
    subscriber: Subscriber,
    fail_fast: bool,
    stop: threading.Event | None = None,
) -> Executor:
    """Return the executor of a plan.

    Args:
        plan: of the run.
        scratch: local folder of workers.
        subscriber: receives the notices about workers.
        fail_fast: try no tile again.
        stop: ends runs on workers from another thread.
    """
    from ussfc.pipeline.execution.dask_executor import DaskExecutor
    from ussfc.pipeline.execution.serial_executor import SerialExecutor

    backoff = Backoff(attempts=1 if fail_fast else plan.config.compute.retries + 1)
    if plan.cluster is None:
        return SerialExecutor(backoff, plan.concurrent_tiles)
    return DaskExecutor(plan.cluster, scratch, backoff, subscriber, stop)
