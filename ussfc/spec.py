"""Model cards: the weights of a model, their input, their origin and their scores.

A card is a YAML file; the packaged ones lie in ``configs/models``. Nothing here imports torch, unless a bare
weights file stands in for a card.
"""

from __future__ import annotations

import difflib
import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from ussfc.addresses import shown_address
from ussfc.errors import ModelError
from ussfc.files import is_uri, opened, sha256_of
from ussfc.programs import is_program, read_program
from ussfc.yaml_text import parse_yaml, read_yaml

CARD_SUFFIXES = (".yaml", ".yml")
WEIGHTS_SUFFIXES = (".safetensors", ".pth", ".pt", ".onnx")

PERMISSIVE = re.compile(
    r"apache( 2( 0)?)?|mit( 0)?|(0|new |simplified )?bsd|bsd [0-9] clause|[0-9] clause bsd|isc|zlib|unlicense"
    r"|public domain|cc0( 1 0)?|pddl( 1 0)?|odc by( 1 0)?|cdla permissive [12] 0"
    r"|(cc by|creative commons attribution)( [0-9]( [0-9])?)?"
)
"""Licences that allow every use, whole: in lower case, without punctuation and without :data:`LICENCE_FILLERS`."""

LICENCE_FILLERS = re.compile(r"\b(the|licen[cs]e|version|international|universal|unported)\b|\bv(?=[0-9])")
"""Words of licences' names that change nothing."""

LIMITED = re.compile(r"\bnc\b|\bnon ?commercial\b")
"""Words of licences without commercial use."""

MOST_SHOWN = 80
"""Characters of a wrong value that a message shows."""

MOST_CARD_BYTES = 1 << 20
"""Largest card that is fetched."""

Share = Annotated[float, Field(ge=0, le=1)]
Percentile = Annotated[float, Field(ge=0, le=100)]

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
"""Characters that would move a terminal's cursor or begin a line of a log."""


def _without_control(text: str) -> str:
    if CONTROL.search(text):
        raise ValueError("holds control characters; leave them out")
    return text


def _on_one_line(text: str) -> str:
    """Put blanks for breaks of lines, as YAML's block texts have them, and refuse other control characters."""
    return _without_control(re.sub(r"\s*[\n\r\t]\s*", " ", text).strip() if CONTROL.search(text) else text)


Name = Annotated[str, Field(min_length=1), AfterValidator(_without_control)]

Text = Annotated[str, AfterValidator(_on_one_line)]
"""A text of a card; lists, messages, reports and records show it."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WeightsFile(_Part):
    """The file with the weights."""

    uri: str = Field(min_length=1)
    """Path relative to the card's folder, absolute path, or any URI that fsspec opens: weights of USSFC-Net, or an ONNX
    program of any network (see :mod:`ussfc.programs`)."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Digest of the file; another one is refused."""


class Band(_Part):
    """One band of the input."""

    name: Name
    """Name of the sensor's band, such as ``B04``."""
    common_name: Text | None = None
    """Name that sensors share (STAC ``eo:common_name``), such as ``red``."""
    wavelength_um: PositiveFloat | None = None
    """Centre wavelength, micrometres."""


class RangeRadiometry(_Part):
    """Source numbers ``low`` and ``high`` become 0 and 1; one number for all bands or one per band."""

    kind: Literal["range"] = "range"
    low: float | tuple[float, ...] = 0.0
    high: float | tuple[float, ...] = 255.0
    reflectance: PositiveFloat | None = None
    """Source number of a reflectance of 1 (10000 for Sentinel-2); None: the numbers are no reflectances."""


class PercentileRadiometry(_Part):
    """Percentiles of each band over the whole scene become 0 and 1, separately for each date."""

    kind: Literal["percentiles"] = "percentiles"
    low: Percentile = 1.0
    high: Percentile = 99.0

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        return self


Radiometry = Annotated[RangeRadiometry | PercentileRadiometry, Field(discriminator="kind")]


class Licence(_Part):
    """Terms of a model."""

    weights: Text
    """Licence of the weights, an SPDX name where there is one."""
    training_labels: Text
    """Licence of the labels that the weights were trained on."""
    note: Text = ""
    """Advice for the use of the weights in a product."""

    @property
    def terms(self) -> str:
        """Licence of the weights, and its limit where there is one, in words."""
        return self.restriction or self.weights

    @property
    def restriction(self) -> str | None:
        """Licence of the weights and its limit, in words; None where they may be used for anything."""
        if _is_permissive(self.weights):
            return None
        limited = LIMITED.search(_plain(self.weights))
        return f"{self.weights}, not for commercial use" if limited else self.weights


