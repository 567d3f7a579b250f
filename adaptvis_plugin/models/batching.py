"""Which rows are decoded together, and the next batch's work done while the model decodes."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

LENGTH_BUCKET = 64
"""Characters of a question within which lengths count as the same when batches are formed."""

T = TypeVar("T")
R = TypeVar("R")


def batches(rows: Iterable[int], size: int, look: Callable[[int], tuple[str, str]]) -> Iterator[list[int]]:
    """Yield batches of questions of about the same length and, within that, of the same picture.

    Little of a batch is then padding, and rows that share a picture share its prefill. Where the data does not say
    which rows do, they stay in its order, in which questions about one picture mostly follow each other.

    Args:
        rows: Numbers of the rows.
        size: Rows per batch.
        look: Row -> its question, and what identifies its picture; the latter is empty if unknown.
    """

    def order(row: int) -> tuple[int, str]:
        question, picture = look(row)
        return -(len(question) // LENGTH_BUCKET), picture

    ordered = sorted(rows, key=order)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]


def ahead(items: Iterable[T], work: Callable[[T], R], count: int = 1) -> Generator[R]:
    """Yield the work's result for each item, in order; a thread does the next ones while the caller uses the last.

    Args:
        items: The items.
        work: What is done for each.
        count: How many results may wait for the caller.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(max_workers=1) as worker:
        try:
            for item in items:
                waiting.append(worker.submit(work, item))
                if len(waiting) > count:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
