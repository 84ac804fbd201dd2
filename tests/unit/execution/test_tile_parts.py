"""Progress within tiles."""

from __future__ import annotations

from pathlib import Path

from tests.support.tile_runs import PLAN, job_in
from ussfc.pipeline.execution.tile_parts import TileParts

TILE, OTHER = (0, 0), (0, 1)


def test_late_shares_of_ended_tiles_are_left_out(tmp_path: Path) -> None:
    sent: list[int] = []
    parts = TileParts(job_in(tmp_path), sent.append)
    whole = PLAN.core(TILE).pixels
    parts.report([TILE])
    for index in (TILE, OTHER):
        parts.reporter(index)(0.5)
    parts.report([TILE, OTHER])
    assert sent == [whole]
    parts.forget(TILE)
    assert sent.pop() == -whole // 2
    # Its last message was still on its way.
    parts.reporter(TILE)(0.75)
    parts.report([OTHER])
    parts.reporter(OTHER)(0.25)
    parts.report([OTHER])
    assert sent[1:] == [-whole // 4]
    parts.forget_all()
    parts.report([TILE, OTHER])
    assert sum(sent) == whole // 2, "what is left was taken back above"


def test_without_a_subscriber_nothing_is_wanted(tmp_path: Path) -> None:
    assert not TileParts(job_in(tmp_path), None).wanted
