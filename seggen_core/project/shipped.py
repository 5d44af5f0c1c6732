"""Files that ship with seggen beside its code: profiles, dvc.yaml, settings of DVC and git."""

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path

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


def version() -> str:
    """Return the version of seggen; "0+unknown" where its bare source is imported."""
    try:
        return installed_version("seggen")
    except PackageNotFoundError:
        return UNKNOWN_VERSION
