"""Controls: what the same rows allow without steering, or by the options alone.

A model that says "left" too often gains from any correction of that bias, with or without steering. The controls
correct it in the ordinary ways, from the first token's probabilities of the offered options. What steering brings
beyond them is its own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from adaptvis_plugin.decoding.methods.calibrated import FLOOR
from adaptvis_plugin.tuning.outcomes import Choice, Options, Outcomes, Rows

NEWTON_AT_MOST = 500
"""The most coefficients for which a regression is fitted by Newton's method, many times faster while they are few."""

NEVER = -1e6
"""The offset of an option that is right in none of the fitted rows: it is never chosen where another is offered."""


class Linear(NamedTuple):
    """Scores of options that are linear in the log-probabilities of options.

    Attributes:
        offsets: Shape (options,).
        weights: Shape (options, features).
    """

    offsets: NDArray[np.float64]
    weights: NDArray[np.float64]


def most_frequent(outcomes: Outcomes, options: Options, rows: Rows) -> Choice:
    """Answer with the label that most of the fitted rows have; of those that a row offers."""
    labels = options.labels[rows]
    counts = np.bincount(labels[labels >= 0], minlength=len(options.names)).astype(float)
    return _choice(outcomes, options, np.broadcast_to(counts, options.offered.shape))


def first_token(outcomes: Outcomes, options: Options, rows: Rows) -> Choice:
    """Answer with the offered option that is most probable at the unsteered first token. Nothing is fitted."""
    return _choice(outcomes, options, options.log_p[0])


def batch_calibrated(outcomes: Outcomes, options: Options, rows: Rows) -> Choice:
    """Divide the unsteered probabilities by their mean over the fitted rows, whose labels are not used.

    Zhou et al., "Batch Calibration", ICLR 2024.
    """
    return _choice(outcomes, options, options.log_p[0] - np.log(prior(options, rows)))


def offset_per_option(outcomes: Outcomes, options: Options, rows: Rows) -> Choice:
    """Add a number to the unsteered log-probability of each option, fitted to the labels by likelihood."""
    return _choice(outcomes, options, options.log_p[0] + fit_offsets(options, rows))


def regression_plain(outcomes: Outcomes, options: Options, rows: Rows) -> Choice:
    """Predict the label from the unsteered log-probabilities of the options by logistic regression."""
    return _regression(outcomes, options, rows, plain_features(options))


def regression_all(outcomes: Outcomes, options: Options, rows: Rows) -> Choice:
    """Do the same from the log-probabilities under all coefficients."""
    return _regression(
        outcomes,
        options,
        rows,
        np.concatenate([np.where(options.offered, log_p, 0.0) for log_p in options.log_p], axis=1),
    )


def among_options(outcomes: Outcomes, options: Options, steering: Choice) -> Choice:
    """Answer with the offered option that is most probable at the first token under the steering of each row.

    Args:
        outcomes: The trace.
        options: Its options.
        steering: The number of each row's coefficient.
    """
    return _choice(outcomes, options, options.log_p[steering, np.arange(len(steering))])


def plain_features(options: Options) -> NDArray[np.float64]:
    """Return the unsteered log-probabilities, shape (rows, options); 0 for an option that a row does not offer."""
    return np.where(options.offered, options.log_p[0], 0.0)


def prior(options: Options, rows: Rows) -> NDArray[np.float64]:
    """Return the mean unsteered probability of each option over the rows that offer it, shape (options,).

    An option that none of them offers gets the probability of `chance`.
    """
    offered = options.offered[rows]
    total = (np.exp(options.log_p[0, rows]) * offered).sum(0)
    return np.where(offered.any(0), np.maximum(total, FLOOR) / np.maximum(offered.sum(0), 1), chance(options, rows))


def chance(options: Options, rows: Rows) -> float:
    """Return the mean probability of an option if all that a row offers are equally probable."""
    return float(np.mean(1 / options.offered[rows].sum(1)))


def fit_offsets(options: Options, rows: Rows) -> NDArray[np.float64]:
    """Return the offsets of `offset_per_option`: the likeliest, with logistic regression's usual penalty."""
    rows = rows[options.labels[rows] >= 0]
    log_p, labels = options.log_p[0, rows], options.labels[rows]

    def loss(offsets: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        found = log_softmax(log_p + offsets, axis=1)
        said = np.bincount(labels, minlength=len(offsets))
        value = -found[np.arange(len(labels)), labels].sum() + (offsets**2).sum() / 2
        return float(value), np.exp(found).sum(0) - said + offsets

    with threadpool_limits(1):  # more threads make these small problems many times slower
        fitted: NDArray[np.float64] = minimize(loss, np.zeros(len(options.names)), jac=True, method="L-BFGS-B").x
    return fitted


def fit_regression(options: Options, rows: Rows, features: NDArray[np.float64]) -> Linear:
    """Fit scikit-learn's logistic regression with its default penalty.

    Among options that are right in none of the rows, the unsteered model chooses.

    Args:
        options: The options and labels.
        rows: The rows to fit to; those whose label is not offered are left out.
        features: Shape (all rows, features); the first are those of `plain_features`.
    """
    rows = rows[options.labels[rows] >= 0]
    count = len(options.names)
    offsets, weights = np.full(count, NEVER), np.eye(count, features.shape[1])
    present = np.unique(options.labels[rows])
    weights[present] = 0.0
    if len(present) < 2:  # one label only: nothing can be told apart, so it is the answer
        offsets[present] = 0.0
        return Linear(offsets, weights)
    few = len(present) * (features.shape[1] + 1) <= NEWTON_AT_MOST
    model: Any = LogisticRegression(solver="newton-cholesky" if few else "lbfgs", max_iter=1000)
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore", ConvergenceWarning)  # what it has reached by then is a fit all the same
        model.fit(features[rows], options.labels[rows])
    if len(present) == 2:  # scikit-learn gives the scores of the second label only
        offsets[present], weights[present[1]] = (0.0, float(model.intercept_[0])), model.coef_[0]
    else:
        offsets[present], weights[present] = model.intercept_, model.coef_
    return Linear(offsets, weights)


def _regression(outcomes: Outcomes, options: Options, rows: Rows, features: NDArray[np.float64]) -> Choice:
    fitted = fit_regression(options, rows, features)
    return _choice(outcomes, options, fitted.offsets + features @ fitted.weights.T)


def _choice(outcomes: Outcomes, options: Options, scores: NDArray[np.float64]) -> Choice:
    """Return the best of the options that each row offers; of equal ones the first."""
    best: Choice = np.where(options.offered, scores, -np.inf).argmax(1)
    return best + len(outcomes.alphas)


class Control(NamedTuple):
    """A control.

    Attributes:
        title: What it is called.
        fit: Answers all rows, fitted to some.
        corrects_bias: Whether it corrects label bias and uses no steering.
        under_all: Whether it takes the probabilities under all coefficients.
    """

    title: str
    fit: Callable[[Outcomes, Options, Rows], Choice]
    corrects_bias: bool
    under_all: bool = False


CONTROLS = {
    "most_frequent": Control("always the most frequent label", most_frequent, False),
    "first_token": Control("choice among the options", first_token, False),
    "batch": Control("batch calibration", batch_calibrated, True),
    "offsets": Control("one offset per option", offset_per_option, True),
    "regression": Control("logistic regression", regression_plain, True),
    "regression_all": Control("logistic regression, all coefficients", regression_all, False, under_all=True),
}
"""The controls by name. The choice among the options under steering is made where the steering is chosen."""
