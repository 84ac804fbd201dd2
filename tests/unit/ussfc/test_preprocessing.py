"""The network's range of pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from ussfc.preprocessing import to_network_range


def test_network_range_is_the_papers() -> None:
    byte = np.arange(256, dtype=np.float32)
    x01: npt.NDArray[np.float32] = byte / np.float32(255)
    found = to_network_range(x01)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, byte / 127.5 - 1, atol=1e-6)
    assert np.array_equal(to_network_range(torch.from_numpy(x01)).numpy(), found)
