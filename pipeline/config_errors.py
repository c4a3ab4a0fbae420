"""Configuration mistakes in words that help: which key, which value, where, and what is meant."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from pipeline.config_digest import mask_secrets

Location = tuple[int | str, ...]


class ConfigError(Exception):
    """The configuration is wrong; the text is for a terminal, and the exit code is 2."""


def explain(
    error: ValidationError, model: type[BaseModel], source_of: Callable[[Location], str]
) -> ConfigError:
    """One line per mistake; ``source_of`` says where the value of a key came from."""
    lines = [_line(item["type"], item["loc"], item, model, source_of) for item in error.errors()]
    return ConfigError(mask_secrets("\n".join(lines)))


def nearest(name: str, valid: Sequence[str]) -> str:
    """`` (did you mean X?)``, or nothing if no valid name is near."""
    near = difflib.get_close_matches(name, valid, n=1)
    return f" (did you mean {near[0]}?)" if near else ""


def dotted_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All keys of the model that hold a value, as ``section.key``."""
    for name, field in model.model_fields.items():
        section = _section_of(field.annotation)
        if section is None:
            yield f"{prefix}{name}"
        else:
            yield from dotted_keys(section, f"{prefix}{name}.")


def _line(
    kind: str,
    location: Location,
    item: Any,
    model: type[BaseModel],
    source_of: Callable[[Location], str],
) -> str:
    key = ".".join(map(str, location))
    if kind == "extra_forbidden":
        return f"unknown key {key}{_suggestion(location, model)}, in {source_of(location)}"
    if kind == "missing":
        section = _section_at(location, model)
        keys = _required_keys(section, f"{key}.") if section else [key]
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in keys)
        return f"{' and '.join(keys)} is missing: set it in a config file, or by {flags}"
    message = item["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    value = item["input"]
    if not location or isinstance(value, (dict, BaseModel)):  # a rule about several keys
        return f"{key}: {message}" if key else message
    return f"{key} = {value!r}: {message}, in {source_of(location)}"


def _suggestion(location: Location, model: type[BaseModel]) -> str:
    """A sibling with a near name, or a key anywhere that has that name."""
    section = _section_at(location[:-1], model)
    prefix = "".join(f"{name}." for name in location[:-1])
    siblings = [f"{prefix}{name}" for name in (section.model_fields if section else ())]
    wrong = str(location[-1])
    elsewhere = [key for key in dotted_keys(model) if key.rpartition(".")[2] == wrong]
    if elsewhere:
        return f" (did you mean {' or '.join(elsewhere)}?)"
    return nearest(f"{prefix}{wrong}", siblings)


def _section_at(location: Location, model: type[BaseModel]) -> type[BaseModel] | None:
    section: type[BaseModel] | None = model
    for name in location:
        field = section.model_fields.get(str(name)) if section else None
        section = _section_of(field.annotation) if field else None
    return section


def _required_keys(section: type[BaseModel], prefix: str) -> list[str]:
    keys: list[str] = []
    for name, field in section.model_fields.items():
        inner = _section_of(field.annotation)
        if field.is_required():
            keys += _required_keys(inner, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return keys


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, also if it may be None."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None
