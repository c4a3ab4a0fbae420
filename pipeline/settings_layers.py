"""The layers that a configuration is made of, and how they become one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from pipeline.config import CaptioningConfig, EndpointConfig, RunConfig
from pipeline.config_errors import ConfigError, Location, explain, nearest
from pipeline.decoding.calibration import CalibrationError, load_calibration
from pipeline.speculation_config import SpeculationMethod

PROJECT_ROOT = Path(__file__).resolve().parents[1]
RECIPES = PROJECT_ROOT / "jobs" / "recipes"

SECTIONS = frozenset({*RunConfig.model_fields, *EndpointConfig.model_fields})
"""All that a file or a recipe may hold: a job ignores what is an endpoint's, and the reverse."""

Model = TypeVar("Model", bound=BaseModel)
Config = TypeVar("Config", bound=CaptioningConfig)


@dataclass(frozen=True, slots=True)
class Layer:
    """Values of one source, and what to call it."""

    name: str
    values: dict[str, Any]


def resolve(
    model: type[Config], upper: Sequence[Layer], file: Layer | None, recipe: str | None
) -> Config:
    """One config of the upper layers (the first one wins), over a file, over a recipe.

    The recipe is that of the file if none is named. Raises ConfigError.
    """
    layers = list(upper)
    if file is not None:
        values = dict(file.values)
        recipe_of_file = values.pop("recipe", None)
        recipe = recipe if recipe is not None else recipe_of_file
        layers.append(Layer(file.name, values))
    if recipe is not None:
        layers.append(_recipe_layer(str(recipe)))
    foreign = SECTIONS - set(model.model_fields)
    layers = [
        Layer(layer.name, {key: layer.values[key] for key in layer.values if key not in foreign})
        for layer in layers
    ]
    return _with_calibration(validated(model, layers), layers)


def recipe_names() -> list[str]:
    """The recipes that are shipped."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def _recipe_layer(name: str) -> Layer:
    path = RECIPES / f"{name}.yaml"
    if name not in recipe_names():
        names = recipe_names()
        raise ConfigError(f"no recipe {name}{nearest(name, names)}; there are {', '.join(names)}")
    layer = read_yaml(path)
    sections = [(model, "name") for model in layer.values.get("models", {}).values()]
    sections.append((layer.values.get("speculation"), "calibration"))
    for section, key in sections:
        if isinstance(section, dict) and str(section.get(key, "")).startswith("assets/"):
            section[key] = str(PROJECT_ROOT / section[key])  # shipped with the project
    return layer


def _with_calibration(config: Config, layers: list[Layer]) -> Config:
    """The calibration's path made absolute, as captioners may run in another folder.

    A calibration of method none is not looked at. Raises ConfigError if it can't be read.
    """
    speculation = config.speculation
    if speculation.calibration is None or speculation.method is SpeculationMethod.NONE:
        return config
    path = Path(speculation.calibration).expanduser().absolute()
    try:
        load_calibration(path)
    except CalibrationError as error:
        source = _source_of(("speculation", "calibration"), layers)
        raise ConfigError(f"speculation.calibration (in {source}): {error}") from error
    pinned = speculation.model_copy(update={"calibration": str(path)})
    return config.model_copy(update={"speculation": pinned})


def read_yaml(path: Path) -> Layer:
    """The layer of a config file. Raises ConfigError."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config file {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path} must hold sections (`input:`, `models:`, ...)")
    return Layer(str(path), values)


def validated(model: type[Model], layers: list[Layer]) -> Model:
    """Merge the layers (the first one wins) and check the result."""
    values: dict[str, Any] = {}
    for layer in reversed(layers):
        values = _merged(values, layer.values)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise explain(error, model, lambda location: _source_of(location, layers)) from error


def _merged(lower: dict[str, Any], upper: dict[str, Any]) -> dict[str, Any]:
    """``upper`` over ``lower``, key by key.

    Another model name does not inherit the revision of the model that it replaces.
    """
    result = dict(lower)
    if "name" in upper and upper["name"] != lower.get("name"):
        result.pop("revision", None)
    for key, value in upper.items():
        below = lower.get(key)
        if isinstance(value, dict) and isinstance(below, dict):
            value = _merged(below, value)
        result[key] = value
    return result


def _source_of(location: Location, layers: list[Layer]) -> str:
    """The layer that decides the value at a location."""
    for layer in layers:
        value: Any = layer.values
        for key in location:
            if not isinstance(value, dict):
                break  # an item of a list: the list is what the layer gives
            if key not in value:
                value = None
                break
            value = value[key]
        if value is not None:
            return layer.name
    return "the defaults"
