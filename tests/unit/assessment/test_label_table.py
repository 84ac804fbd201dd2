"""Labels of a sample as a map sets them."""

from __future__ import annotations

import shutil
from pathlib import Path

import geopandas
import pyogrio
import pytest

from ussfc.pipeline.assessment.assess import assess
from ussfc.pipeline.assessment.label_table import LABELS, LabelTable, open_labels
from ussfc.pipeline.assessment.sample_files import read_points
from ussfc.pipeline.errors import ReadError, SampleError, StoreError
from ussfc.pipeline.events import Event, Notice
from ussfc.pipeline.runs.manifest import RunRecord
from ussfc.pipeline.storage.folder import Folder


@pytest.fixture
def sample(drawn: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(drawn, tmp_path / "sample"))


@pytest.fixture
def run(finished: Path) -> RunRecord:
    return RunRecord.read(Folder.of(finished), "run.json")


def references(folder: Path) -> list[dict[int, str]]:
    """Return the labels in both files."""
    frames = (
        pyogrio.read_dataframe(folder / "sample.gpkg", layer="sample"),
        geopandas.read_parquet(folder / "sample.parquet"),
    )
    return [
        {
            int(number): str(label)
            for number, label in zip(frame["id"], frame["reference"], strict=True)
            if label
        }
        for frame in (frame.astype({"reference": object}).where(frame.notna(), None) for frame in frames)
    ]


def test_a_label_is_in_both_files(sample: Path, run: RunRecord) -> None:
    table = LabelTable.open(sample / "sample.gpkg", run)
    for number, label in ((3, "change"), (5, "no change"), (7, "unclear"), (5, None)):
        table.set(number, label)
    assert references(sample) == [{3: "change", 7: "unclear"}] * 2
    assert table.facts()["labels"] == {"3": "change", "7": "unclear"}
    assert len(table.facts()["points"]) == 200
    before, after = (read_points(path)[1] for path in (sample / "sample.gpkg", sample / "sample.parquet"))
    assert before == after
    assert not [path for path in sample.iterdir() if "part" in path.name or path.suffix in (".gpkg-journal",)]


def test_two_maps_and_another_program_lose_no_label(sample: Path, run: RunRecord) -> None:
    one, other = (LabelTable.open(sample / "sample.gpkg", run) for _ in range(2))
    one.set(1, "change")
    other.set(2, "no change")
    pyogrio.list_layers(sample / "sample.gpkg")
    one.set(3, "unclear")
    expected = {1: "change", 2: "no change", 3: "unclear"}
    assert references(sample) == [expected, expected]
    assert other.facts()["labels"] == {str(number): label for number, label in expected.items()}


def test_assess_takes_what_a_map_labelled(finished: Path, sample: Path, run: RunRecord) -> None:
    table = LabelTable.open(sample / "sample.gpkg", run)
    for place, (number, _, _) in enumerate(table.points):
        # All but three by another program, for speed.
        if place < 3:
            table.set(number, LABELS[place % 3])
    path = sample / "sample.gpkg"
    metadata = pyogrio.read_info(path, layer="sample")["layer_metadata"]
    points = pyogrio.read_dataframe(path, layer="sample")
    points["reference"] = points["reference"].where(points["reference"].notna(), "no change")
    pyogrio.write_dataframe(points, path, layer="sample", layer_metadata=metadata)
    assert assess(finished, path).unclear == 1


def test_numbers_are_shown_as_classes(sample: Path, run: RunRecord) -> None:
    path = sample / "sample.parquet"
    frame = geopandas.read_parquet(path)
    frame.loc[frame["id"] == 4, "reference"] = "1"
    frame.to_parquet(path)
    assert LabelTable.open(path, run).labels == {4: "change"}


def test_the_usual_folder_is_found(finished: Path, drawn: Path, tmp_path: Path) -> None:
    found = open_labels(str(finished), None)
    assert found is not None
    assert found.path == drawn / "sample.gpkg"
    assert open_labels(str(finished), drawn) is not None
    alone = Path(shutil.copytree(finished, tmp_path / "out"))
    assert open_labels(str(alone), None) is None


def test_a_damaged_sample_in_the_usual_folder_is_left_out(finished: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copytree(finished, tmp_path / "out"))
    (tmp_path / "out-sample").mkdir()
    (tmp_path / "out-sample" / "sample.gpkg").write_text("torn")
    seen: list[Event] = []
    assert open_labels(str(alone), None, seen.append) is None
    (notice,) = seen
    assert isinstance(notice, Notice)
    assert "sample.gpkg: cannot be read" in notice.message
    with pytest.raises(ReadError):
        open_labels(str(alone), tmp_path / "out-sample")


def test_what_is_refused(sample: Path, run: RunRecord) -> None:
    table = LabelTable.open(sample / "sample.gpkg", run)
    with pytest.raises(ValueError, match="no point 999"):
        table.set(999, "change")
    with pytest.raises(ValueError, match="a label is one of"):
        table.set(1, "maybe")
    other = run.model_copy(update={"run": "another"})
    with pytest.raises(SampleError, match="is a sample of run"):
        LabelTable.open(sample / "sample.gpkg", other)
    with pytest.raises(SampleError, match="give one of these"):
        LabelTable.open(sample / "sample.json", run)


def test_a_file_that_cannot_be_written_is_one_line(sample: Path, run: RunRecord) -> None:
    table = LabelTable.open(sample / "sample.gpkg", run)
    (sample / "sample.gpkg").write_bytes(b"no database, and long enough to be seen as such" * 100)
    with pytest.raises(StoreError, match="the label cannot be written"):
        table.set(1, "change")
    assert table.labels == {}
