"""Decode batches in threads ahead of their use. libsndfile decodes without Python's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from asr_emapl.data.loader import LeftOut, MicroBatch, collate
from asr_emapl.data.utterance import Utterance

Batch = Sequence[Utterance]


def read_ahead(
    batches: Iterable[Batch], left_out: LeftOut | None, *, threads: int, pin_memory: bool = False
) -> Generator[tuple[Batch, MicroBatch], None, None]:
    """Yield each batch with its audio, in order.

    Args:
        left_out: see `collate`; called in the threads, for later batches as well.
        threads: at most `threads` batches are decoded in advance; 0: each is decoded when it is due.

    Raises:
        UserError: as `collate`, when the batch is due.
    """

    def read(batch: Batch) -> MicroBatch:
        found = collate(batch, left_out)
        return found.pin_memory() if pin_memory else found

    if not threads:
        yield from ((batch, read(batch)) for batch in batches)
        return
    with ThreadPoolExecutor(threads, "read-ahead") as pool:
        queue: deque[tuple[Batch, Future[MicroBatch]]] = deque()
        try:
            for batch in batches:
                queue.append((batch, pool.submit(read, batch)))
                if len(queue) > threads:
                    due, future = queue.popleft()
                    yield due, future.result()
            while queue:
                due, future = queue.popleft()
                yield due, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
