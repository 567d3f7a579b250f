"""Calibration: no steering, but a choice among the offered options that corrects the model's bias for some of them."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from adaptvis_plugin.decoding.method import FixedStrength, check_finite

NEEDED = {"batch": "prior", "fitted": "offsets"}
"""The calibrations -> the hyper-parameter that each cannot do without."""

OTHERS = "*"
"""The name under which `prior` and `offsets` may have a value for all options that they do not name."""

FLOOR = 1e-12
"""A smaller probability counts as this one: a recorded probability may be rounded to 0, which has no logarithm."""


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibrated(FixedStrength):
    """Answer with the option that is likeliest at the first token once the model's label bias is corrected.

    The probabilities p are those of the unsteered model's first token, divided by their sum over the offered options.
    The answer is the option o with the highest score:

    - ``batch``: log p[o] - log prior[o] (batch calibration; Zhou et al., ICLR 2024, arXiv 2309.17249);
    - ``fitted``: offsets[o] + the sum of weights[o][j] log p[j] over the offered options j. Without weights it is
      offsets[o] + log p[o].

    A row that offers an option without a value is refused, unless there is a value for `*`, which then counts for every
    such option. It has no weights: its fitted score is offsets["*"] + log p.

    Attributes:
        calibration: `batch` or `fitted`.
        prior: For each option its mean probability over validation rows.
        offsets: For each option a number.
        weights: For each option its weights, one for each option; empty, or for the options that `offsets` names.

    Options are named in lower case; how a row writes them does not matter.
    """

    calibration: str = "batch"
    prior: Mapping[str, float] = field(default_factory=dict, hash=False)
    offsets: Mapping[str, float] = field(default_factory=dict, hash=False)
    weights: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if lacking := self.lacking(vars(self)):
            raise ValueError(f"calibration={self.calibration!r} needs {', '.join(lacking)}")
        for name, named in {"": self.weights, **{f".{o}": row for o, row in self.weights.items()}}.items():
            if self.weights and named.keys() != self.offsets.keys() - {OTHERS}:
                raise ValueError(
                    f"weights{name} is for {_listed(named)}, and offsets for {_listed(self.offsets)}; give both for "
                    "the same options"
                )

    @classmethod
    def check(cls, name: str, value: Any) -> None:
        """Raise ValueError unless the value is a calibration, or a number for each option; priors are positive."""
        if name == "calibration":
            if value not in tuple(NEEDED):
                raise ValueError(f"calibration={value!r}: give one of {', '.join(NEEDED)}")
            return
        _check_options(name, value)
        for option, number in value.items():
            if name == "weights":
                _check_options(f"weights.{option}", number)
                for other, weight in number.items():
                    check_finite(f"weights.{option}.{other}", weight)
            else:
                check_finite(f"{name}.{option}", number)
                if name == "prior" and not 0 < number <= 1:
                    raise ValueError(f"prior.{option}={number!r}: a mean probability is above 0 and at most 1")

    @classmethod
    def lacking(cls, values: Mapping[str, Any]) -> list[str]:
        """Return what the calibration cannot do without, if it is not among the values or empty."""
        calibration = values.get("calibration", cls.calibration)
        return [needed for name, needed in NEEDED.items() if name == calibration and not values.get(needed)]

    def check_offered(self, row: str, options: Collection[str]) -> None:
        """Raise ValueError if a row offers no options, or one for which this calibration has no value."""
        if not options:
            raise ValueError(
                f"{row} offers no options (a list of texts in its column `options`), and a calibration only chooses "
                "among such; use another method for this task"
            )
        part = NEEDED[self.calibration]
        known = getattr(self, part)
        if unknown := [option for option in options if option.lower() not in known]:
            if OTHERS not in known:
                raise ValueError(
                    f"{row} offers {_listed(unknown)}, and {part} has values only for {_listed(known)}; add one to the "
                    f"preset (or one for all others, under {OTHERS!r}), or fit the calibration on rows that offer it"
                )
            for option in unknown:
                _warn_of_others(option.lower(), part, known[OTHERS])

    def scores(self, probabilities: Mapping[str, Any]) -> dict[str, Any]:
        """Return the score of each option.

        Args:
            probabilities: Each option's probability at the first token, divided by their sum over the options: a
                number or, of several rows that offer the same options, an array.

        Returns:
            Numbers or arrays, under the same names in the same order.

        Raises:
            ValueError: See `check_offered`.
        """
        self.check_offered("a row", probabilities)
        logs = {option.lower(): np.log(np.maximum(p, FLOOR)) for option, p in probabilities.items()}
        return {option: self._score(option.lower(), logs) for option in probabilities}

    def answer(self, probabilities: Mapping[str, float]) -> str:
        """Return the answer to one row: an option, with a capital where the data write it in lower case.

        Args:
            probabilities: See `scores`.

        Raises:
            ValueError: See `check_offered`.
        """
        scores = self.scores(probabilities)
        best = max(scores, key=lambda option: float(scores[option]))
        # As the authors' labels are written. Their rule for VSR looks for "Yes" with a capital.
        return best[:1].upper() + best[1:] if best == best.lower() else best

    def _score(self, option: str, logs: Mapping[str, Any]) -> Any:
        if self.calibration == "batch":
            return logs[option] - np.log(_value(self.prior, option))
        offset = _value(self.offsets, option)
        if option not in self.weights:
            return offset + logs[option]
        own = self.weights[option]
        return offset + sum(own[other] * number for other, number in logs.items() if other in own)


def _value(values: Mapping[str, float], option: str) -> float:
    return values[option if option in values else OTHERS]


@cache
def _warn_of_others(option: str, part: str, value: float) -> None:
    log.warning("rows offer %r, for which %s has no value; the one of %r is used: %g", option, part, OTHERS, value)


def _check_options(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a mapping of options to something."""
    if not isinstance(value, Mapping):
        raise ValueError(
            f"{name}={value!r}: it has a value for each option, which only a preset can hold; give preset=FILE.yaml, "
            "as `adaptvis tune` writes it"
        )
    for option in value:
        if not isinstance(option, str) or not option or option != option.lower():
            raise ValueError(
                f"{name}: {option!r} is not an option in lower case; write on, yes, no and numbers in quotes, or YAML "
                "takes them for something else"
            )


def _listed(options: Collection[str]) -> str:
    return ", ".join(map(repr, options)) or "none"
