"""Loading of the configuration from its sources, with the origin of every value.

Order of precedence: flags, ``--set``, environment ``USSFC_...``, user file, packaged ``configs/default.yaml``.
"""

from __future__ import annotations

import copy
import difflib
import functools
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from ussfc.pipeline.config.schema import CLUSTERS, BaseCluster, RunConfig, unset
from ussfc.pipeline.errors import ConfigError
from ussfc.yaml_text import parse_yaml, read_yaml

ENV_PREFIX = "USSFC_"
"""Beginning of the environment variables that are settings."""


OTHER_NAMES = {
    "partition": "queue", "time": "walltime", "time_limit": "walltime", "timelimit": "walltime", "mem": "memory",
    "nodes": "jobs", "cores": "threads", "cpus": "threads", "cpus_per_task": "threads", "ntasks": "workers",
    "n_workers": "workers", "nprocs": "workers", "processes": "workers", "gpus": "gpu",
}  # fmt: skip
"""Keys by the names that SLURM and Dask have for them."""
MOST_SHOWN = 200
"""Characters of a wrong value that a message shows."""


class _Setting(NamedTuple):
    value: Any
    origin: str
    """File, variable or argument that the value comes from, for messages."""


_Settings = dict[str, _Setting]
"""Values by dotted key."""

_NOT_SET = _Setting(None, "the configuration")


class _Loader(yaml.SafeLoader):
    """YAML whose whole numbers are decimal: 12:00:00 is a time, not of base 60, and 0123 an account, not octal."""


