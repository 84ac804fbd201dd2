"""The choice of engines and precisions to measure."""

from __future__ import annotations

import pytest

from ussfc.engines import PRECISIONS
from ussfc.pipeline.benchmark.network import engine_precisions
from ussfc.pipeline.errors import ConfigError


def test_no_filter_gives_every_engine() -> None:
    every = [(engine, precision) for engine, precisions in PRECISIONS.items() for precision in precisions]
    assert engine_precisions((), ()) == every


def test_filters_keep_what_they_name() -> None:
    assert engine_precisions(["torch"], ["float32"]) == [("torch", "float32")]
    assert {precision for _, precision in engine_precisions((), ["float32"])} == {"float32"}


@pytest.mark.parametrize(
    ("engines", "precisions", "message"),
    [
        (["torch"], ["int4"], "precision 'int4': not known; known: "),
        (["abacus"], [], "engine 'abacus': not known; known: "),
        (["triton"], ["bfloat16"], "no engine of triton has a precision of bfloat16"),
    ],
)
def test_useless_filters_are_refused(engines: list[str], precisions: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        engine_precisions(engines, precisions)
