"""YAML from files that others wrote: bounded, and described without their content when it cannot be read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ussfc.local_files import open_regular

MOST_BYTES = 4 * 1024 * 1024
"""Largest file that is read, bytes."""

MOST_VALUES = 100_000
"""Values that a document may have once its aliases are written out."""

CONTENT = re.compile(r"'(?!<)[^']{3,}'|\"(?!<)[^\"]{3,}\"")
"""Words of a document that a message of the parser repeats; names of tokens stand in angle brackets."""


def read_yaml(path: str | Path, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return the content of a local YAML file.

    Args:
        path: of the file.
        loader: a safe loader.

    Raises:
        OSError: it cannot be opened, or is a special file.
        ValueError: it is no YAML, or too large; the message is one line.
    """
    with open_regular(path) as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES >> 20} MiB")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from error
    return parse_yaml(text, loader)


def parse_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return the content of a YAML text; aliases that would multiply without bound are refused.

    Args:
        text: the document.
        loader: a safe loader.

    Raises:
        ValueError: it is no YAML; the message is one line.
    """
    try:
        return _load(text, loader)
    except yaml.MarkedYAMLError as error:
        problem = CONTENT.sub("'...'", error.problem or "no YAML")
        mark = error.problem_mark or error.context_mark
        raise ValueError(f"{problem}, line {mark.line + 1}" if mark else problem) from error
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except (AttributeError, KeyError, OverflowError, TypeError) as error:
        # Of conversions to numbers and dates that the text only looks like.
        raise ValueError(f"a value of it cannot be converted ({type(error).__name__})") from error


def _load(text: str, loader: type[yaml.SafeLoader]) -> Any:
    parser = loader(text)
    try:
        node = parser.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > MOST_VALUES:
            raise ValueError(f"its aliases stand for more than {MOST_VALUES:,} values")
        return parser.construct_document(node)
    finally:
        parser.dispose()


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """Return the number of values below a node, each alias counted as often as it stands.

    Args:
        node: of the document.
        known: numbers by the identity of the nodes that were counted.

    Raises:
        ValueError: an alias stands within what it is an alias of.
    """
    if id(node) in known:
        if known[id(node)] < 0:
            raise ValueError("an alias of it stands within itself")
        return known[id(node)]
    known[id(node)] = -1
    total = 1
    if isinstance(node, yaml.MappingNode):
        total += sum(_values(part, known) for pair in node.value for part in pair)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_values(part, known) for part in node.value)
    known[id(node)] = total
    return total
