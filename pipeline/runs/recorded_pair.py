"""The scenes of a finished inference, opened again as its record names them."""

from __future__ import annotations

from ussfc.pipeline.config.load import load_config
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.runs.manifest import InferenceRecord
from ussfc.pipeline.runs.pair import ScenePair, inspect_pair
from ussfc.pipeline.runs.registration import moved_pair


def recorded_pair(record: InferenceRecord) -> ScenePair:
    """Open the scenes that a record names, the later one where its content lies.

    Raises:
        ReadError: they cannot be opened, or have changed since.
    """
    config = load_config(base=record.config)
    pair = inspect_pair(record.inputs.before.uri, record.inputs.after.uri, config)
    for now, then in ((pair.before, record.inputs.before), (pair.after, record.inputs.after)):
        if now.identity != then.identity:
            raise ReadError(f"{then.uri}: has changed since the run")
    return pair if record.registration is None else moved_pair(pair, record.registration)