_Loader.yaml_implicit_resolvers = {
    letter: [(tag, words) for tag, words in resolvers if tag != "tag:yaml.org,2002:int"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?(0|[1-9][0-9]*)$"), list("-+0123456789")
)


def documented_keys() -> Iterator[tuple[str, Any, str]]:
    """Yield (dotted key, default, description) of every key.

    The keys of ``cluster`` are those of all its kinds; None stands for the default of a key that a kind needs.
    """
    for name, field in RunConfig.model_fields.items():
        for key, inner in _fields_of(name, field):
            default = None if inner.is_required() else inner.default
            yield key, default, inner.description or ""


def _fields_of(name: str, field: FieldInfo) -> Iterator[tuple[str, FieldInfo]]:
    if name == "cluster":
        yield (
            "cluster.kind",
            FieldInfo(default="auto", description=BaseCluster.model_fields["kind"].description),
        )
        keys: dict[str, FieldInfo] = {}
        for model in CLUSTERS.values():
            keys = {**model.model_fields, **keys}
        for inner in dict.fromkeys(key for model in CLUSTERS.values() for key in model.model_fields):
            if inner != "kind":
                yield f"cluster.{inner}", keys[inner]
    elif isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        for inner, inner_field in field.annotation.model_fields.items():
            yield f"{name}.{inner}", inner_field
    else:
        yield name, field


def load_config(
    file: Path | None = None,
    sets: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    base: Mapping[str, Any] | None = None,
    cluster: str | None = None,
    values: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Load the configuration of a run.

    Args:
        file: user's YAML file.
        sets: ``a.b=c`` settings, c in YAML.
        environment: variables; ``USSFC_TILING__TILE_SIZE=1024`` sets ``tiling.tile_size``.
        flags: dotted keys from command line options; None values are left out.
        base: nested mapping instead of the packaged defaults, as an earlier run recorded it.
        cluster: a packaged preset by its name, or a YAML file: goes before ``file``, but decides the kind.
        values: keys of a Python caller, nested or dotted; they go before all others.

    Returns:
        The configuration, validated.

    Raises:
        ConfigError: unreadable file, unknown key (the nearest known one is named), unusable value, a key of ``cluster``
            that its kind does not use, or one that it lacks.
    """
    settings = _flatten(base or _packaged_defaults(), "configs/default.yaml")
    preset = {} if cluster is None else _cluster_preset(cluster)
    _overlay(settings, preset)
    if file is not None:
        _overlay(settings, _from_file(file))
    _overlay_environment(settings, environment or {})
    _overlay_sets(settings, sets)
    if preset:
        settings["cluster.kind"] = preset["cluster.kind"]
    for key, value in (flags or {}).items():
        if value is not None:
            _overlay(settings, _flatten(_nest(key, value), "the command line"))
    for key, value in (values or {}).items():
        _overlay(settings, _flatten(_nest(str(key), value), "config"))
    _yield_fixed_number(settings, preset)
    return _validate(_of_kind(settings))


def as_config(config: RunConfig | Mapping[str, Any] | None) -> RunConfig:
    """Return the configuration of a Python caller.

    Args:
        config: from :func:`load_config`, or keys beside the packaged defaults, nested (``{"tiling": {"tile_size":
            256}}``) or dotted (``{"tiling.tile_size": 256}``); None for the defaults.

    Raises:
        ConfigError: an unknown key, an unusable value, or something else than a mapping.
    """
    if isinstance(config, RunConfig):
        return config
    if config is not None and not isinstance(config, Mapping):
        raise ConfigError(
            f"config: is a {type(config).__name__}; expected a dict such as {{'tiling.tile_size': 256}}, or what "
            "load_config() returns"
        )
    return load_config(values=config)


@functools.cache
def _packaged_defaults() -> Mapping[str, Any]:
    # Kept, so not to be changed by anybody: parsing it is most of what loading a configuration takes.
    loaded: Mapping[str, Any] = yaml.safe_load(
        resources.files("ussfc.configs").joinpath("default.yaml").read_text("utf-8")
    )
    return loaded


def _cluster_preset(cluster: str) -> _Settings:
    preset = _from_file(_preset_file(cluster))
    if preset.get("cluster.kind", _NOT_SET).value is None:
        raise ConfigError(
            f"--cluster {cluster}: cluster.kind is not set in it; see configs/clusters for examples"
        )
    return preset


def _preset_file(name: str) -> Path:
    """Return the file of a cluster: a packaged one by its name, else the name is a path."""
    folder = resources.files("ussfc.configs").joinpath("clusters")
    names = sorted(
        entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )
    if name in names:
        return Path(str(folder.joinpath(f"{name}.yaml")))
    if not Path(name).exists():
        raise ConfigError(f"--cluster {name}: neither a file nor one of {', '.join(names)}")
    return Path(name)


def _overlay_environment(settings: _Settings, environment: Mapping[str, str]) -> None:
    for name, text in environment.items():
        if name.startswith(ENV_PREFIX):
            key = name.removeprefix(ENV_PREFIX).lower().replace("__", ".")
            _overlay(settings, _flatten(_nest(key, _parse(text)), f"environment variable {name}"))


def _overlay_sets(settings: _Settings, sets: Sequence[str]) -> None:
    for setting in sets:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: expected key=value, for example --set tiling.tile_size=1024")
        _overlay(settings, _flatten(_nest(key.strip(), _parse(text)), f"--set {setting}"))


def _overlay(settings: _Settings, addition: _Settings) -> None:
    """Put later settings over earlier ones; a mapping's entries one by one."""
    for key, (value, origin) in addition.items():
        earlier = settings.get(key, _NOT_SET).value
        if isinstance(earlier, dict) and isinstance(value, dict):
            merged = copy.deepcopy(earlier)
            _merge(merged, value)
            value = merged
        settings[key] = _Setting(value, origin)


def _yield_fixed_number(settings: _Settings, preset: _Settings) -> None:
    """Drop the fixed number of jobs of a preset where a user asks for a changing one.

    A packaged file has a number so that it works as it is; it is no wish that a user's own would contradict.
    """
    fixed = preset.get("cluster.jobs")
    if fixed is None or settings["cluster.jobs"] != fixed:
        return
    ends = [settings.get(f"cluster.{end}_jobs", _NOT_SET) for end in ("minimum", "maximum")]
    if any(end.value is not None and end.origin != fixed.origin for end in ends):
        settings["cluster.jobs"] = _Setting(None, fixed.origin)


def _of_kind(settings: _Settings) -> _Settings:
    """Return the settings without keys of other kinds of cluster, and without keys of this kind that are null.

    Raises:
        ConfigError: the kind is unknown, or a key that it does not use has a value.
    """
    chosen = settings.get("cluster.kind", _Setting("auto", _NOT_SET.origin))
    kind = chosen.value
    if not isinstance(kind, str) or kind not in CLUSTERS:
        raise ConfigError(
            f"cluster.kind = {kind!r} from {chosen.origin}: expected one of {', '.join(CLUSTERS)}"
        )
    own = CLUSTERS[kind].model_fields
    kept = {"cluster.kind": chosen}
    for key, setting in settings.items():
        section, _, name = key.partition(".")
        value = setting.value
        if section != "cluster":
            kept[key] = setting
        elif name in own:
            if value is not None:
                kept[key] = setting
        elif not (value is None or value is False or value == {}):
            kinds = [other for other, model in CLUSTERS.items() if name in model.model_fields]
            raise ConfigError(
                f"{key} from {setting.origin}: of no use to cluster.kind {kind}, only to {', '.join(kinds)}; choose "
                "one with --cluster, or leave the key out"
            )
    return kept


def _refuse_words_for_numbers(settings: _Settings) -> None:
    """Refuse true and false where a number belongs, for pydantic takes them as 1 and 0."""
    words = {key: setting for key, setting in settings.items() if isinstance(setting.value, bool)}
    for name, field in RunConfig.model_fields.items():
        for key, inner in _fields_of(name, field):
            if key not in words:
                continue
            kinds = _kinds(inner.annotation)
            if kinds & {int, float} and bool not in kinds:
                value, origin = words[key]
                raise ConfigError(f"{key} = {value!r} from {origin}: input should be a number")


def _kinds(annotation: Any) -> set[Any]:
    """Return the types that an annotation admits."""
    inner = get_args(annotation)
    return set().union(*map(_kinds, inner)) if inner else {annotation}


def _validate(settings: _Settings) -> RunConfig:
    _refuse_words_for_numbers(settings)
    nested: dict[str, Any] = {}
    for key, (value, _) in settings.items():
        _merge(nested, _nest(key, value))
    try:
        return RunConfig.model_validate(nested)
    except ValidationError as error:
        raise ConfigError(_describe(error.errors()[0], settings)) from error


def _describe(details: ErrorDetails, settings: _Settings) -> str:
    """Return one line about a validation error: key, value, origin, and what was expected."""
    parts = [part for part in details["loc"] if isinstance(part, str)]
    if parts[0] == "cluster":
        kind = parts.pop(1)
        if details["type"] == "missing":
            return unset(kind, ".".join(parts))
    text = plain_fault(details)
    if parts == ["cluster"]:
        return text  # of several keys, which it names
    key = ".".join(parts)
    origin = settings.get(key, _NOT_SET).origin
    return f"{key} = {_short(details['input'])} from {origin}: {text}"


def plain_fault(details: ErrorDetails) -> str:
    """Return what is wrong with a value, in words for people."""
    text = details["msg"].removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _from_file(file: Path) -> _Settings:
    try:
        loaded = read_yaml(file, _Loader)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{file}: cannot be read, no such file; check the path of the configuration"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{file}: cannot be read as YAML ({reason})") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{file}: holds no mapping of keys; see `ussfc config` for what it may hold")
    return _flatten(loaded, str(file))


def _parse(text: str) -> Any:
    try:
        return parse_yaml(text, _Loader)
    except ValueError:
        return text


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return dict(value)


def _merge(target: dict[str, Any], addition: Mapping[str, Any]) -> None:
    for key, value in addition.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def nearest_key(key: str, known: Collection[str]) -> str | None:
    """Return the known key that is meant by an unknown one: by its name elsewhere, else by its spelling."""
    section, dot, name = key.rpartition(".")
    translated = f"{section}{dot}{OTHER_NAMES.get(name.lower().replace('-', '_'), name)}"
    if translated in known:
        return translated
    return next(iter(difflib.get_close_matches(key[:80], known, 1, 0.4)), None)


def _flatten(nested: Mapping[str, Any], origin: str) -> _Settings:
    """Return a nested mapping by dotted key.

    Raises:
        ConfigError: an unknown key; names the nearest known one.
    """
    known = {key for key, _, _ in documented_keys()}
    settings: _Settings = {}

    def walk(value: Any, key: str) -> None:
        if key in known:
            settings[key] = _Setting(value, origin)
        elif isinstance(value, Mapping) and any(name.startswith(f"{key}.") for name in known):
            for name, inner in value.items():
                walk(inner, f"{key}.{name}")
        else:
            nearest = nearest_key(key, known)
            hint = f"; did you mean {nearest}?" if nearest else ""
            raise ConfigError(f"{origin}: unknown key {key}{hint} (`ussfc config` lists all keys)")

    for name, value in nested.items():
        walk(value, str(name))
    return settings
