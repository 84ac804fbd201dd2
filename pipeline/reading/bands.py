"""Choice of the bands of a file that a model takes."""

from __future__ import annotations

from collections.abc import Sequence

from ussfc.pipeline.errors import ConfigError, ReadError
from ussfc.pipeline.types import SceneInfo


def choose_bands(
    scene: SceneInfo, expected: Sequence[tuple[str, str | None]], chosen: Sequence[int] | None
) -> tuple[tuple[int, ...], str | None]:
    """Return the bands of a scene in the order of a model.

    A configured choice takes precedence; then descriptions that name every band of the model (``B04`` or ``red``);
    then colour interpretations; then the first bands of the file, which the returned notice reports.

    Args:
        scene: the scene's header.
        expected: (name, common name) of each band of the model, in its order.
        chosen: band numbers from 1, or None.

    Returns:
        Band numbers from 1, and a notice where they were taken by position.

    Raises:
        ReadError: fewer bands than the model takes.
        ConfigError: a configured choice of another length or of a band that does not exist.
    """
    numbers = [band.index for band in scene.bands]
    names = ", ".join(name for name, _ in expected)
    if chosen is not None:
        if len(chosen) != len(expected) or not set(chosen) <= set(numbers):
            raise ConfigError(
                f"bands {list(chosen)} for {scene.uri}: the model takes {len(expected)} bands ({names}), "
                f"the file has {numbers}"
            )
        return tuple(chosen), None
    if len(numbers) < len(expected):
        raise ReadError(
            f"{scene.uri}: has {len(numbers)} image band(s) of {scene.dtype}, the model takes {len(expected)} ({names})"
        )
    labels = [{(band.description or "").lower(): band.index for band in scene.bands}]
    labels.append({band.color: band.index for band in scene.bands if band.color is not None})
    for label in labels:
        found = [
            label.get(name.lower()) or label.get((common or "").lower() or "\0") for name, common in expected
        ]
        if all(found):
            return tuple(index for index in found if index), None
    taken = tuple(numbers[: len(expected)])
    if len(numbers) == len(expected) and all(not band.description for band in scene.bands):
        return taken, None
    return (
        taken,
        f"{scene.uri}: bands {list(taken)} taken by position as {names}; set bands.before and bands.after",
    )
