"""Configuration from YAML, `--set a.b=c` and flags, checked by pydantic; every error names file and field."""

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from medgen_cli.errors import UsageError

Values = dict[str, Any]
Model = TypeVar("Model", bound=BaseModel)

_MAX_BYTES = 1_000_000
_MAX_PROBLEMS_SHOWN = 5


class _StrictLoader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that stands twice in one mapping."""


def _mapping_without_duplicates(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys: set[object] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, str) and key in keys:
            raise yaml.constructor.ConstructorError(
                None, None, f"the key {key!r} stands twice", key_node.start_mark
            )
        if isinstance(key, str):
            keys.add(key)
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_StrictLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping_without_duplicates)


def read_yaml(config_file: Path) -> Values:
    """Read a YAML mapping with the safe loader.

    Raises:
        UsageError: If the file is missing, unreadable, not UTF-8, not YAML, or not a mapping.
    """
    try:
        raw = config_file.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{config_file}: no such file; give the path of a recipe") from None
    except OSError as error:
        raise UsageError(f"{config_file}: cannot be read: {error.strerror}") from error
    if len(raw) > _MAX_BYTES:
        raise UsageError(f"{config_file}: {len(raw)} bytes; a recipe is at most {_MAX_BYTES}")
    try:
        values = yaml.load(raw.decode("utf-8"), Loader=_StrictLoader)  # noqa: S506 - a subclass of SafeLoader
    except UnicodeDecodeError as error:
        raise UsageError(f"{config_file}: not UTF-8 text (byte {error.start})") from error
    except RecursionError as error:
        raise UsageError(f"{config_file}: nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"{config_file}{_position(error)}: not valid YAML: {_reason(error)}") from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UsageError(f"{config_file}: expected a mapping of names to values, got {type(values).__name__}")
    return values


def apply_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> Values:
    """Return `values` with every `a.b=c` applied.

    The value stays text, which pydantic turns into the type of the field; `null`, `true`, `false`, `[...]`, `{...}`
    are YAML.

    Raises:
        UsageError: If an override is not of the form `a.b=c`.
    """
    result = deepcopy(dict(values))
    for override in overrides:
        path, equals, raw = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise UsageError(f"--set {override}: expected name.name=value, e.g. --set sample.num_images=64")
        set_value(result, keys, _override_value(override, raw.strip()))
    return result


def set_value(values: Values, keys: Sequence[str], value: Any) -> None:
    """Set a nested value in place, making the mappings on the way."""
    target = values
    for key in keys[:-1]:
        if not isinstance(target.get(key), dict):
            target[key] = {}
        target = target[key]
    target[keys[-1]] = value


def _override_value(override: str, raw: str) -> Any:
    if raw in ("null", "true", "false") or raw.startswith(("[", "{")):
        try:
            return yaml.safe_load(raw)
        except yaml.YAMLError as error:
            raise UsageError(f"--set {override}: the value is not valid YAML: {_reason(error)}") from error
    return raw


def validate(model: type[Model], values: Mapping[str, Any], *, source: str, prefix: str = "") -> Model:
    """Check values against a model.

    Args:
        model: Pydantic model with `extra="forbid"`.
        values: What was read.
        source: Where it came from, for the message: a file name or "command line".
        prefix: Dotted name of the section, e.g. "train".

    Raises:
        UsageError: Naming source, dotted field, what was expected and what came.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        problems = [_describe(problem, model, prefix) for problem in error.errors()]
    shown = problems[:_MAX_PROBLEMS_SHOWN]
    if len(problems) > len(shown):
        shown.append(f"and {len(problems) - len(shown)} more")
    raise UsageError("\n".join(f"{source}: {problem}" for problem in shown))


def _describe(problem: Mapping[str, Any], model: type[BaseModel], prefix: str) -> str:
    raw = [str(part) for part in problem["loc"]]
    location = _without_tags(raw, model)
    dotted = ".".join([prefix, *location] if prefix else location) or "(whole file)"
    if problem["type"] == "extra_forbidden":
        return f"{dotted}: unknown key{suggest(raw, model, prefix)}"
    if problem["type"] == "missing":
        return f"{dotted}: missing; add it"
    if problem["type"] == "value_error":
        return f"{dotted}: {problem['msg'].removeprefix('Value error, ')}"
    if problem["type"] == "union_tag_invalid":
        return _no_such_tag(dotted, problem["ctx"])
    return f"{dotted}: {problem['msg'].replace('Input should', 'should')}, got {problem['input']!r:.80}"


