"""The authors' validation and test split."""

import random

SPLITS = ("val", "test")
"""The splits' names. A task restricted to one is called by the whole task's name, an underscore, and this."""

VALIDATION_SHARE = 0.2
SEED = 1


def whole_task(task: str) -> tuple[str, str | None]:
    """Return a task's name without that of a split, and the split: `val`, `test` or None."""
    split = next((split for split in SPLITS if task.endswith(f"_{split}")), None)
    return task.removesuffix("_val").removesuffix("_test"), split


def authors_split(n: int) -> tuple[list[int], list[int]]:
    """Return the split that Chen et al. (ICML 2025) use for a data set of n rows.

    Their code seeds Python's generator with 1, samples 20% of the rows for validation (where coefficients are chosen)
    and reports on the rest. The indices are the same on every machine and with every Python since 3.2.

    Args:
        n: The number of rows.

    Returns:
        The validation and the test indices, each sorted.

    Raises:
        ValueError: If n is negative.
    """
    if n < 0:
        raise ValueError(f"n={n} is not a number of rows.")
    validation = sorted(random.Random(SEED).sample(range(n), int(VALIDATION_SHARE * n)))
    chosen = set(validation)
    return validation, [index for index in range(n) if index not in chosen]