def _is_permissive(licence: str) -> bool:
    """Return whether a licence allows every use; one that is not known, or has words of its own, does not.

    Of licences joined by ``;``, ``and``, ``+`` and the like all must, of those joined by ``or`` one.
    """
    if LIMITED.search(_plain(licence)):
        return False
    # Without its brackets an expression of both kinds would be another one: then all must.
    choice = r"$^" if "(" in licence else r"(?i)\bor\b"
    return all(
        any(
            all(PERMISSIVE.fullmatch(_plain(part)) for part in re.split(r"(?i)\band\b|[+&,/]", alternative))
            for alternative in re.split(choice, terms)
        )
        for terms in licence.split(";")
    )


def _plain(licence: str) -> str:
    words = LICENCE_FILLERS.sub(" ", re.sub(r"[^a-z0-9]+", " ", licence.lower()))
    return " ".join(words.split())


NOT_STATED = Licence(weights="not stated", training_labels="not stated")
"""Terms that are not known, as of bare weights."""


def derived_licence(labels: str | None, start: Licence | None) -> Licence | None:
    """Return the terms of weights that were trained on labels, and began with other weights.

    Args:
        labels: licence of the labels; None: not stated.
        start: terms of the weights that it began with, :data:`NOT_STATED` if not known; None: random ones.

    Returns:
        Both, the one that restricts first; None: nothing is known.

    Raises:
        ModelError: the licence of the labels holds control characters.
    """
    if labels and CONTROL.search(labels):
        raise ModelError(f"licence {labels!r}: holds control characters; leave them out")
    if start is None:
        return Licence(weights=labels, training_labels=labels) if labels else None
    given = Licence(weights=labels or "not stated", training_labels=labels or "not stated")
    both = sorted((given, start), key=lambda terms: terms.restriction is None)
    weights = "; ".join(dict.fromkeys(terms.weights for terms in both))
    return Licence(
        weights=weights,
        training_labels=f"{given.training_labels}; {start.training_labels}",
        note=f"Begun with weights under {start.weights}.",
    )


class Training(_Part):
    """Origin of the weights."""

    data: Text
    """Data that they were trained on."""
    held_out: Text
    """Data that training never saw."""
    scenes: tuple[Text, ...] = ()
    """Names of the scenes that they were trained on, which `ussfc evaluate` warns of; none: they have no names."""
    device: Text
    """Device of the training."""
    seconds: NonNegativeFloat
    """Wall-clock time, seconds."""
    steps: NonNegativeInt
    """Optimizer steps."""
    recipe: Text = ""
    """Optimizer, schedule, loss, augmentation."""


class TilingDefaults(_Part):
    """Tiling of scenes that suits these weights; a configuration may set another."""

    patch_size: int | None = Field(default=None, gt=0, multiple_of=16)
    """Side of a patch, pixels; None: that of the training crops."""
    overlap: float = Field(default=0.25, ge=0, lt=1)
    """Overlap of neighbouring patches, share of their side."""
    taper: Literal["hann", "pyramid", "gaussian", "box"] = "hann"
    """Blend weights of a patch."""
    ssfc: Literal["patch", "local"] = "patch"
    """Means of SSFC over the whole patch, or over a window of the training crops' size around each pixel."""


class AlterationTerms(_Part):
    """Logistic regression of change on the network's answer and on IR-MAD, which needs no training.

    The log odds of change are ``network`` times those of the network, plus ``distance`` times the logarithm of
    (1 + d) / (1 + m), cut to [-1, 1], plus ``offset``: d is the distance of IR-MAD around the pixel, m the median of
    the distances of single pixels over a sample of the scene.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    network: float = Field(gt=0, le=10)
    """Factor of the network's log odds."""
    distance: float = Field(gt=0, le=10)
    """Factor of the logarithm of the distance."""
    offset: float = Field(ge=-10, le=10)
    """Log odds that are added."""
    blur_px: float = Field(default=2.0, gt=0, le=2.5)
    """Standard deviation of the binomial filter over the distances, pixels."""

    @property
    def margin_px(self) -> int:
        """Pixels around a place that its blurred distance depends on."""
        return int(2 * self.blur_px**2) + 1


class Score(_Part):
    """Metrics of the change class on one scene or test set, from one confusion matrix."""

    scene: Text
    precision: Share
    recall: Share
    f1: Share
    iou: Share
    pooled: bool = False
    """True: one confusion matrix of scenes that have scores of their own as well."""
    note: Text = ""


class Network(_Part):
    """Architecture that the weights must have."""

    ratio: PositiveFloat | None = None
    """Width of level 1 over 64; None takes it from the weights."""


