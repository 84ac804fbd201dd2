"""Opening rasters with GDAL, and repeating calls that failed over a network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from ussfc.addresses import shown_address
from ussfc.pipeline.errors import ReadError
from ussfc.pipeline.parallel.backoff import ONCE, Backoff
from ussfc.pipeline.quiet import ignored_warnings
from ussfc.pipeline.reading.cloud_access import (
    GDAL_ERRORS,
    gdal_environment,
    gdal_reason,
    over_network,
    stat,
    store_options,
)
from ussfc.pipeline.storage import remote
from ussfc.pipeline.waiting import waiting_for

READ_BACKOFF = Backoff(attempts=4, first=0.5, factor=2.0, longest=2.0)
"""Attempts at a scene on a network that fails while its store answers."""

MOST_OPENS = 5
"""Requests for one header, of which two in a row must agree."""

NETWORK_PREFIXES = {"http": "/vsicurl/http://", "https": "/vsicurl/https://", "s3": "/vsis3/", "gs": "/vsigs/",
                    "az": "/vsiaz/"}  # fmt: skip
"""GDAL's prefixes by the scheme of an address."""

Result = TypeVar("Result")


def gdal_name(uri: str) -> str:
    """Return the name of a file in a VRT.

    Raises:
        ReadError: GDAL has no name for an address.
    """
    if not remote.is_remote(uri):
        return uri
    scheme, _, rest = uri.partition("://")
    prefix = NETWORK_PREFIXES.get(scheme.lower())
    if prefix is None:
        raise ReadError(
            f"{shown_address(uri)}: bands are read from local files, https://, s3://, gs:// or az:// addresses"
        )
    return prefix + rest


def retry_gdal(
    uri: str, shown: str, block_cache: int, request: Callable[[Mapping[str, str]], Result], failure: str
) -> Result:
    """Return the result of GDAL calls, repeated where a network may be to blame.

    Args:
        uri: path or URI.
        shown: the same for messages, without credentials.
        block_cache: GDAL's cache of decoded blocks, bytes.
        request: makes the calls; takes the store's options. It closes what it opened when it fails: GDAL then
            forgets what it kept of the file.
        failure: message of the error, with a place ``{}`` for the reason.

    Raises:
        ReadError: the last attempt failed.
    """
    for pause in (READ_BACKOFF if over_network(uri) else ONCE).pauses():
        options = store_options(uri, shown)
        try:
            with waiting_for(remote.host_of(uri)), gdal_environment(uri, block_cache, options):
                return request(options)
        except GDAL_ERRORS as error:
            if pause is None:
                raise ReadError(f"{shown}: {failure.format(gdal_reason(error, uri, shown))}") from error
        # Returns once the store answers, and raises what the store refuses: no other attempt would get it.
        stat(uri, shown)
        time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def open_raster(uri: str, shown: str, header: str | None = None, **options: Any) -> tuple[Any, str]:
    """Open a raster; over a network repeatedly until two answers agree on its header.

    GDAL takes an answer that was cut short for a whole one, and leaves out the tags that it does not find in it:
    a scene would lose its place on Earth, or its nodata.

    Args:
        uri: path or URI.
        shown: the same for messages, without credentials.
        header: header that an earlier call returned for the same file and options.
        options: keyword arguments of ``rasterio.open``.

    Returns:
        The dataset and its header; the header is empty for a file that is not read over a network.

    Raises:
        ReadError: the header differs from ``header``.
    """
    last = header
    for _ in range(MOST_OPENS):
        # A file without georeference is a case of its own that common_grid decides on.
        with ignored_warnings(NotGeoreferencedWarning):
            source = rasterio.open(uri, **options)
            if not over_network(uri):
                return source, ""
            try:
                found = _header(source)
            except GDAL_ERRORS:
                source.close()
                raise
        if found == last and header in (None, found):
            return source, found
        source.close()
        if found == last:
            raise ReadError(f"{shown}: has changed since it was first opened; run again")
        last = found
    raise RasterioIOError("its header differs with every request")


@contextmanager
def opened_raster(uri: str, shown: str, **options: Any) -> Iterator[Any]:
    """Open a raster as :func:`open_raster` does, and close it at the end."""
    source, _ = open_raster(uri, shown, **options)
    with source:
        yield source


def _header(source: Any) -> str:
    """Return everything that the reading depends on and that a truncated header may lack."""
    points = [(point.row, point.col, point.x, point.y, point.z) for point in source.gcps[0]]
    return repr((
        source.profile, source.descriptions, source.colorinterp, source.mask_flag_enums, source.overviews(1),
        points, source.gcps[1], source.rpcs, source.tags(),
    ))  # fmt: skip
