"""Files that ship with seggen beside its code: profiles, dvc.yaml, settings of DVC and git."""

from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

from seggen_core.errors import ConfigError
from seggen_core.project.code import PACKAGE

UNKNOWN_VERSION = "0+unknown"


def shipped(name: str) -> Path:
    """Return the place of a shipped file or folder.

    Args:
        name: its path in the repository, such as "profiles/scenes/foundation".

    Returns:
        Its path inside the installed package, or in the checkout that the package is imported from.
    """
    installed = PACKAGE / "shipped"
    return (installed if installed.is_dir() else PACKAGE.parent) / name


def profile_file(name: str, *, root: Path) -> Path:
    """Return the parameter file of a profile: the project's own, else the one that ships.

    Args:
        name: the profile's folder.
        root: the project.

    Raises:
        ConfigError: there is none of this name; it names those that there are.
    """
    folders = (root / "profiles", shipped("profiles"))
    for folder in folders:
        if (folder / name / "params.yaml").is_file():
            return folder / name / "params.yaml"
    known = sorted({p.parent.name for f in folders for p in f.glob("*/params.yaml")})
    close = get_close_matches(name, known, n=1)
    meant = f"did you mean {close[0]}? " if close else ""
    raise ConfigError(
        f"there is no profile {name!r} in {folders[0]}; {meant}there are: "
        f"{', '.join(known) or 'none'}"
    )


def version() -> str:
    """Return the version of seggen; "0+unknown" where its bare source is imported."""
    try:
        return installed_version("seggen")
    except PackageNotFoundError:
        return UNKNOWN_VERSION