class ModelSpec(_Part):
    """A model card."""

    name: Name
    """Name for ``find_model``: the card's file name without suffix."""
    title: Text
    """One line for lists of models."""
    weights: WeightsFile
    network: Network = Network()
    bands: tuple[Band, ...] = Field(min_length=1)
    """Bands of the input, in the network's order."""
    resolution_m: PositiveFloat | None = None
    """Ground size of a training pixel, metres; None where it varied or is not known."""
    finest_m: PositiveFloat | None = None
    """Ground size of a pixel below which scenes are better read at ``resolution_m``, metres; None: half of that."""
    patch_size: int = Field(default=256, gt=0, multiple_of=16)
    """Side of the training crops, pixels. SSFC looks at the whole patch, so it belongs to the weights."""
    tiling: TilingDefaults = TilingDefaults()
    """Tiling of scenes that suits these weights."""
    radiometry: Radiometry = RangeRadiometry()
    """Mapping of source numbers to [0, 1]."""
    threshold: Share = 0.5
    """Probability from which a pixel counts as changed."""
    smoothing: Literal["none", "median3"] = "none"
    """Filter of a scene's probabilities: the median of 3 x 3 pixels, or none; a configuration may set another."""
    alteration: AlterationTerms | None = None
    """IR-MAD beside the network; None: the network alone. An exported program by itself is the network alone."""
    licence: Licence | None = None
    """Terms; None: not known (a bare weights file)."""
    training: Training | None = None
    """Origin; None: not known (a bare weights file)."""
    scores: tuple[Score, ...] = ()
    """Scores by scene or set of scenes; the last entry is the one to expect on scenes of one's own."""
    cpu_mpx_per_s: PositiveFloat | None = None
    """Speed of one CPU core when the card was written, megapixels per second; None: not measured."""
    notes: Text = ""

    _folder: str | None = PrivateAttr(default=None)

    @property
    def overall_f1(self) -> float:
        """F1 of the last score, by which models are ranked; 0 without scores."""
        return self.scores[-1].f1 if self.scores else 0.0

    @property
    def scored(self) -> str | None:
        """The last score in words, as in ``F1 0.35 on ten scenes``; None without scores."""
        return f"F1 {self.scores[-1].f1:.2f} on {self.scores[-1].scene}" if self.scores else None

    @field_validator("network", mode="before")
    @classmethod
    def _no_code(cls, value: object) -> object:
        if isinstance(value, str):
            raise ValueError(
                "code is never run; export the network as ONNX and give that file as weights.uri"
            )
        return value

    @model_validator(mode="after")
    def _one_number_per_band(self) -> Self:
        if not isinstance(self.radiometry, RangeRadiometry):
            return self
        bands = len(self.bands)
        low, high = (
            value if isinstance(value, tuple) else (value,) * bands
            for value in (self.radiometry.low, self.radiometry.high)
        )
        if len(low) != bands or len(high) != bands:
            raise ValueError(
                f"radiometry: {len(low)} low and {len(high)} high numbers for {bands} bands; "
                "give one number, or one per band"
            )
        if any(bottom >= top for bottom, top in zip(low, high, strict=True)):
            raise ValueError(f"radiometry: low {low} must be below high {high} in every band")
        return self

    @classmethod
    def load(cls, path: str | Path) -> ModelSpec:
        """Read the card in a YAML file.

        Args:
            path: local path, or a URI; the weights of a card with a signed address need an address of their own.

        Raises:
            ModelError: the file cannot be read, is no YAML mapping, or a key is unknown, missing or wrong
                (the key is named).
        """
        where = f"model card {shown_address(path)}"
        try:
            content = _fetched_card(path) if is_uri(path) else read_yaml(path)
        except OSError as error:
            raise ModelError(f"{where}: cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise ModelError(f"{where}: not YAML ({error})") from error
        if not isinstance(content, dict):
            raise ModelError(f"{where}: holds a {type(content).__name__}, expected keys and values")
        try:
            spec = cls.model_validate(content)
        except ValidationError as error:
            raise ModelError(f"{where}: {faults(error)}") from error
        spec._folder = _folder_of(str(path)) if is_uri(path) else str(Path(path).absolute().parent)
        return spec

    def weights_path(self) -> str:
        """Return the location of the weights: the URI as given, or an absolute local path."""
        uri, folder = self.weights.uri, self._folder or ""
        if is_uri(uri):
            return uri
        return f"{folder}/{uri}" if is_uri(folder) else str((Path(folder) / uri).absolute())


def list_models() -> tuple[str, ...]:
    """Return the names of the packaged models, sorted."""
    return tuple(sorted(packaged_cards()))


def find_model(name_or_file: str) -> ModelSpec:
    """Return the card of a packaged model or of a YAML file, or make one for a bare file of weights or an ONNX program.

    A bare weights file is taken for a network trained as in the paper: patches of 256 pixels, numbers from 0
    to 255, threshold 0.5. Its bands are counted, and named ``band1`` onwards. A program that
    :func:`ussfc.export.export_model` wrote holds what its card says of them.

    Args:
        name_or_file: a name of :func:`list_models`, a ``.yaml`` file, or a ``.safetensors``, ``.pth`` or
            ``.pt`` file (local or a URI).

    Raises:
        ModelError: no such model (the known ones are listed), or the file cannot be used.
    """
    # splitext semantics on the path alone: a signed URI ends in a query.
    location = urlsplit(name_or_file).path if is_uri(name_or_file) else name_or_file
    suffix = Path(location).suffix.lower()
    if suffix in CARD_SUFFIXES:
        return ModelSpec.load(name_or_file)
    if suffix in WEIGHTS_SUFFIXES:
        return _spec_of_weights(name_or_file, CONTROL.sub("?", Path(location).stem))
    packaged = packaged_cards()
    if name_or_file in packaged:
        return ModelSpec.load(packaged[name_or_file])
    # A file of another kind, not a misspelt name.
    near = [] if suffix else difflib.get_close_matches(name_or_file, packaged, n=1, cutoff=0.0)
    known = ", ".join(sorted(packaged)) or "none"
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ModelError(
        f"model {name_or_file!r}: not known; known: {known}; or give a file ending in "
        f"{', '.join((*CARD_SUFFIXES, *WEIGHTS_SUFFIXES))}{hint}"
    )


def packaged_cards() -> dict[str, Path]:
    """Return the files of the cards by name: real paths, since the weights lie beside the cards."""
    cards = [Path(str(entry)) for entry in (files("ussfc.configs") / "models").iterdir()]
    return {card.stem: card for card in cards if card.suffix in CARD_SUFFIXES}


def _fetched_card(uri: str | Path) -> Any:
    with opened(uri, "model card") as file:
        content = file.read(MOST_CARD_BYTES + 1)
    if len(content) > MOST_CARD_BYTES:
        raise ValueError(f"it is larger than {MOST_CARD_BYTES >> 20} MiB")
    return parse_yaml(content.decode("utf-8-sig"))


def _folder_of(uri: str) -> str:
    """Return the address of the folder that a remote file is in; a signature is of the file alone."""
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc, parts.path.rpartition("/")[0], "", ""))


