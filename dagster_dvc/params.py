"""Parameters of one launch: checked, and written so that DVC can read them in one way only.

`dvc exp run --set-param` takes more than a parameter: KEY may name another file
("dvc.yaml:stages.x.cmd"), add and delete, and VALUE is Hydra's language, with sweeps, references to
other parameters and environment variables. So a key has to be one of params.yaml, and what DVC
makes of all of them is tried on a copy of it first: nothing may come out but what was asked for.
"""

import copy
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from dagster_dvc.errors import ParamsError

ParamsValidator: TypeAlias = Callable[[Path], object]
"""Reads a params.yaml; raises an exception, with a message for people, where it can't be run."""

PARAMS_FILE = "params.yaml"
KEY_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
TEMPLATE = re.compile(r"\$\{([^}]*)\}")
PLAIN = re.compile(r"(?![/-])(?!.*(^|/)\.\.(/|$))[A-Za-z0-9_./-]*")
"""Text that means itself wherever dvc.yaml puts it: in a command, and as a path in the project."""


def param_overrides(
    root: Path, params: Mapping[str, Any], *, validate: ParamsValidator | None = None
) -> list[str]:
    """Arguments of `--set-param` that set `params` and nothing else.

    Args:
        root: the folder that holds dvc.yaml and params.yaml.
        params: {"masksyn.samples_per_source": 4}; a section may be given as a mapping ({"masksyn":
            {...}}), of which the values that it names are set. Lists are replaced as a whole.
        validate: is shown params.yaml as it would be.

    Raises:
        ParamsError: a key isn't one of params.yaml, a value can't be handed over, or `validate`
            refuses the whole.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.hydra import apply_overrides
    from omegaconf.errors import OmegaConfBaseException

    values: dict[str, Any] = {}
    for key, value in _leaves(params):
        if key in values:
            raise ParamsError(f"the parameter {key!r} is given twice")
        values[key] = value
    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder, PARAMS_FILE)
        try:
            trial.write_bytes((root / PARAMS_FILE).read_bytes())
        except FileNotFoundError:
            raise ParamsError(
                f"there is no {root / PARAMS_FILE}, so no parameter can be set"
            ) from None
        expected = copy.deepcopy(_read(trial))
        for key, value in values.items():
            _set(expected, key, value)
            _check_templates(root, key, value)
        overrides = [f"{key}={_hydra(value, key=key)}" for key, value in values.items()]
        try:
            apply_overrides(str(trial), overrides)
        except (DvcException, OmegaConfBaseException, TypeError, ValueError) as error:
            raise ParamsError(f"DVC can't set {', '.join(values)}: {error}") from error
        if _typed(_read(trial)) != _typed(expected):
            raise ParamsError(
                f"DVC would read something else into {', '.join(values)} or params.yaml; "
                "no ${...} is taken there"
            )
        if validate is not None:
            try:
                validate(trial)
            except Exception as error:
                raise ParamsError(str(error).replace(f"{folder}/", "")) from error
    return overrides


def _leaves(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in params.items():
        key = f"{prefix}{name}"
        if not isinstance(name, str) or not all(
            KEY_PART.fullmatch(part) for part in name.split(".")
        ):
            raise ParamsError(
                f"{key!r} is no key of params.yaml; expected names joined by dots, such as "
                "masksyn.seed"
            )
        if isinstance(value, Mapping):
            if not value:
                raise ParamsError(
                    f"the parameter {key!r} is an empty section; name the values to set"
                )
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _set(tree: Any, key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for part in sections:
        tree = tree.get(part) if isinstance(tree, dict) else None
    if not isinstance(tree, dict) or last not in tree:
        raise ParamsError(
            f"params.yaml has no parameter {key!r}; only those that it has can be set"
        )
    if isinstance(tree[last], dict):
        raise ParamsError(f"{key!r} is a section of params.yaml; name the values in it to set")
    tree[last] = value


def _check_templates(root: Path, key: str, value: Any) -> None:
    """Refuse text that a shell or a path would read as more, where dvc.yaml uses the parameter."""
    names = {
        re.split(r"[\[\s]", name.strip(), maxsplit=1)[0]
        for name in TEMPLATE.findall((root / "dvc.yaml").read_text("utf-8"))
    }
    if any(f"{key}.".startswith(f"{name}.") or f"{name}.".startswith(f"{key}.") for name in names):
        for text in _texts(value):
            if not PLAIN.fullmatch(text):
                raise ParamsError(
                    f"the parameter {key!r} is used in dvc.yaml, so its text may hold letters, "
                    f"digits, '_', '.', '-' and '/' and no path out of the project, not {text!r}"
                )


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from (str(name), *_texts(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def _hydra(value: Any, *, key: str) -> str:
    """A value as Hydra's override grammar wants it (https://hydra.cc/docs/advanced/override_grammar/basic/)."""
    if isinstance(value, str):
        # OmegaConf's own escape first: an odd number of backslashes before "${". Then the quotes':
        # double those before a quote.
        literal = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value)
        return (
            "'"
            + re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), literal)
            + "'"
        )
    if isinstance(value, list | tuple):
        return f"[{','.join(_hydra(item, key=key) for item in value)}]"
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) and KEY_PART.fullmatch(name) for name in value):
            raise ParamsError(
                f"the parameter {key!r} holds a mapping whose keys aren't plain names: "
                f"{list(value)}"
            )
        return f"{{{','.join(f'{name}:{_hydra(item, key=key)}' for name, item in value.items())}}}"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    raise ParamsError(
        f"the parameter {key!r} is {type(value).__name__}, which params.yaml can't hold"
    )


def _typed(value: Any) -> Any:
    """A form of a value in which true isn't 1, and 1 isn't 1.0."""
    if isinstance(value, Mapping):
        return {name: _typed(item) for name, item in value.items()}
    return (
        [_typed(item) for item in value]
        if isinstance(value, list | tuple)
        else (type(value).__name__, value)
    )


def _read(path: Path) -> Any:
    """A parameter file as DVC reads it."""
    from dvc.utils.serialize import load_yaml

    return load_yaml(str(path)) or {}
