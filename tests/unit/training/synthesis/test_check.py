"""The check of a folder of images and masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.support.mask_tiles import TILE, save
from ussfc.errors import DataError
from ussfc.training.synthesis.check import check_masks


def test_places_are_counted(copy: Path) -> None:
    reports = {report.place: report for report in check_masks(copy)}
    assert list(reports) == ["field", "forest", "hill", "shore"]
    hill, field = reports["hill"], reports["field"]
    assert (hill.tiles, hill.masked, hill.sizes) == (6, 6, {"96 x 96": 6})
    assert hill.pixels == 6 * TILE**2
    assert 0 < hill.covered < hill.pixels / 8
    assert 6 <= hill.instances <= 36
    assert (field.tiles, field.masked, field.instances, field.covered) == (3, 0, 0, 0)


def test_the_check_goes_on_after_a_fault(copy: Path) -> None:
    (copy / "buildings/hill_z19/mask/tile0.png").unlink()
    (copy / "buildings/hill_z19/image/tile1.png").write_bytes(b"no picture")
    save(copy / "buildings/shore_z19_96/mask/tile1.png", np.zeros((TILE, 5)))
    reports = {report.place: report for report in check_masks(copy)}
    assert [line.split(": ")[1][:12] for line in reports["hill"].broken] == ["no mask of t", "cannot be re"]
    assert [line.split(": ")[1][:14] for line in reports["shore"].broken] == ["96 x 5 pixels,"]
    assert reports["hill"].sizes == {"96 x 96": 4}


def test_nothing_to_check_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no picture in a folder image"):
        check_masks(tmp_path)