def _spec_of_weights(uri: str, stem: str) -> ModelSpec:
    digest = sha256_of(uri)  # a file that is not there is reported before torch is waited for
    if is_program(uri):
        return _spec_of_program(uri, stem, digest)
    # Only the tensors give the bands: the one place in this module that needs torch.
    from ussfc.weights import load_weights

    network = load_weights(uri, sha256=digest)
    return ModelSpec(
        name=stem,
        title=CONTROL.sub("?", f"weights from {shown_address(uri)}"),
        weights=WeightsFile(uri=uri if is_uri(uri) else str(Path(uri).absolute()), sha256=digest),
        network=Network(ratio=network.ratio),
        bands=tuple(Band(name=f"band{number}") for number in range(1, network.bands + 1)),
    )


def _spec_of_program(uri: str, stem: str, digest: str) -> ModelSpec:
    program = read_program(uri, sha256=digest)
    card = {
        "name": stem,
        "title": CONTROL.sub("?", f"program from {shown_address(uri)}"),
        "bands": [{"name": f"band{number}"} for number in range(1, program.bands + 1)],
        **{name: value for name, value in program.facts.items() if name in ModelSpec.model_fields},
        "weights": {"uri": uri if is_uri(uri) else str(Path(uri).absolute()), "sha256": digest},
    }
    try:
        return ModelSpec.model_validate(card)
    except ValidationError as error:
        raise ModelError(f"model {shown_address(uri)}: its own facts do not fit: {faults(error)}") from error


def faults(error: ValidationError) -> str:
    """Return every fault on one line: the key as in YAML, the fault, the value found."""
    faults = []
    for fault in error.errors(include_url=False):
        key = ".".join(str(part) for part in fault["loc"])
        unknown = fault["type"] == "extra_forbidden"
        message = "unknown key" if unknown else re.sub(r"^Value error, ", "", fault["msg"])
        # The value of a key that is not ours may be anything, in a file that is no card.
        found = "" if unknown or isinstance(fault["input"], dict) else f", found {_short(fault['input'])}"
        faults.append(f"{key}: {message}{found}" if key else message)
    return "; ".join(faults)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
