"""Nonsense in params.yaml: everything has to be refused by `seggen plan`, with one message.

python -m tools.fuzz_params [--count 604] [--seed 0]
"""

import json
import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tools.campaign import Campaign, Case, run_tool
from tools.damage import get, places

ROOT = Path(__file__).parent.parent
NUMBERS: tuple[Any, ...] = (
    *("@.inf", "@-.inf", "@.nan", "@1e400", "@1_000", "@1:30", "@0o17", "@0777", "@yes"),
    *(
        f"@{'9' * 5000}",
        "@1" + "0" * 60,
        -1,
        1e308,
        "3 ",
        "3",
        True,
        [],
        {},
        "many",
        [1],
        "@!!int 3",
    ),
)
TEXTS: tuple[Any, ...] = (3, 1.5, True, [], {}, ["a"], "@no", "@1:30", "@2020-01-01", "a\0b")
SLUGS: tuple[Any, ...] = (
    "car; touch x",
    "$(touch x)",
    "`id`",
    "../car",
    "a b",
    "-rf",
    "",
    "é",
    "a\n",
)
SLUG_KEYS = {"profile", "classes", "methods", "unseen", "baseline", "variant"}
BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(30)
)
TEXT_CASES: dict[str, Callable[[str], str]] = {
    "a section twice": lambda t: t + "\ndataset: {}\n",
    "a key twice": lambda t: t.replace("seed: 0\n", "seed: 0\nseed: 1\n"),
    "a deep key twice": lambda t: t.replace("num_val: 100\n", "num_val: 100\n  num_val: 3\n"),
    "an alias bomb": lambda t: t + BOMB,
    "an anchor of itself": lambda t: t + "x: &x [*x]\n",
    "an anchor that isn't": lambda t: t.replace("seed: 0", "seed: *x"),
    "a mapping of itself": lambda t: t + "x: &x {a: *x}\n",
    "2,000 lists": lambda t: t + "x: " + "[" * 2000 + "]" * 2000 + "\n",
    "2,000 mappings": lambda t: t + "x: " + "{a: " * 2000 + "1" + "}" * 2000 + "\n",
    "a python object": lambda t: t + "x: !!python/object/apply:os.system [touch x]\n",
    "a python name": lambda t: t.replace("seed: 0", "seed: !!python/name:os.system"),
    "a tag": lambda t: t.replace("seed: 0", "seed: !!str 0"),
    "two documents": lambda t: t + "\n---\nseed: 1\n",
    "a directive": lambda t: "%YAML 1.1\n---\n" + t,
    "a tab": lambda t: t.replace("  name: scenes", "\tname: scenes"),
    "a NUL byte": lambda t: t.replace("seed: 0", "seed: 0\0"),
    "nothing": lambda _: "",
    "a comment": lambda _: "# nothing\n",
    "a list": lambda _: "- a\n- b\n",
    "a word": lambda _: "seggen\n",
    "half": lambda t: t[: len(t) // 2],
    "four megabytes": lambda t: t + "# " + "x" * (4 << 20),
    "a million keys": lambda t: t + "".join(f"k{i}: 1\n" for i in range(200_000)),
    "a section of no stage": lambda t: t + "\ntex2mask: {}\n",
    "an unknown field": lambda t: t.replace("num_val: 100", "num_vall: 100"),
    "shell text for an arm": lambda t: t.replace("  baseline:\n", '  "a; touch x":\n'),
    "a setting that a sampler lacks": lambda t: t.replace(
        "num_inference_steps: 8,", "num_inference_steps: 8, scheduler_kwargs: {karras: true},"
    ),
    "a sampler that isn't": lambda t: t.replace("DPMSolverMultistepScheduler", "Scheduler"),
}
BYTES: dict[str, Callable[[bytes], bytes]] = {
    "UTF-16": lambda b: b.decode().encode("utf-16"),
    "Latin-1": lambda b: b + "# é\n".encode("latin-1"),
    "zeros": lambda b: bytes(len(b)),
}


def _write(folder: Path, content: bytes) -> None:
    (folder / "params.yaml").write_bytes(content)


def _rewrite(content: bytes) -> Callable[[Path], object]:
    return lambda folder: _write(folder, content)


def _replace_file(make: Callable[[Path], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        (folder / "params.yaml").unlink()
        make(folder / "params.yaml")

    return damage


def _set(place: tuple[str | int, ...], value: Any) -> Callable[[Path], object]:
    """Return what sets one value; text that begins with @ is written as it stands."""

    def damage(folder: Path) -> None:
        tree = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
        get(tree, place[:-1])[place[-1]] = "@@@" if str(value).startswith("@") else value
        text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
        _write(folder, text.replace("'@@@'", str(value)[1:]).encode())

    return damage


def _flip(rng: random.Random) -> Callable[[Path], object]:
    where, character = rng.random(), rng.choice("0123456789+-._eExXob:~yn \n\t'\"[]{},&*!#|>%@?")

    def damage(folder: Path) -> None:
        text = (folder / "params.yaml").read_text(encoding="utf-8")
        at = int(where * len(text))
        _write(folder, (text[:at] + character + text[at + 1 :]).encode())

    return damage


def make_campaign(count: int, rng: random.Random) -> Campaign:
    """Return `count` cases: every kind of broken text, then single values, then characters."""
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    cases = [Case(name, _rewrite(change(text).encode())) for name, change in TEXT_CASES.items()]
    cases += [Case(name, _rewrite(convert(text.encode()))) for name, convert in BYTES.items()]
    cases += [
        Case("a FIFO", _replace_file(os.mkfifo)),
        Case("a folder", _replace_file(Path.mkdir)),
        Case("a device", _replace_file(lambda p: p.symlink_to("/dev/zero"))),
        Case("a link to itself", _replace_file(lambda p: p.symlink_to(p.name))),
        Case("missing", _replace_file(lambda _: None)),
        Case("a byte order mark", lambda f: _write(f, b"\xef\xbb\xbf" + text.encode()), False),
    ]
    tree = yaml.safe_load(text)
    values = []
    for place in places(tree):
        value, name = get(tree, place), ".".join(map(str, place))
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        wrong: tuple[Any, ...] = NUMBERS if is_number else TEXTS if isinstance(value, str) else ()
        if SLUG_KEYS & set(map(str, place)) and isinstance(value, str):
            wrong += SLUGS
        if place[-1] in ("seed", "subset_seeds") or place[:2] == ("dataset", "subset_seeds"):
            wrong = tuple(w for w in wrong if w != {})
        values += [Case(f"{name} = {json.dumps(w)[:40]}", _set(place, w)) for w in wrong]
    rest = max(0, count - len(cases))
    num_flips = rest // 6
    cases += rng.sample(values, min(len(values), rest - num_flips))
    cases += [Case(f"character {i}", _flip(rng), False) for i in range(num_flips)]
    return Campaign(
        title="params.yaml (plan)",
        prepare=_prepare,
        command=("plan",),
        cases=cases[:count],
        imports=("seggen_core.reports.plan", "seggen_core.datasets.scenes", "dvc.utils.serialize"),
        seconds=30,
        megabytes=512,
        examine=means_the_same_to_dvc,
    )


def _prepare(folder: Path) -> None:
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "profiles" / "scenes").mkdir(parents=True)
    (folder / "profiles" / "scenes" / "foundation").symlink_to(
        ROOT / "profiles" / "scenes" / "foundation"
    )


def means_the_same_to_dvc(folder: Path) -> bool:
    """Return whether DVC reads the same values from params.yaml as seggen."""
    from dvc.utils.serialize import load_yaml

    from seggen_core.config.params_file import read_params

    path = folder / "params.yaml"
    return json.dumps(read_params(path)) == json.dumps(load_yaml(str(path)))


if __name__ == "__main__":
    sys.exit(run_tool(make_campaign, about=str(__doc__), count=604, argv=sys.argv[1:]))
