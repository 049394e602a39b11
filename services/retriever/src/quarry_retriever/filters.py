"""Metadata filters and access as masks over rows, so that every kind of search can apply them inside."""

from array import array
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
        wanted = np.zeros(len(self.codes) + 1, bool)  # the last is NONE's
        wanted[[self.codes[key] for key in keys if key in self.codes]] = True
        return wanted[self.of_row]


@dataclass(frozen=True, eq=False)
class Seen:
    """Which values of a field stand in some rows."""

    codes: Mapping[Hashable, int]
    there: Array  # bool (codes + 1,); the last is NONE's: False

    def has(self, value: Scalar) -> bool:
        """Whether this one does."""
        return bool(self.there[self.codes.get(_key(value), NONE)])


@dataclass(frozen=True, eq=False)
class Fields:
    """What rows can be filtered by, and who may see them. A document's metadata never hides the built-in fields."""

    rows: int
    columns: Mapping[str, Column]
    readers: Column  # keys: frozenset of principals

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

    def numbered(self, readers: Sequence[frozenset[str]]) -> Array:
        """int16 (rows,): the place of its own readers among these, or NONE."""
        numbers = np.full(len(self.readers.codes) + 1, NONE, np.int16)  # the last is NONE's
        for number, some in enumerate(readers):
            if some in self.readers.codes:
                numbers[self.readers.codes[some]] = number
        return numbers[self.readers.of_row]

    def count_readers(self, mask: Array) -> Mapping[frozenset[str], int]:
        """How many of the rows marked by bool (rows,) have each list of readers."""
        counts = np.bincount(self.readers.of_row[mask], minlength=len(self.readers.codes)).tolist()
        return {readers: counts[code] for readers, code in self.readers.codes.items()}  # type: ignore[misc]

    def names(self, mask: Array) -> set[str]:
        """The fields that any of the rows marked by bool (rows,) has a value in."""
        return {name for name, column in self.columns.items() if bool((column.of_row[mask] != NONE).any())}

    def seen(self, name: str, mask: Array) -> Seen:
        """The values of a built-in field in the rows marked by bool (rows,)."""
        column = self.columns[name]
        there = np.zeros(len(column.codes) + 1, bool)
        there[column.of_row[mask]] = True
        there[NONE] = False
        return Seen(column.codes, there)

    def matching(self, filters: Mapping[str, Scalar | tuple[Scalar, ...]]) -> Array:
        """bool (rows,): the rows that match every field."""
        mask = np.ones(self.rows, bool)
        for name, wanted in filters.items():
            keys = [_key(value) for value in (wanted if isinstance(wanted, tuple) else (wanted,))]
            mask &= self.columns[name].matching(keys) if name in self.columns else False
        return mask


class FieldsMaker:
    """Makes Fields of rows as they are in the database, given one after the other."""

    def __init__(self) -> None:
        self._rows = 0
        self._columns: dict[str, tuple[dict[Hashable, int], array[int]]] = {name: ({}, array("i")) for name in BUILT_IN}
        self._readers: tuple[dict[Hashable, int], array[int]] = ({}, array("i"))

    def add(self, row: Row) -> None:
        """One more."""
        values = row.metadata | {name: getattr(row, name) for name in BUILT_IN}
        for name, value in values.items():
            if value is not None:
                self._set(self._columns.setdefault(name, ({}, array("i"))), _key(value))
        self._set(self._readers, row.principals)
        self._rows += 1

    def made(self) -> Fields:
        """Of all that were added."""
        return Fields(self._rows, {name: self._column(column) for name, column in self._columns.items()}, self._column(self._readers))

    def _set(self, column: tuple[dict[Hashable, int], "array[int]"], key: Hashable) -> None:
        codes, of_row = column
        self._pad(of_row)
        of_row.append(codes.setdefault(key, len(codes)))

    def _pad(self, of_row: "array[int]") -> None:
        if len(of_row) < self._rows:
            of_row.extend([NONE] * (self._rows - len(of_row)))

    def _column(self, column: tuple[dict[Hashable, int], "array[int]"]) -> Column:
        self._pad(column[1])
        return Column(column[0], np.array(column[1], np.int32))


def unknown_field(known: Collection[str]) -> QuarryError:
    """What is raised for a filter by a field that no passage visible to the caller has."""
    names = sorted({*known, *BUILT_IN})
    more = ", ..." if len(names) > _NAMES_SHOWN else ""
    return invalid(f"filters has a field that is unknown to this index: it knows {', '.join(names[:_NAMES_SHOWN])}{more}")
