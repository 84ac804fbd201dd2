"""Kinds of options and arguments that click does not have."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import click

from ussfc.addresses import SCHEME, shown_address
from ussfc.pipeline.errors import StoreError

BAND = re.compile(
    r"[1-9]\d?|(?:SR_)?B\d{1,2}A?|coastal|blue|green|red|nir(?:08|09)?|rededge\d*|swir(?:16|22)|pan",
    re.IGNORECASE,
)
"""Word that is a band's number or name."""


class BandsOption(click.Option):
    """An option of several words: numbers or names of bands, with commas or blanks between them."""

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Let the option take the words after it that are bands, up to a file or another option."""
        super().add_to_parser(parser, ctx)
        own = parser._long_opt[self.opts[0]]
        process = own.process

        def take(value: str, state: Any) -> None:
            words = [value]
            while state.rargs and BAND.fullmatch(state.rargs[0]) and not os.path.exists(state.rargs[0]):
                words.append(state.rargs.pop(0))
            process(",".join(words), state)

        own.process = take


class LocalPath(click.Path):
    """A path of this machine to write to; an address would become a folder named after its scheme."""

    def __init__(self, **options: Any) -> None:
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path.

        Raises:
            StoreError: it is an address.
        """
        if SCHEME.match(str(value)):
            raise StoreError(
                f"{shown_address(str(value))}: is an address, and this command writes to local folders alone"
            )
        return super().convert(value, param, ctx)
