"""The result of `ussfc bench` as tables."""

from __future__ import annotations

from typing import Any

import pytest

from ussfc.pipeline.terminal.speed_tables import print_speeds


def sampled(*values: float) -> dict[str, Any]:
    return {"median": sorted(values)[len(values) // 2], "least": min(values), "largest": max(values)}


def result(others_share: float = 0.0, **parts: Any) -> dict[str, Any]:
    row = {"engine": "torch", "precision": "float32", "patch": 64}
    return {
        "machine": {
            "processor": "A processor", "cores": 2, "memory_bytes": 8e9, "gpu": None, "system": "Linux",
            "python": "3.11", "versions": {"numpy": "2.0"}, "others_share": others_share,
        },
        "settings": {"model": "toy", "device": "cpu", "rounds": 3, "seconds": 1.0},
        "roof": {
            "copy_bytes_per_s": sampled(9e9, 10e9, 11e9),
            "flop_per_s": {"float32": sampled(1e11, 1e11, 1e11), "float16": None},
            "flop_per_pixel": 94_304,
            "bytes_per_pixel": {"float32": 4412, "float16": 2206},
            "mpx_per_s": {"float32": 1.06, "float16": 1.06},
        },
        "network": [
            row | {
                "batch": 1, "streams": 2, "mpx_per_s": sampled(1.5, 2.0, 2.5),
                "reference_mpx_per_s": sampled(1.0, 1.0, 1.0), "ratio": sampled(1.5, 2.0, 2.5),
                "largest_deviation": 1.5e-6, "roof_share": 0.5,
            },
            row | {"engine": "triton", "precision": "float16", "not_here": "no CUDA device"},
        ],
        "end_to_end": None,
        "stages": None,
        **parts,
    }  # fmt: skip


def program(seconds: float) -> dict[str, Any]:
    return {
        "seconds": sampled(seconds),
        "mpx_per_s": sampled(4 / seconds),
        "peak_memory_bytes": sampled(5e8),
        "process_seconds": sampled(seconds + 1),
    }


def test_network_has_a_row_an_engine(capsys: pytest.CaptureFixture[str]) -> None:
    print_speeds(result())
    printed = capsys.readouterr().out
    (row,) = (line.split() for line in printed.splitlines() if line.startswith(" torch float32"))
    assert row == [
        "torch", "float32", "64", "1", "2", "2.000", "(1.500-2.500)", "1.000", "2.00", "(1.50-2.50)", "1.5e-06", "50%",
    ]  # fmt: skip
    assert "triton float16: not here: no CUDA device" in printed
    assert "in float32" in printed
    assert "End to end" not in printed
    assert "Stages" not in printed
    assert "other programs" not in printed


def test_share_of_integers_is_blank(capsys: pytest.CaptureFixture[str]) -> None:
    (row, _) = result()["network"]
    print_speeds(result(network=[row | {"engine": "openvino", "precision": "int8", "roof_share": None}]))
    printed = capsys.readouterr().out
    (line,) = (line.split() for line in printed.splitlines() if line.startswith(" openvino int8"))
    assert line[-1] == "1.5e-06"


def test_busy_machine_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    print_speeds(result(others_share=0.3))
    assert "other programs took 30% of the processors" in capsys.readouterr().out


def test_whole_way_names_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    way = {
        "pixels": 4e6, "patch": 64, "overlap": 0.25,
        "ussfc": program(2.0) | {"engine": "torch", "precision": "float32"},
        "monai": {"not_here": "monai is not installed"}, "speed_ratio": None, "memory_ratio": None,
    }  # fmt: skip
    stages = dict.fromkeys(("read", "network", "mosaic", "vectorise", "share_outside_network"), sampled(0.5))
    print_speeds(result(end_to_end=way, stages=stages))
    printed = capsys.readouterr().out
    assert "End to end: 4.0 Mpx, patches of 64 px, overlap 0.25" in printed
    assert "ussfc run torch float32" in printed
    assert "MONAI, scene in memory: not here: monai is not installed" in printed
    assert "50 %" in printed
