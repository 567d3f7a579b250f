"""A run's figures, for lmms-eval's summary of throughput."""

from collections import Counter
from collections.abc import Sequence

from lmms_eval.models.model_utils.gen_metrics import log_metrics
from loguru import logger

from adaptvis_plugin.decoding import Statistics
from adaptvis_plugin.models.answers import Answer


def report(answers: Sequence[Answer], seconds: float, stats: Statistics) -> None:
    """Hand this run's figures to lmms-eval; log a failure, which must not cost the answers."""
    try:
        tokens = sum(answer.output_tokens for answer in answers)
        log_metrics(seconds, tokens, tokens / seconds, figures(answers, seconds, stats))
    except Exception:
        logger.exception("The run's figures could not be computed; its answers and scores are not affected.")


def figures(answers: Sequence[Answer], seconds: float, stats: Statistics) -> dict[str, float]:
    """Return a run's figures: rates, shares of rows, and a histogram of the confidences."""
    rows = len(answers)
    counts = Counter(min(int(answer.confidence * 10), 9) for answer in answers)
    return {
        "rows_per_second": rows / seconds,
        "prefix_reuse_rate": stats.prefixes_reused / stats.rows if stats.rows else 0.0,
        "rows_smoothed": sum(answer.alpha < 1 for answer in answers) / rows,
        "rows_sharpened": sum(answer.alpha > 1 for answer in answers) / rows,
        **{f"confidence_{tenth / 10:.1f}_to_{(tenth + 1) / 10:.1f}": counts[tenth] / rows for tenth in range(10)},
    }
