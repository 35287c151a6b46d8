"""Searches for the labels of utterances, in worker processes beside the training process.

Axes: B utterances, T output frames (padded), V tokens.
"""

from __future__ import annotations

import multiprocessing
import queue
import signal
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize

import torch
from torch import Tensor

from asr_emapl.ctc import Search, search_path
from asr_emapl.errors import UserError
from asr_emapl.processes import how_ended, kill, serve_parent


class SearchPool:
    """Runs a search on the utterances of micro-batches; the results do not depend on the number of workers.

    The workers are forked, so that they share the memory of the search, such as its language model. They end
    with this process, also if it is killed, and when the pool is closed or deleted.

    Args:
        workers: number of worker processes; 0: search in this process, when the paths are read.
    """

    def __init__(self, search: Search, workers: int = 0) -> None:
        self.search = search
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        started = [_Worker(search) for _ in range(workers)]
        for worker in started:
            self._idle.put(worker)
        # One thread per worker sends it utterances and waits for their labels.
        self._threads = ThreadPoolExecutor(workers, "search") if workers else None
        # At exit, it runs before multiprocessing waits for the workers. Forked processes do not run it.
        self._stop = Finalize(self, kill, ([worker.process for worker in started],), exitpriority=0)

    def begin(self, log_probs_BTV: Tensor, lengths_B: Tensor) -> Callable[[], Tensor]:
        """Begin to search the utterances of a micro-batch. Does not wait for their device.

        Args:
            log_probs_BTV, lengths_B: output of a model.

        Returns:
            A function that waits for the paths: long [B, T] on the device of the log-probabilities, 0 in the
            padding. It raises UserError if a worker process died, and RuntimeError if its search failed.
        """
        if self._threads is None:
            return partial(search_path, self.search, log_probs_BTV, lengths_B)
        emissions, device = _Emissions(log_probs_BTV, lengths_B), log_probs_BTV.device
        futures = [self._threads.submit(self._ask, emissions, row) for row in range(len(lengths_B))]
        return lambda: emissions.padded([future.result() for future in futures]).to(device)

    def _ask(self, emissions: _Emissions, row: int) -> Tensor:
        worker = self._idle.get()
        try:
            return emissions.searched(row, worker.ask)
        finally:
            self._idle.put(worker)

    def close(self) -> None:
        """End the workers; searches that are not finished fail."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        self._stop()


class _Worker:
    """A forked process that searches one utterance at a time."""

    def __init__(self, search: Search) -> None:
        context = multiprocessing.get_context("fork")
        self._connection, theirs = context.Pipe()
        self.process: BaseProcess = context.Process(target=_serve, args=(search, theirs), daemon=True)
        self.process.start()
        theirs.close()  # so that its end closes the connection

    def ask(self, log_probs_TV: Tensor) -> Tensor:
        """See `Search`.

        Raises:
            UserError: the process died.
            RuntimeError: the search failed.
        """
        try:
            self._connection.send(log_probs_TV.numpy())
            path, failure = self._connection.recv()
        except (OSError, EOFError) as error:
            self.process.join(timeout=10.0)
            raise UserError(
                f"search process {self.process.pid} {how_ended(self.process)}; if memory is short, lower "
                "pseudo_labels.search_workers"
            ) from error
        if failure:
            raise RuntimeError(f"the search failed in process {self.process.pid}: {failure}")
        return torch.from_numpy(path)


def _serve(search: Search, connection: Connection) -> None:
    """Answer until the process is killed."""
    serve_parent(signal.SIGTERM, signal.SIGINT)
    torch.set_num_threads(1)  # a forked process does not have the threads of its parent
    while True:
        log_probs_TV = torch.from_numpy(connection.recv())
        try:
            connection.send((search(log_probs_TV).numpy(), ""))
        except Exception:
            connection.send((None, traceback.format_exc()))


class _Emissions:
    """The output of a model, being copied to the host: [B, T, V] and lengths [B]."""

    def __init__(self, log_probs_BTV: Tensor, lengths_B: Tensor) -> None:
        self._log_probs, self._lengths = _to_host(log_probs_BTV.float()), _to_host(lengths_B)
        self._copied = torch.cuda.Event() if log_probs_BTV.is_cuda else None
        if self._copied is not None:
            self._copied.record()

    def searched(self, row: int, search: Search) -> Tensor:
        """The label of each frame of an utterance, long [T], without padding; waits for the copy."""
        if self._copied is not None:
            self._copied.synchronize()
        frames = int(self._lengths[row])
        return search(self._log_probs[row, :frames]) if frames else torch.zeros(0, dtype=torch.long)

    def padded(self, paths: Sequence[Tensor]) -> Tensor:
        """The labels of the utterances, [T] each, as one tensor: long [B, T]."""
        path_BT = torch.zeros(self._log_probs.shape[:2], dtype=torch.long)
        for row_T, path_T in zip(path_BT, paths, strict=True):
            row_T[: len(path_T)] = path_T
        return path_BT


def _to_host(tensor: Tensor) -> Tensor:
    """Copy from a GPU to page-locked memory, without waiting for it."""
    if not tensor.is_cuda:
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
