"""Which bands of a file a model takes."""

from __future__ import annotations

from collections.abc import Sequence

from ussfc.pipeline.errors import ConfigError, ReadError
from ussfc.pipeline.types import SceneInfo


def choose_bands(
    scene: SceneInfo, wanted: Sequence[tuple[str, str | None]], chosen: Sequence[int] | None
) -> tuple[tuple[int, ...], str | None]:
    """Bands of a scene in the order a model wants them.

    A configured choice wins; then descriptions that name every wanted band (``B04`` or ``red``); then colour
    interpretations; then the first bands of the file, which the returned notice says.

    Args:
        scene: the scene's header.
        wanted: (name, common name) of each band of the model, in its order.
        chosen: band numbers from 1, or None.

    Returns:
        Band numbers from 1, and a notice where they were taken by position.

    Raises:
        ReadError: fewer bands than wanted.
        ConfigError: a configured choice of another length or of a band that does not exist.
    """
    numbers = [band.index for band in scene.bands]
    names = ", ".join(name for name, _ in wanted)
    if chosen is not None:
        if len(chosen) != len(wanted) or not set(chosen) <= set(numbers):
            raise ConfigError(
                f"bands {list(chosen)} for {scene.uri}: the model wants {len(wanted)} bands ({names}), "
                f"the file has {numbers}"
            )
        return tuple(chosen), None
    if len(numbers) < len(wanted):
        raise ReadError(
            f"{scene.uri}: has {len(numbers)} image band(s) of {scene.dtype}, the model wants {len(wanted)} ({names})"
        )
    labels = [{(band.description or "").lower(): band.index for band in scene.bands}]
    labels.append({band.color: band.index for band in scene.bands if band.color is not None})
    for label in labels:
        found = [
            label.get(name.lower()) or label.get((common or "").lower() or "\0") for name, common in wanted
        ]
        if all(found):
            return tuple(index for index in found if index), None
    taken = tuple(numbers[: len(wanted)])
    if len(numbers) == len(wanted) and all(not band.description for band in scene.bands):
        return taken, None
    return (
        taken,
        f"{scene.uri}: bands {list(taken)} taken by position as {names}; set bands.before and bands.after",
    )
