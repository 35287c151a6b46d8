"""Filters of your own: functions at import paths, which say whether a label is dropped."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from asr_emapl.errors import UserError
from asr_emapl.models.failure import blaming
from asr_emapl.models.target import USERS_OWN, Wanted, resolve
from asr_emapl.pseudo_labels.filters import KEPT, REASONS, LabelCandidate

OWN_FILTER = Wanted(
    "pseudo_labels.filters",
    None,
    "function; specify a function of a LabelCandidate that returns True or False",
)


@dataclass(frozen=True)
class OwnFilter:
    """A filter of the user's own.

    Args:
        path: "package.module:function", for errors.
        function: called with a `LabelCandidate` and the options.
    """

    path: str
    function: Callable[..., Any]
    options: Mapping[str, Any]

    def __call__(self, candidate: LabelCandidate) -> bool:
        """Whether the label is dropped.

        Raises:
            UserError: the function fails, or does not return True or False.
        """
        with blaming(
            f"pseudo_labels.filters {self.path} fails on {candidate.id!r}", self.function.__module__
        ):
            found = self.function(candidate, **self.options)
        if found is not True and found is not False:
            raise UserError(
                f"pseudo_labels.filters {self.path} returned {found!r}; return True (drop the label) or False"
            )
        return found


def own_filters(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, OwnFilter]:
    """The filters of `pseudo_labels.filters`, by the names of their functions: the reasons in the log.

    Raises:
        UserError: a function cannot be imported or does not take its options, or a name is used twice.
    """
    found: dict[str, OwnFilter] = {}
    for path, options in settings.items():
        function = resolve(path, USERS_OWN, OWN_FILTER)
        name = path.partition(":")[2]
        if name in found or name in REASONS or name == KEPT:
            raise UserError(f"pseudo_labels.filters {path}: a filter {name} exists; rename the function")
        try:
            inspect.signature(function).bind(None, **options)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"pseudo_labels.filters {path}: {error}; the function takes a LabelCandidate and its options"
            ) from error
        found[name] = OwnFilter(path, function, options)
    return found
