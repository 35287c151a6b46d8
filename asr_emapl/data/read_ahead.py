"""Read items in advance in threads. libsndfile and torch release Python's lock while they compute."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Content = TypeVar("Content")


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Content], *, threads: int
) -> Generator[tuple[Item, Content], None, None]:
    """Yield each item and the result of `read` for it, in order. An error is raised at the item's turn.

    Args:
        threads: number of threads, and of items that are read in advance; 0: read each item when it is
            requested.
    """
    if not threads:
        yield from ((item, read(item)) for item in items)
        return
    with ThreadPoolExecutor(threads, "read-ahead") as pool:
        queue: deque[tuple[Item, Future[Content]]] = deque()
        try:
            for item in items:
                queue.append((item, pool.submit(read, item)))
                if len(queue) > threads:
                    due, future = queue.popleft()
                    yield due, future.result()
            while queue:
                due, future = queue.popleft()
                yield due, future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