def _no_such_tag(dotted: str, context: Mapping[str, Any]) -> str:
    """Say that a section is of none of the kinds there are."""
    key, tag = str(context["discriminator"]).strip("'"), str(context["tag"])
    known = str(context["expected_tags"]).replace("'", "")
    close = difflib.get_close_matches(tag, known.split(", "), n=1)
    hint = f'; did you mean "{close[0]}"?' if close else ""
    return f"{dotted}.{key}: should be one of {known}, got {tag!r}{hint}"


def suggest(location: Sequence[str], model: type[BaseModel], prefix: str = "") -> str:
    """Return '; did you mean "..."?' for an unknown key, or the keys there are."""
    siblings = list(_fields_at(model, location[:-1]))
    close = difflib.get_close_matches(location[-1], siblings, n=1)
    if close:
        return f'; did you mean "{close[0]}"?'
    root, root_prefix = _chosen_kind(location, model, prefix)
    elsewhere = [path for path in dotted_fields(root, root_prefix) if path.split(".")[-1] == location[-1]]
    if elsewhere:
        return f'; did you mean "{elsewhere[0]}"?'
    return f"; known here: {', '.join(siblings)}"


def _without_tags(location: Sequence[str], model: type[BaseModel]) -> list[str]:
    """Return a location without the tags that pydantic puts in where a section is of one of several kinds."""
    return [part for part, _, is_tag in _walk(location, model) if not is_tag]


def _chosen_kind(location: Sequence[str], model: type[BaseModel], prefix: str) -> tuple[type[BaseModel], str]:
    """Return the model that the innermost tag chose, and its dotted name; the whole model without a tag."""
    chosen, dotted = (model, prefix), [prefix] if prefix else []
    for part, models, is_tag in _walk(location, model):
        if is_tag:
            chosen = (models[0], ".".join(dotted))
        else:
            dotted.append(part)
    return chosen


def _walk(
    location: Sequence[str], model: type[BaseModel]
) -> Iterator[tuple[str, list[type[BaseModel]], bool]]:
    """Yield each part of a location with the models it leads to, and whether it is a tag and no key."""
    models = [model]
    for part in location:
        of_kind = [each for each in models if part in _tags(each)] if len(models) > 1 else []
        models = of_kind or _models_below(models, part)
        yield part, models, bool(of_kind)


def _tags(model: type[BaseModel]) -> set[str]:
    """Return the values by which a model says of which kind it is: the literals of its first field."""
    first = next(iter(model.model_fields.values()), None)
    is_kind = first is not None and get_origin(first.annotation) is Literal
    return {str(value) for value in get_args(first.annotation)} if first is not None and is_kind else set()


def _models_below(models: Sequence[type[BaseModel]], name: str) -> list[type[BaseModel]]:
    return [
        nested
        for each in models
        if name in each.model_fields
        for nested in _models_in(each.model_fields[name].annotation)
    ]


def dotted_fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every field, nested models included."""
    for name, field in model.model_fields.items():
        dotted = f"{prefix}.{name}" if prefix else name
        yield dotted
        for nested in _models_in(field.annotation):
            yield from dotted_fields(nested, dotted)


def _fields_at(model: type[BaseModel], path: Sequence[str]) -> Iterator[str]:
    models = [model]
    for _, models, _ in _walk(path, model):  # noqa: B007 - the last ones are wanted
        pass
    for each in models:
        yield from each.model_fields


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _models_in(member)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


def diff_fields(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """List the fields that differ, as `a.b: old -> new`."""
    lines: list[str] = []
    for key in dict.fromkeys([*old, *new]):
        before, after, dotted = old.get(key), new.get(key), f"{prefix}{key}"
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += diff_fields(before, after, f"{dotted}.")
        elif before != after:
            lines.append(f"{dotted}: {before} -> {after}")
    return lines


def _position(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    return f" line {mark.line + 1}" if mark else ""


def _reason(error: Exception) -> str:
    return str(getattr(error, "problem", None) or error).splitlines()[0]
