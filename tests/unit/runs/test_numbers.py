"""Numbers of both dates: matched by default where a sample shows all bands shifted, and left alone elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine

from tests.support.scenes import write_toy_model
from tests.support.stubs import StubRecipe
from tests.support.textures import texture
from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.config.schema import Radiometry, RunConfig
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.events import Event, Notice
from ussfc.pipeline.pixels.sample_checks import DateSample
from ussfc.pipeline.runs.infer import Computation
from ussfc.pipeline.runs.manifest import NormalisationRecord, RadiometryRecord
from ussfc.pipeline.runs.numbers import Numbers, find_numbers, recorded_choice
from ussfc.pipeline.runs.pair import inspect_pair
from ussfc.pipeline.runs.plan import RunPlan, plan_pair
from ussfc.pipeline.runs.run import run
from ussfc.pipeline.runs.run_key import run_key
from ussfc.pipeline.storage import layout
from ussfc.pipeline.storage.folder import Folder
from ussfc.pipeline.storage.run_name import STARTING
from ussfc.pipeline.types import Pixels, RadiometricMapping

STUB = Computation(StubRecipe(patch_size=32, bands=3))
RANGE = RadiometricMapping((0.0,) * 3, (3500.0,) * 3)
SIDE = 160


def lines(gain: float, offset: float, warning: str | None = None) -> NormalisationRecord:
    fields = {"correlation": (1.0,) * 3, "unchanged": 9, "sampled": 9}
    if warning is not None:
        return NormalisationRecord(**fields, warning=warning)
    return NormalisationRecord(gain=(gain,) * 3, offset=(offset,) * 3, **fields)


def ground(seed: int = 0) -> np.ndarray:
    """Return reflectances of land times 10000, (3, 40, 50)."""
    return np.random.default_rng(seed).integers(300, 1800, (3, 40, 50)).astype(np.float32)


def found(
    before: np.ndarray, after: np.ndarray, measured: NormalisationRecord | None, mode: Radiometry = "auto"
) -> Numbers:
    """Return the numbers of two images; without a measurement none may be asked for."""
    first, second = (
        DateSample(name, Pixels(image, np.ones((40, 50), np.bool_)), RANGE, key)
        for name, image, key in (("b", before, "before"), ("a", after, "after"))
    )

    def measure() -> NormalisationRecord:
        assert measured is not None
        return measured

    return find_numbers(mode, (RANGE, RANGE), (first, second), measure)


@pytest.mark.parametrize(
    ("before", "after", "line", "start", "key"),
    [
        (0, 1000, (1.0, -1000.0), "about 1000 above", "after"),
        (1000, 0, (1.0, 1000.0), "about 1000 below", "before"),
    ],
)
def test_shifted_dates_are_matched_with_a_warning(
    before: int, after: int, line: tuple[float, float], start: str, key: str
) -> None:
    numbers = found(ground() + before, ground(1) + after, lines(*line))
    assert numbers.lines == lines(*line)
    assert numbers.mappings[1].low == (-line[1],) * 3
    (warning,) = numbers.warnings
    assert warning.startswith(
        f"the later date's numbers lie {start} the earlier one's; they are brought to them"
    )
    assert "radiometry=model leaves them as they are" in warning
    assert f"{key}.offset=-1000" in warning


def test_without_a_line_the_warning_about_the_shift_stays() -> None:
    numbers = found(ground(), ground(1) + 1000, lines(1, 0, "no line"))
    assert numbers == found(ground(), ground(1) + 1000, None, "model")
    assert numbers.mappings == (RANGE, RANGE)
    (warning,) = numbers.warnings
    assert warning.startswith("a: all bands are brighter")


def test_a_date_is_brought_to_one_of_dark_ground() -> None:
    water = ground() / 8
    numbers = found(water, ground(1) / 8 + 1000, lines(1, -1000))
    assert numbers.lines is not None
    matched, dark = numbers.findings
    assert "brought to" in matched.text
    assert dark.dark
    assert dark.text.startswith("b: ")


def test_matched_numbers_that_have_a_finding_are_not_taken() -> None:
    # Brought to a corner of the range, they would be warned of again.
    numbers = found(ground(), ground(1) + 1000, lines(1, 2000))
    assert numbers == found(ground(), ground(1) + 1000, None, "model")


def test_numbers_are_not_brought_to_reflectances() -> None:
    reflectances = ground() / 10000
    # One that is too large for a reflectance.
    reflectances[0, 0, 0] = 3
    numbers = found(reflectances, ground(1), lines(1e-4, 0))
    dark, shifted = numbers.findings
    assert numbers.lines is None
    assert dark.dark
    assert shifted.shift
    # The other way round they are numbers again.
    assert found(ground(1), reflectances, lines(1e4, 0)).lines == lines(1e4, 0)


@pytest.mark.parametrize(
    "after", [ground(1), ground(1) * np.float32(0.8), ground(1) / 10000, ground(1) + 20_000, ground()]
)
def test_other_pairs_are_not_measured(after: np.ndarray) -> None:
    """Nor dates that are fatal for a map, nor one image twice."""
    numbers = found(ground(), after, None)
    assert (numbers.lines, numbers.mappings) == (None, (RANGE, RANGE))
    assert numbers == found(ground(), after, None, "model")


def test_asked_for_pairs_are_matched_without_a_finding() -> None:
    assert found(ground(), ground(1), lines(1, 5), "match").lines == lines(1, 5)
    assert found(ground(), ground(1), lines(1, 5, "no line"), "match").warnings == ("no line",)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_toy_model(tmp_path_factory.mktemp("model")))


def pair(folder: Path, offset: int) -> tuple[str, str]:
    """Write two dates of three named bands, the later one with an offset."""
    scene = np.clip(texture(3, (SIDE, SIDE), blur=1.5) * 0.5 + 900, 1, 3000)
    place = {"transform": Affine(10, 0, 500_000, 0, -10, 4_000_000), "crs": "EPSG:32633"}
    profile = {"driver": "GTiff", "width": SIDE, "height": SIDE, "count": 3, "dtype": "uint16"}
    paths = []
    for name, added in (("before", 0), ("after", offset)):
        noise = np.random.default_rng(added).normal(0, 3, (SIDE, SIDE))
        paths.append(str(folder / f"{name}.tif"))
        with rasterio.open(paths[-1], "w", **profile, **place) as file:
            file.write(
                np.stack([scene + noise, 0.8 * scene + 50, 0.6 * scene + 2 * noise]).astype(np.uint16) + added
            )
            file.descriptions = ("B04", "B03", "B02")
    return paths[0], paths[1]


def config_of(model: str, *sets: str) -> RunConfig:
    return load_config(
        sets=[f"model={model}", "registration=off", "cluster.kind=serial", "output.report=false", *sets]
    )


def planned(scenes: tuple[str, str], config: RunConfig) -> RunPlan:
    return plan_pair(inspect_pair(*scenes, config), config)


def test_shifted_run_is_matched_recorded_and_goes_on(model: str, tmp_path: Path) -> None:
    scenes, config, out = pair(tmp_path, 1000), config_of(model), tmp_path / "out"
    events: list[Event] = []
    record = run(*scenes, out, config, subscriber=events.append, computation=STUB)
    assert record.radiometry.chosen == "match"
    assert record.config["radiometry"] == "auto"
    warning, of_the_map = record.warnings
    assert warning.startswith("the later date's numbers lie about 1000 above")
    assert of_the_map.endswith("do not trust this map")
    messages = [event.message for event in events if isinstance(event, Notice)]
    assert sum("brought to" in message for message in messages) == 1
    # The bytes are those of a run that was asked to match.
    plan, detector = planned(scenes, config_of(model, "radiometry=match")), STUB.detector
    assert detector is not None
    key = json.loads((out / "work/run_key.json").read_text())
    assert key["radiometry"] == run_key(plan, detector)["radiometry"]
    assert run(*scenes, out, config, computation=STUB) == record
    for lost in ("work/radiometry.json", "work/run_key.json"):
        for name in ("run.json", lost):
            (out / name).unlink()
        again = run(*scenes, out, config, computation=STUB)
        assert (again.run, again.radiometry, again.warnings) == (
            record.run,
            record.radiometry,
            record.warnings,
        )
    with pytest.raises(ReadError, match=r"^the later date's numbers lie about 1000 above .*\(strict"):
        run(*scenes, tmp_path / "strict", config_of(model, "strict=true"), computation=STUB)


def test_run_that_began_with_its_own_numbers_keeps_them(model: str, tmp_path: Path) -> None:
    scenes, out = pair(tmp_path, 1000), tmp_path / "out"
    record = run(*scenes, out, config_of(model, "radiometry=model"), computation=STUB)
    (out / "run.json").unlink()
    again = run(*scenes, out, config_of(model), computation=STUB)
    assert (again.run, again.warnings) == (record.run, record.warnings)
    assert again.warnings[0].startswith(f"{scenes[1]}: all bands are brighter")


def test_keys_of_other_pairs_are_those_of_the_models_range(model: str, tmp_path: Path) -> None:
    scenes = pair(tmp_path, 5)
    keys = []
    for mode in ("auto", "model"):
        record = run(*scenes, tmp_path / mode, config_of(model, f"radiometry={mode}"), computation=STUB)
        assert record.radiometry.chosen == {"auto": "model", "model": None}[mode]
        keys.append((record.run, (tmp_path / mode / "work/run_key.json").read_bytes()))
    assert keys[0] == keys[1]
    assert planned(scenes, config_of(model)).summary()["radiometry"] == "auto"


def test_choice_of_an_overwritten_run_is_not_taken(model: str, tmp_path: Path) -> None:
    plan, out = planned(pair(tmp_path, 5), config_of(model)), Folder.of(tmp_path / "out")
    ends = {"low": [0.0], "high": [1.0]}
    record = RadiometryRecord.parse({"before": ends, "after": ends, "chosen": "match"}, "here")
    record.write(out / layout.WORK, layout.RADIOMETRY)
    assert recorded_choice(plan, out).chosen == "match"
    (out / layout.WORK).write_record(layout.RUN_KEY, STARTING)
    assert recorded_choice(plan, out).chosen is None
