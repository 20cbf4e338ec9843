"""Checks the filters of monitored items. Pure functions.

asyncua accepts any filter, and may then fail or take hours at the next event.
"""

from __future__ import annotations

from typing import Any

from asyncua import ua
from asyncua.common.events import Event
from asyncua.common.utils import ServiceError
from asyncua.ua.ua_binary import struct_to_binary

SELECTED = 32
"""Fields that an event may have for one client."""
ELEMENTS = 8
"""Elements of a where clause, at most."""
STEPS = 1000
"""Steps of a where clause, at most. An element that is the operand of others counts each time it is evaluated."""
LARGEST = 4096
"""Bytes of a filter, at most. asyncua keeps it while the client watches, and an object for each of its parts."""
OWN_NAMES = frozenset({*dir(Event), *vars(Event()), "_freeze"})
"""What an event of asyncua has beside its fields."""


def check_event_filter(wanted: Any) -> None:
    """Check a filter of events.

    Raises:
        ServiceError: It is no filter of events, or asyncua cannot carry it out.
    """
    if not isinstance(wanted, ua.EventFilter):
        raise ServiceError(ua.StatusCodes.BadEventFilterInvalid)
    clauses, elements = wanted.SelectClauses or [], wanted.WhereClause.Elements or []
    wanted.SelectClauses = clauses  # asyncua cannot handle None
    if len(clauses) > SELECTED or len(elements) > ELEMENTS or not all(map(_is_field, clauses)) or _steps(elements) > STEPS:
        raise ServiceError(ua.StatusCodes.BadEventFilterInvalid)
    if len(struct_to_binary(wanted)) > LARGEST:
        raise ServiceError(ua.StatusCodes.BadEventFilterInvalid)


def check_data_filter(wanted: Any) -> None:
    """Check a filter of values.

    Raises:
        ServiceError: It is no filter of values.
    """
    if wanted and not isinstance(wanted, ua.DataChangeFilter):  # asyncua decodes a missing filter to a false object
        raise ServiceError(ua.StatusCodes.BadMonitoredItemFilterUnsupported)


def _is_field(clause: ua.SimpleAttributeOperand) -> bool:
    """Whether asyncua can look for this field; an event may still lack it."""
    path = clause.BrowsePath
    if not path:
        clause.BrowsePath = []
        return clause.AttributeId in set(ua.AttributeIds)
    names = [part.Name for part in path]
    return all(names) and "/".join(names) not in OWN_NAMES


def _steps(elements: list[ua.ContentFilterElement]) -> int:
    """Return how many operands one event evaluates; more than `STEPS` if an element refers to itself or to an earlier one."""
    counts: list[int] = [0] * len(elements)
    for n in reversed(range(len(elements))):
        for operand in elements[n].FilterOperands or []:
            if isinstance(operand, ua.ElementOperand):
                if not n < operand.Index < len(elements):
                    return STEPS + 1
                counts[n] += counts[operand.Index]
            counts[n] += 1
    return max(counts, default=0)
