"""Where polls are kept after they have left the database: a folder, or an S3-compatible store."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Protocol

from models.runtime.settings import RetentionSettings


class ArchiveUnavailable(Exception):
    """The place can't be written to now; nothing was kept there under the name asked for."""


class Archive(Protocol):
    """A place for files."""

    def keep(self, name: str, write: Callable[[IO[bytes]], None]) -> str:
        """Have ``write`` make a file and keep it under ``name``, whole or not at all; where it lies then.

        Keeping a name again replaces the file. What ``write`` raises goes on to the caller.

        :raises ArchiveUnavailable:
        """


def open_archive(settings: RetentionSettings) -> Archive | None:
    """As the settings say, without touching it; None when expired polls are deleted without a copy."""
    if not settings.archive:
        return None
    if settings.archive.startswith("s3://"):
        from workers.s3_archive import S3Archive  # half a second and 30 MB that most installations don't need

        return S3Archive(settings.archive, settings.s3_endpoint)
    return FolderArchive(Path(settings.archive))


class FolderArchive:
    """Files in a folder, on disk before ``keep`` returns."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def keep(self, name: str, write: Callable[[IO[bytes]], None]) -> str:
        path = self._folder / name
        unfinished = path.with_name(f"{path.name}.unfinished")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as out:
                write(out)
                out.flush()
                os.fsync(out.fileno())
            unfinished.replace(path)
            for folder in (path.parent, self._folder):
                _sync_folder(folder)
        except OSError as error:
            raise ArchiveUnavailable(f"{self._folder}: {error}") from error
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        return str(path)


def _sync_folder(folder: Path) -> None:
    """A file's name is durable only when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
