"""Metadata filters as masks over rows, so that every kind of search can apply them inside."""

from collections.abc import Mapping, Sequence

import numpy as np
from quarry_contract.codec import Scalar
from quarry_contract.errors import invalid
from quarry_runtime.session import Array

from .passages import Row

BUILT_IN = ("document_id", "version", "title", "section", "page")
_NAMES_SHOWN = 30
_Key = tuple[bool, Scalar]


def _key(value: Scalar) -> _Key:
    """True and 1 are equal in Python and different in JSON."""
    return isinstance(value, bool), value


class Filters:
    """One column of value codes per field. A document's metadata never hides the built-in fields."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = len(rows)
        fields = {name for row in rows for name in row.metadata}
        self._columns = {name: _Column([row.metadata.get(name) for row in rows]) for name in sorted(fields.difference(BUILT_IN))}
        self._columns |= {name: _Column([getattr(row, name) for row in rows]) for name in BUILT_IN}

    @property
    def fields(self) -> list[str]:
        """The names that can be filtered by."""
        return sorted(self._columns)

    def allowed(self, filters: Mapping[str, Scalar | tuple[Scalar, ...]]) -> Array | None:
        """bool (rows,): the rows that match every field; None when there is no filter.

        Raises:
            QuarryError: `invalid_request` for a field this index does not have.
        """
        if not filters:
            return None
        if not filters.keys() <= self._columns.keys():
            shown = ", ".join(self.fields[:_NAMES_SHOWN])
            more = ", ..." if len(self._columns) > _NAMES_SHOWN else ""
            raise invalid(f"filters has a field that is unknown to this index: it knows {shown}{more}")
        mask = np.ones(self._rows, bool)
        for name, wanted in filters.items():
            mask &= self._columns[name].matching(wanted if isinstance(wanted, tuple) else (wanted,))
        return mask


class _Column:
    """The values of one field, coded: int32 (rows,), -1 where there is none."""

    def __init__(self, values: Sequence[Scalar | None]) -> None:
        codes: dict[_Key, int] = {}
        self._of_row = np.array([-1 if value is None else codes.setdefault(_key(value), len(codes)) for value in values], np.int32)
        self._codes = codes

    def matching(self, wanted: Sequence[Scalar]) -> Array:
        found = [self._codes[_key(value)] for value in wanted if _key(value) in self._codes]
        return np.isin(self._of_row, found)
