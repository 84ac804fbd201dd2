"""The GPUs of this machine, by the names of its environment."""

from __future__ import annotations

import pytest

from ussfc.pipeline.clusters.local import LocalGpus, LocalProcesses, visible_gpus


@pytest.mark.parametrize(
    ("variable", "count", "expected"),
    [
        (None, 2, ("0", "1")),
        ("", 1, ("0",)),
        ("3,5", 2, ("3", "5")),
        (" 3 , GPU-8932f937,", 2, ("3", "GPU-8932f937")),
        # Entries behind a wrong one are not visible.
        ("2,-1,4", 1, ("2",)),
        ("MIG-a/1/0", 1, ("MIG-a/1/0",)),
    ],
)
def test_gpus_have_the_names_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, count: int, expected: tuple[str, ...]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert visible_gpus(count) == expected


def test_every_process_walks_a_band() -> None:
    assert LocalProcesses(3).worker_count == 3
    assert LocalGpus(("0", "GPU-5")).worker_count == 2
