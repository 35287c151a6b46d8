"""The lock of a run directory, so that only one run at a time writes to it."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import socket
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError

NAME = "run.lock"
_logger = logging.getLogger(__name__)
# A killed process holds its lock until the kernel has freed its memory.
_PATIENCE_S = 2.0
# Errors of `flock` on file systems without locks.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def run_lock(folder: Path, group: ProcessGroup, name: str = "run_dir") -> Iterator[None]:
    """Context that holds the lock of a run directory; process 0 holds it for all processes.

    The lock is `fcntl.flock` on a file that records host and process. It is released when its process ends.
    On network file systems, mount options determine whether it is visible to other machines. If the file
    system does not support locks, a warning is logged. The directory is created if it does not exist, and
    removed if it is empty at the end.

    Args:
        name: setting or option that specifies the directory, for messages.

    Raises:
        UserError: another run holds the lock, or the directory cannot be written; on all processes.
    """
    lock, failure = None, ""
    if group.is_first:
        try:
            lock = _RunLock(folder, name)
        except UserError as error:
            failure = str(error)
    try:
        if failure := group.gather(failure)[0]:
            raise UserError(failure)
        yield
    finally:
        if lock is not None:
            lock.release()


class _RunLock:
    def __init__(self, folder: Path, name: str) -> None:
        self._path, self._name = folder / NAME, name
        self._created = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            self._file = self._acquire()
            os.ftruncate(self._file, 0)
            os.write(self._file, json.dumps({"host": socket.gethostname(), "pid": os.getpid()}).encode())
        except OSError as error:
            raise UserError(f"{name} {folder} cannot be written ({error.strerror})") from error
        # A forked child shares the lock and can outlive this process.
        reference = weakref.ref(self)

        def close() -> None:
            if (lock := reference()) is not None:
                lock.close()

        os.register_at_fork(after_in_child=close)

    def _acquire(self) -> int:
        """Open and lock the file; return its descriptor."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            with suppress(FileNotFoundError):  # another run removed the directory when it ended
                self._path.parent.mkdir(parents=True, exist_ok=True)
                file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
                if self._try_lock(file):
                    return file
                holder = _describe(os.pread(file, 1000, 0))
                os.close(file)
                if time.monotonic() > deadline:
                    raise UserError(
                        f"{self._name} {self._path.parent} is in use by {holder}; wait until that run ends, "
                        f"or use another {self._name}"
                    )
                time.sleep(0.05)

    def _try_lock(self, file: int) -> bool:
        """Try to lock the file; False if another process holds it, or if the path is another file now."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return os.path.samestat(os.fstat(file), self._path.stat())
        except (BlockingIOError, FileNotFoundError):
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(file)
                raise
            _logger.warning(
                f"the file system of {self._name} {self._path.parent} does not support locks "
                f"({error.strerror}); make sure that no other run uses it"
            )
            return True

    def release(self) -> None:
        """Remove the file while it is locked, release the lock, and remove created folders if empty."""
        with suppress(OSError):
            self._path.unlink()
        self.close()
        with suppress(OSError):
            for folder in self._created:
                folder.rmdir()

    def close(self) -> None:
        """Close the file. The lock is released when all processes have closed it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _describe(record: bytes) -> str:
    """Describe the process recorded in a lock file."""
    try:
        holder = json.loads(record)
        return f"process {int(holder['pid'])} on {str(holder['host'])[:100]!r}"
    except (ValueError, TypeError, KeyError):
        return "another process"  # the record is not written yet
