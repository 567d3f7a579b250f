"""Work done ahead."""

import pytest

from adaptvis_plugin.models.batching import ahead


@pytest.mark.parametrize("count", [1, 3, 100])
def test_results_come_in_order_and_only_so_many_wait(count: int) -> None:
    made: list[int] = []

    def double(item: int) -> int:
        made.append(item)
        return item * 2

    results = ahead(range(10), double, count)
    for item in range(10):
        assert next(results) == item * 2
        assert len(made) <= item + count + 1
    assert list(results) == [] and made == list(range(10))


def test_work_that_nobody_wants_any_more_is_not_begun() -> None:
    made: list[int] = []
    results = ahead(range(10**9), lambda item: made.append(item), 5)
    next(results)
    results.close()
    assert len(made) <= 7
