"""PyTorch on the CPU: the same bytes for any callers, threads and memory layouts."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.support.networks import GOLDEN, SmallDevice
from ussfc.engines import OutOfMemory
from ussfc.engines.torch_engine import TorchEngine
from ussfc.errors import ModelError
from ussfc.folded import FoldedUSSFCNet
from ussfc.network import USSFCNet
from ussfc.weights import load_weights

FloatArray = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def pairs() -> list[tuple[FloatArray, FloatArray]]:
    rng = np.random.default_rng(0)
    return [tuple(rng.random((2, 2, 4, 48, 48), dtype=np.float32)) for _ in range(6)]


@pytest.fixture
def kept_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("kept_threads")
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_bytes_are_the_same_for_any_callers(pairs: list[tuple[FloatArray, FloatArray]], threads: int) -> None:
    network = FoldedUSSFCNet(load_weights(GOLDEN))
    engine = TorchEngine(network, streams=2)
    expected = [engine.run(*pair).tobytes() for pair in pairs]
    torch.set_num_threads(threads)
    assert [engine.run(*pair).tobytes() for pair in pairs] == expected
    assert torch.get_num_threads() == threads
    for streams in (1, 3):
        other = TorchEngine(network, streams=streams)
        assert other.streams == streams
        assert torch.get_num_threads() == threads
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda pair: other.run(*pair).tobytes(), pairs))  # noqa: B023
            assert found == expected
            assert pool.submit(torch.get_num_threads).result() == threads


def test_strides_do_not_matter(pairs: list[tuple[FloatArray, FloatArray]]) -> None:
    engine = TorchEngine(load_weights(GOLDEN))
    before, after = (image[..., ::-1] for image in pairs[0])
    assert np.array_equal(engine.run(before, after), engine.run(before.copy(), after.copy()))


def test_tensors_that_did_not_fit_are_freed() -> None:
    network = SmallDevice(FoldedUSSFCNet(load_weights(GOLDEN)), room=0)
    engine = TorchEngine(network)
    gc.disable()
    try:
        with pytest.raises(OutOfMemory):
            engine.run(*np.zeros((2, 2, 4, 48, 48), np.float32))
        assert [seen() for seen in network.seen] == [None]
    finally:
        gc.enable()


def test_streams_are_at_least_one() -> None:
    with pytest.raises(ModelError, match="streams 0: expected at least 1"):
        TorchEngine(USSFCNet(1, 0.125), streams=0)


FAULTS = """
import resource
import numpy as np
from ussfc.engines.torch_engine import TorchEngine
from ussfc.network import USSFCNet
engine, image = TorchEngine(USSFCNet()), np.zeros((1, 3, 128, 128), np.float32)
def forward():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    engine.run(image, image)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for _ in range(3):
    forward()
print(min(forward() for _ in range(3)))
"""


def test_memory_is_kept_under_dasks_settings() -> None:
    """Dask's settings for workers make the network 2.5 times slower; page faults show it without a clock."""
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 500
