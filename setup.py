"""Puts what stands beside the packages into the wheel: profiles, the pipeline, settings of DVC.

pyproject.toml has everything else. setuptools ships data from inside packages alone.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
SHIPPED = ("profiles", "dvc.yaml", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore")
"""Read by `seggen_core.project.shipped`."""


class BuildPy(build_py):
    """Copies what is shipped; an editable installation finds it in the checkout."""

    def run(self) -> None:
        """Build the packages."""
        super().run()
        if self.editable_mode:
            return
        for name in SHIPPED:
            source, target = ROOT / name, Path(self.build_lib, "seggen_core", "shipped", name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)


setup(cmdclass={"build_py": BuildPy})
