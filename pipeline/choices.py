"""Names that the configuration offers and the code computes with; imports nothing, so that both stay light."""

from __future__ import annotations

from typing import Literal, get_args

Taper = Literal["hann", "pyramid", "gaussian", "box"]
"""Profile of the blend weights, see :func:`ussfc.pipeline.tiling.blending.taper_weights`."""

Engine = Literal["auto", "openvino", "torch", "triton"]
"""Library that runs the network, see ``ussfc.engines``; ``auto`` is the fastest."""

Precision = Literal["auto", "float32", "bfloat16", "float16", "int8"]
"""Arithmetic of the network; ``auto`` is the fastest, but never ``int8``."""

VectorFormat = Literal["parquet", "gpkg", "flatgeobuf", "geojson"]
"""File format of the polygons."""

Smoothing = Literal["none", "median3"]
"""Filter of the probabilities on their way into products, see :mod:`ussfc.pipeline.pixels.smoothing`."""

NO_MASK = "none"
"""Word in the place of a mask's file: the one that comes with the scene is left out as well."""

TAPERS: tuple[str, ...] = get_args(Taper)

PRECISIONS: tuple[str, ...] = get_args(Precision)
"""Names of the kinds of arithmetic."""

ENGINES: tuple[str, ...] = get_args(Engine)
"""Names of the libraries."""
