"""README and docs name only links, paths, modules, make targets and subcommands that exist.

Their prose is wrapped, and the README's Python example runs.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from seggen_core.cli import COMMANDS, STAGES

ROOT = Path(__file__).parent.parent
ROOMS = ("seggen_core", "dagster_dvc", "dagster_project")
FOLDERS = (*ROOMS, "benchmarks", "docs", "examples", "profiles", "tests", ".github", ".ci")

PAGES = sorted(
    page
    for pattern in ("*.md", *(f"{folder}/**/*.md" for folder in FOLDERS))
    for page in ROOT.glob(pattern)
)
SETTINGS = sorted(
    path
    for pattern in ("*.yaml", "Makefile", ".ci/run", "profiles/*/params.yaml", "examples/*/*.yaml")
    for path in ROOT.glob(pattern)
)
MAX_COLUMNS = 100


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def lines_outside_code(page: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number, line) of the prose: code blocks and front matter are left out."""
    in_code = False
    for line_number, line in enumerate(text_of(page).splitlines(), start=1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif not in_code:
            yield line_number, line


def code_of(page: Path) -> list[str]:
    """Return a page's code spans and the lines of its code blocks; all lines of other files."""
    if page.suffix != ".md":
        return text_of(page).splitlines()
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text_of(page), flags=re.DOTALL | re.MULTILINE)
    prose = "\n".join(line for _, line in lines_outside_code(page))
    spans = [span.replace("\n", " ") for span in re.findall(r"`([^`]+)`", prose)]
    return spans + [line for block in blocks for line in block.splitlines()]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    slugs: dict[str, int] = {}
    for _, line in lines_outside_code(page):
        if match := re.match(r"#+ (.*)", line):
            slug = re.sub(r"[^\w\- ]", "", match[1].lower()).replace(" ", "-")
            count = slugs.get(slug, 0)
            slugs[slug] = count + 1
            slugs |= {f"{slug}-{count}": 1} if count else {}
    return set(slugs)


def links(page: Path) -> Iterator[tuple[int, str]]:
    for line_number, line in lines_outside_code(page):
        for target in re.findall(r"\]\(([^)\s]+)\)", line):
            yield line_number, target


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for line_number, target in links(page):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(f"{name(page)}:{line_number}: {target}")
    assert not broken


def paths_in(line: str) -> Iterator[str]:
    """Yield what in a line of code looks like a path below one of the repository's folders."""
    folders = "|".join(map(re.escape, FOLDERS))
    for match in re.finditer(rf"(?<![\w./-])(?:{folders})/[\w./*{{}}<>,$-]*", line):
        yield match[0].rstrip(".,")


def is_source(span: str) -> bool:
    """Whether a code span as a whole names a source file: `attention/seediff.py`, `reader.py`."""
    return re.fullmatch(r"[\w.-]+(/[\w.-]+)*\.(cff|py|toml)", span) is not None


def exists(path: str) -> bool:
    """Whether a path, or what of it comes before a placeholder or pattern, is in the repository."""
    fixed = re.split(r"[*{<$]", path)[0]
    return (ROOT / (fixed if fixed == path else fixed.rpartition("/")[0])).exists()


@cache
def sources() -> frozenset[str]:
    """Return each source file by all endings of its path: "seediff.py", "attention/seediff.py"."""
    files = [f for folder in FOLDERS for f in (ROOT / folder).rglob("*.py")]
    files += [f for f in ROOT.iterdir() if f.suffix in (".cff", ".toml")]
    parts = [file.relative_to(ROOT).parts for file in files]
    return frozenset("/".join(p[k:]) for p in parts for k in range(len(p)))


@pytest.mark.parametrize("page", PAGES + SETTINGS, ids=name)
def test_paths_exist(page: Path) -> None:
    code = code_of(page)
    missing = {path for line in code for path in paths_in(line) if not exists(path)}
    missing |= {span for span in code if is_source(span) and span not in sources()}
    assert sorted(missing) == []


@pytest.mark.parametrize("page", PAGES + SETTINGS, ids=name)
def test_modules_exist(page: Path) -> None:
    missing = []
    for line in code_of(page):
        for module in re.findall(rf"(?<![\w./-])(?:{'|'.join(ROOMS)})(?:\.\w+)+", line):
            parts = module.split(".")
            if parts[-1] in ("py", "md", "yaml"):
                continue
            folder = ROOT.joinpath(*parts)
            if folder.is_dir() or folder.with_suffix(".py").is_file():
                continue
            file = ROOT.joinpath(*parts[:-1]).with_suffix(".py")
            if not file.is_file() or not re.search(rf"\b{parts[-1]}\b", text_of(file)):
                missing.append(module)
    assert not missing


@pytest.mark.parametrize("page", PAGES + SETTINGS, ids=name)
def test_commands_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), flags=re.MULTILINE))
    unknown = []
    for line in code_of(page):
        for command in re.findall(r"(?<![\w./-])make(?: --?\w+)* ([a-z]+)", line):
            unknown += [f"make {command}"] if command not in targets else []
        for command in re.findall(
            r"(?<![\w./-])(?<!-n )(?:seggen|-m seggen_core) ([a-z][\w-]*)", line
        ):
            is_known = command in {**STAGES, **COMMANDS}
            unknown += [] if is_known else [f"seggen {command}"]
    if page.suffix != ".md":  # comments speak of making things
        unknown = [command for command in unknown if not command.startswith("make ")]
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_prose_is_wrapped(page: Path) -> None:
    long = [
        f"{name(page)}:{line_number}: {len(line)} columns"
        for line_number, line in lines_outside_code(page)
        if len(line) > MAX_COLUMNS
        and not line.startswith("|")
        and not re.fullmatch(r"\s*[-*>]?\s*(!?\[.*\]\(\S+\)|`[^`]+`)[.,]?", line)
        and " " in line.strip()
    ]
    assert not long


def test_the_readmes_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"^```python\n(.*?)^```", text_of(ROOT / "README.md"), re.S | re.M)
    (tmp_path / "profiles").symlink_to(ROOT / "profiles")
    (tmp_path / "params.yaml").symlink_to(ROOT / "profiles" / "scenes" / "params.yaml")
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "house.png").is_file()
    assert (tmp_path / "house_mask.png").is_file()
    assert capsys.readouterr().out.startswith("('accepted'")


def test_the_readme_names_every_room_and_the_test_command() -> None:
    readme = text_of(ROOT / "README.md")
    rooms = {path.parent.name for path in (ROOT / "seggen_core").glob("*/__init__.py")}
    assert set(re.findall(r"^\| `seggen_core/(\w+)/` \|", readme, re.M)) == rooms
    assert re.search(r"^make test\b", readme, re.M)
