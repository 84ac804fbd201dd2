"""The network run by PyTorch on the CPU."""

from __future__ import annotations

import ctypes
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import nn

from ussfc.engines import FloatArray, OutOfMemory
from ussfc.errors import ModelError
from ussfc.folded import FoldedUSSFCNet
from ussfc.network import USSFCNet
from ussfc.preprocessing import to_network_range


class TorchEngine:
    """Run a network by PyTorch, as an :class:`ussfc.engines.Engine`.

    Every forward runs on a thread of the engine's own that has exactly one intra-op thread; parallelism
    comes from ``streams`` such threads. The number of intra-op threads moves the last bit of a probability
    (it splits sums differently), so it may not depend on the machine; one stream per core is also faster than
    one stream with all cores. Threads of its own, because the setting belongs to a thread: the caller's
    setting, its autocast and its denormal mode stay as they are and have no effect here.

    Args:
        network: takes two images in the network's range and returns ``(N, 1, H, W)``; it is changed: set to eval mode
            and to channels-last memory format.
        streams: forwards at the same time.

    Raises:
        ModelError: fewer than one stream.
    """

    def __init__(self, network: nn.Module, streams: int = 1) -> None:
        if streams < 1:
            raise ModelError(f"streams {streams}: expected at least 1")
        _keep_freed_memory()
        self._network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._streams = streams
        self._threads = _single_threaded_pool(streams)

    @property
    def streams(self) -> int:
        """Batches that may run at the same time; more callers wait."""
        return self._streams

    def run(self, before_NBHW: FloatArray, after_NBHW: FloatArray) -> FloatArray:
        """Compute the change probability of a batch, see :meth:`ussfc.engines.Engine.run`."""
        try:
            return self._threads.submit(self._forward, before_NBHW, after_NBHW).result()
        except torch.OutOfMemoryError as error:
            # The sentences after the third are about debugging an allocator.
            reason = ". ".join(" ".join(str(error).split()).split(". ")[:3])
        # Not in the except clause: the error's traceback holds the forward's tensors.
        raise OutOfMemory(f"device cpu: {reason}")

    @torch.inference_mode()
    def _forward(self, before_NBHW: FloatArray, after_NBHW: FloatArray) -> FloatArray:
        before, after = (
            # Contiguous first: of one band, any strides pass for channels-last and another kernel runs.
            to_network_range(torch.from_numpy(np.ascontiguousarray(image_NBHW))).contiguous(
                memory_format=torch.channels_last
            )
            for image_NBHW in (before_NBHW, after_NBHW)
        )
        probability: FloatArray = self._network(before, after)[:, 0].numpy()
        return probability


def _single_threaded_pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads all run, each with one intra-op thread."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="ussfc-engine")
    all_started = threading.Barrier(threads)

    def restrict() -> int:
        torch.set_num_threads(1)
        # No task ends before all have begun, so that each has a thread of its own.
        all_started.wait()
        return torch.get_num_threads()

    before = torch.get_num_threads()
    found = [future.result() for future in [pool.submit(restrict) for _ in range(threads)]]
    # Threads that start later begin with the last setting: restore it.
    torch.set_num_threads(before)
    if set(found) != {1}:
        raise ModelError(
            f"this build of PyTorch does not set intra-op threads by thread (found {found}, expected 1 "
            "each); set OMP_NUM_THREADS=1 before Python starts"
        )
    return pool


M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""
MMAP_THRESHOLD = 32 * 2**20
"""Threshold that glibc itself arrives at once feature maps have come and gone, bytes."""


def _keep_freed_memory() -> None:
    """Make glibc reuse the memory of freed feature maps, as it does by default.

    Dask starts workers with MALLOC_TRIM_THRESHOLD_=65536, which also ends the adaptation of the other threshold: every
    map is then fetched from the kernel and given back, page by page, which makes the network 2.5 times slower.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # other C libraries have neither the function nor the problem
        mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, 2 * MMAP_THRESHOLD)


def build_engine(
    network: USSFCNet, shape: tuple[int, int, int, int], precision: str, streams: int
) -> TorchEngine:
    """Return the engine for a network, folded; a module of PyTorch takes any shape, and computes in float32 here."""
    return TorchEngine(FoldedUSSFCNet(network), streams)
