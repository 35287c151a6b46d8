"""The lock of a run directory: one run at a time writes there."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from asr_emapl.distributed.process_group import ProcessGroup
from asr_emapl.errors import UserError

NAME = "run.lock"
# A process that was killed may hold its lock until the kernel has freed its memory.
_PATIENCE_S = 2.0
# What file systems without locks say to `flock`.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextmanager
def run_lock(folder: Path, world: ProcessGroup) -> Iterator[None]:
    """Hold the lock of a run directory for as long as the context lasts; process 0 does it for all.

    The lock is `fcntl.flock` on a file in the directory, which records host and process. It ends with its
    process, however that ends. On network disks it is advisory: whether a process on another machine sees it
    depends on how the disk is mounted. Where the file system has no locks, a warning says so.

    The directory is created if it is absent. A directory in which nothing else was written is removed again.

    Raises:
        UserError: another run holds the lock, or the directory cannot be written; on all processes.
    """
    lock, failure = None, ""
    if world.first:
        try:
            lock = _RunLock(folder)
        except UserError as error:
            failure = str(error)
    try:
        if failure := world.gather(failure)[0]:
            raise UserError(failure)
        yield
    finally:
        if lock is not None:
            lock.release()


class _RunLock:
    """A held lock."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._created = [path for path in (folder, *folder.parents) if not path.exists()]
        try:
            self._file = self._acquire()
            record = {"host": socket.gethostname(), "pid": os.getpid()}
            os.ftruncate(self._file, 0)
            os.write(self._file, json.dumps(record).encode())
        except OSError as error:
            raise UserError(f"run_dir {folder} cannot be written ({error.strerror})") from error
        # A forked child shares the lock and may outlive this process.
        os.register_at_fork(after_in_child=partial(_close, weakref.ref(self)))

    def _acquire(self) -> int:
        """The descriptor of the lock file, locked."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            with suppress(FileNotFoundError):  # another run removed the directory as it ended
                self._path.parent.mkdir(parents=True, exist_ok=True)
                file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
                if self._lock(file):
                    return file
                holder = os.pread(file, 1000, 0)
                os.close(file)
                if time.monotonic() > deadline:
                    raise UserError(
                        f"run_dir {self._path.parent} is in use by {_described(holder)}: wait until that run "
                        "ends, or name another run_dir"
                    )
                time.sleep(0.05)

    def _lock(self, file: int) -> bool:
        """Whether the file is locked now, and is still the one that its path names."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(file)
                raise
            print(
                f"warning: the file system of run_dir {self._path.parent} has no locks ({error.strerror}): "
                "make sure that no other run uses this run_dir",
                flush=True,
            )
            return True
        try:
            return os.path.samestat(os.fstat(file), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Remove the file, while it is locked, and end the lock."""
        with suppress(OSError):
            self._path.unlink()
        self.close()
        with suppress(OSError):  # not empty
            for folder in self._created:
                folder.rmdir()

    def close(self) -> None:
        """Close the file. The lock ends with the last descriptor of it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _close(lock: weakref.ref[_RunLock]) -> None:
    held = lock()
    if held is not None:
        held.close()


def _described(record: bytes) -> str:
    """The holder of a lock, in words."""
    try:
        holder = json.loads(record)
        return f"process {int(holder['pid'])} on {str(holder['host'])[:100]!r}"
    except (ValueError, TypeError, KeyError):
        return "another process"  # which has not written its record yet
