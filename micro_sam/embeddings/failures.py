"""Turn what a disk can answer into one sentence that names the file and says what to do."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from micro_sam.errors import StoreDamagedError, StoreError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raise `StoreDamagedError` for any failure to write below path."""
    try:
        yield
    except StoreError:
        raise
    except OSError as error:
        raise _write_error(path, error) from error


def _write_error(path: Path, error: OSError) -> StoreDamagedError:
    place = error.filename if isinstance(error.filename, str) else path
    if error.errno in _FULL:
        text = (
            f"'{place}' could not be written because the disk is full ({error.strerror}); free some space and run again,"
            " what is finished is kept."
        )
    elif error.errno in _FORBIDDEN:
        text = f"'{place}' could not be written ({error.strerror}); make the folder writable or give another path."
    elif error.errno in (errno.EEXIST, errno.ENOTDIR):
        text = f"Expected '{path}' to be a folder, but '{place}' is a file; give another embedding path."
    else:
        text = f"'{place}' could not be written ({error.strerror or error}); mend this and run again."
    wrapped = StoreDamagedError(text)
    wrapped.errno = error.errno
    return wrapped


def damaged(what: str, files: list[Path]) -> StoreDamagedError:
    """The error for data that is on disk but unreadable, naming the files to delete."""
    names = ", ".join(f"'{file}'" for file in files)
    return StoreDamagedError(
        f"{what} is damaged on disk; delete {names} and run again, only what is missing is computed."
    )
