"""Metadata filters and access as masks over rows, so that every kind of search can apply them inside."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from quarry_contract.codec import Scalar
from quarry_contract.errors import QuarryError, invalid
from quarry_contract.index_store import EVERYONE
from quarry_runtime.session import Array

from .lexical import arranged
from .passages import Row

BUILT_IN = ("document_id", "version", "title", "section", "page")
_NAMES_SHOWN = 30
NONE = -1  # the code of a row without a value


def _key(value: Scalar) -> Hashable:
    """True and 1 are equal in Python and different in JSON."""
    return isinstance(value, bool), value


@dataclass(frozen=True, eq=False)
class Column:
    """The values of one field, coded."""

    codes: Mapping[Hashable, int]
    of_row: Array  # int32 (rows,)

    @classmethod
    def of(cls, keys: Sequence[Hashable | None]) -> "Column":
        """None = no value."""
        codes: dict[Hashable, int] = {}
        return cls(codes, np.array([NONE if key is None else codes.setdefault(key, len(codes)) for key in keys], np.int32))

    @classmethod
    def merged(cls, columns: Sequence["Column"], places: Sequence[Array]) -> "Column":
        """Rows put where `places` (int64 (rows,) per column, -1 = left out) says; values no row is left with go."""
        codes: dict[Hashable, int] = {}
        of_rows = []
        for column, place in zip(columns, places, strict=True):
            used = np.zeros(len(column.codes) + 1, bool)  # the last is NONE's
            used[column.of_row[place >= 0]] = True
            anew = np.full(len(used), NONE, np.int32)
            for key, code in column.codes.items():
                if used[code]:
                    anew[code] = codes.setdefault(key, len(codes))
            of_rows.append(anew[column.of_row])
        return cls(codes, arranged(of_rows, places))

    def matching(self, keys: Collection[Hashable]) -> Array:
        """bool (rows,): the rows that have one of these."""
        return np.isin(self.of_row, [self.codes[key] for key in keys if key in self.codes])


@dataclass(frozen=True, eq=False)
class Fields:
    """What rows can be filtered by, and who may see them. A document's metadata never hides the built-in fields."""

    rows: int
    columns: Mapping[str, Column]
    readers: Column  # keys: frozenset of principals

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "Fields":
        """Of rows as they are in the database."""
        names = {name for row in rows for name in row.metadata}.difference(BUILT_IN)
        columns = {name: Column.of([_key(row.metadata[name]) if name in row.metadata else None for row in rows]) for name in names}
        for name in BUILT_IN:
            values = [getattr(row, name) for row in rows]
            columns[name] = Column.of([None if value is None else _key(value) for value in values])
        return cls(len(rows), columns, Column.of([row.principals for row in rows]))

    @classmethod
    def merged(cls, parts: Sequence["Fields"], places: Sequence[Array]) -> "Fields":
        """See Column.merged."""
        absent = [Column({}, np.full(part.rows, NONE, np.int32)) for part in parts]
        names = {name for part in parts for name in part.columns}
        columns = {name: Column.merged([part.columns.get(name, none) for part, none in zip(parts, absent, strict=True)], places) for name in names}
        readers = Column.merged([part.readers for part in parts], places)
        return cls(len(readers.of_row), columns, readers)

    def visible(self, principals: frozenset[str]) -> Array:
        """bool (rows,): those that everyone or one of these principals may read."""
        asked = principals | {EVERYONE}
        return self.readers.matching([readers for readers in self.readers.codes if not asked.isdisjoint(readers)])  # type: ignore[arg-type]

    def names(self, mask: Array) -> set[str]:
        """The fields that any of the rows marked by bool (rows,) has a value in."""
        return {name for name, column in self.columns.items() if bool((column.of_row[mask] != NONE).any())}

    def matching(self, filters: Mapping[str, Scalar | tuple[Scalar, ...]]) -> Array:
        """bool (rows,): the rows that match every field."""
        mask = np.ones(self.rows, bool)
        for name, wanted in filters.items():
            keys = [_key(value) for value in (wanted if isinstance(wanted, tuple) else (wanted,))]
            mask &= self.columns[name].matching(keys) if name in self.columns else False
        return mask


def unknown_field(known: Collection[str]) -> QuarryError:
    """What is raised for a filter by a field that no passage visible to the caller has."""
    names = sorted({*known, *BUILT_IN})
    more = ", ..." if len(names) > _NAMES_SHOWN else ""
    return invalid(f"filters has a field that is unknown to this index: it knows {', '.join(names[:_NAMES_SHOWN])}{more}")
