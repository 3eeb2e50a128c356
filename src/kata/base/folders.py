"""Folders in which several programs put files, and one removes them all."""

from __future__ import annotations

import errno
import os

from kata.base.errors import KataError

# Programs that ask a sandbox may still put a socket into its folder, and take it away.
_REMOVALS = 5


def remove_folder(folder: str) -> None:
    """Remove a folder with its files and empty folders; one that is not there is no error.

    Others may put something there meanwhile, and take it away.  Raises KataError when they do not
    stop, OSError for what cannot be removed.
    """
    for _ in range(_REMOVALS):
        try:
            for entry in list(os.scandir(folder)):
                _remove_entry(entry)
            os.rmdir(folder)
            return
        except FileNotFoundError:
            return  # somebody else was faster
        except OSError as error:
            if error.errno != errno.ENOTEMPTY or error.filename != folder:
                raise
    raise KataError(f"remove {folder}: files appear in it again and again")


def _remove_entry(entry: os.DirEntry[str]) -> None:
    try:
        if entry.is_dir(follow_symlinks=False):
            os.rmdir(entry.path)
        else:
            os.unlink(entry.path)
    except FileNotFoundError:
        pass
