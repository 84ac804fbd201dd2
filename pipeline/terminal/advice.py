"""Advice of the command line: the flags for what a message below it advises in words."""

from __future__ import annotations

import re

FLAGS = {
    "another output folder": "another --out",
    "an output folder": "an --out",
    "or overwrite it": "or replace it with --overwrite",
    "overwrite it to start over": "start over with --overwrite",
    "choose another folder for the sample": "choose another folder with --to",
    "a number of points and a standard error: give": "--n and --target-se: give",
    "give a mask of the clouds": "give a mask of the clouds (--mask-before, --mask-after)",
    "set grid.resample_to_model=true": "give --resample-to-model",
    "set model=": "give --model ",
    "set bands.before and bands.after": "give --before-bands and --after-bands",
    "choose others with bands.before and bands.after": "choose others with --before-bands and --after-bands",
    "masks.clouds=auto": "--clouds auto",
    "masks.clouds=off": "--clouds off",
    "radiometry=model": "--radiometry model",
    "radiometry=match": "--radiometry match",
    "name another file of verdicts": "give another with --review",
    "listen on another port": "give another with --port, or none",
    "with vector.format=geoparquet": "OUT --format geoparquet",
    "name some to validate on": "name some with --validate-on",
    "masks.before=none": "--mask-before none",
    "masks.after=none": "--mask-after none",
    "allow it with inputs.vrt_sources=any": "allow it with --allow-vrt-sources",
    "or set force to compute": "or give --force to compute",
}
"""Words of a message, and the same with the flag that does it."""


SETTING = re.compile(r"(?<!--set )\b(?:before|after)\.(?:scale|offset)=-?\d")
"""A setting of a date, which has no flag of its own."""


def with_flags(message: str) -> str:
    """Return a message whose advice names the flags of the command line."""
    for words, flags in FLAGS.items():
        message = message.replace(words, flags)
    return SETTING.sub(lambda found: f"--set {found[0]}", message)
