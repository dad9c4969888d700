"""The part of a path that asks nobody: its words, as `pathlib` takes them apart, in anyio's API."""

from __future__ import annotations

import os
import pathlib
import sys
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, ClassVar, Self

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["Lexical", "StrPath", "plain"]

StrPath = str | PathLike[str]


def plain(path: Any) -> Any:
    """What `pathlib` and `os` take in the place of one of ours."""
    return path._path if isinstance(path, Lexical) else path


class Lexical:
    """`_path` is the `pathlib.Path`; `_like` makes another path of the same kind."""

    __slots__ = ()

    _path: Any
    if TYPE_CHECKING:

        def _like(self, path: Any) -> Self: ...

    def __fspath__(self) -> str:
        return str(self)

    if sys.version_info >= (3, 15):

        def __vfspath__(self) -> str:
            return str(self)

    def __str__(self) -> str:
        return str(self._path)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.as_posix()!r})"

    def __bytes__(self) -> bytes:
        return os.fsencode(str(self))

    def __hash__(self) -> int:
        return hash(self._path)

    def __eq__(self, other: object) -> bool:
        same: bool = self._path.__eq__(plain(other))
        return same

    def __lt__(self, other: Any) -> bool:
        return self._path < plain(other)  # type: ignore[no-any-return]

    def __le__(self, other: Any) -> bool:
        return self._path <= plain(other)  # type: ignore[no-any-return]

    def __gt__(self, other: Any) -> bool:
        return self._path > plain(other)  # type: ignore[no-any-return]

    def __ge__(self, other: Any) -> bool:
        return self._path >= plain(other)  # type: ignore[no-any-return]

    def __truediv__(self, other: StrPath) -> Self:
        return self._like(self._path / plain(other))

    def __rtruediv__(self, other: StrPath) -> Self:
        return self._like(plain(other) / self._path)

    @property
    def parts(self) -> tuple[str, ...]:
        """As `pathlib.PurePath.parts`; asks nobody."""
        return self._path.parts  # type: ignore[no-any-return]

    @property
    def drive(self) -> str:
        """As `pathlib.PurePath.drive`; asks nobody."""
        return self._path.drive  # type: ignore[no-any-return]

    @property
    def root(self) -> str:
        """As `pathlib.PurePath.root`; asks nobody."""
        return self._path.root  # type: ignore[no-any-return]

    @property
    def anchor(self) -> str:
        """As `pathlib.PurePath.anchor`; asks nobody."""
        return self._path.anchor  # type: ignore[no-any-return]

    @property
    def parents(self) -> Sequence[Self]:
        """As `pathlib.PurePath.parents`; asks nobody."""
        return tuple(map(self._like, self._path.parents))

    @property
    def parent(self) -> Self:
        """As `pathlib.PurePath.parent`; asks nobody."""
        return self._like(self._path.parent)

    @property
    def name(self) -> str:
        """As `pathlib.PurePath.name`; asks nobody."""
        return self._path.name  # type: ignore[no-any-return]

    @property
    def suffix(self) -> str:
        """As `pathlib.PurePath.suffix`; asks nobody."""
        return self._path.suffix  # type: ignore[no-any-return]

    @property
    def suffixes(self) -> list[str]:
        """As `pathlib.PurePath.suffixes`; asks nobody."""
        return self._path.suffixes  # type: ignore[no-any-return]

    @property
    def stem(self) -> str:
        """As `pathlib.PurePath.stem`; asks nobody."""
        return self._path.stem  # type: ignore[no-any-return]

    def as_posix(self) -> str:
        """As `pathlib.PurePath.as_posix`; asks nobody."""
        return self._path.as_posix()  # type: ignore[no-any-return]

    def as_uri(self) -> str:
        """As `pathlib.PurePath.as_uri`; asks nobody."""
        return self._path.as_uri()  # type: ignore[no-any-return]

    def match(self, path_pattern: str, *, case_sensitive: bool | None = None) -> bool:
        """As `pathlib.PurePath.match`; `case_sensitive` needs Python 3.12."""
        if case_sensitive is None:
            return self._path.match(path_pattern)  # type: ignore[no-any-return]
        return self._path.match(path_pattern, case_sensitive=case_sensitive)  # type: ignore[no-any-return]

    if sys.version_info >= (3, 13):
        parser: ClassVar[ModuleType] = pathlib.Path.parser

        def full_match(self, path_pattern: str, *, case_sensitive: bool | None = None) -> bool:
            return self._path.full_match(path_pattern, case_sensitive=case_sensitive)  # type: ignore[no-any-return]

    def is_absolute(self) -> bool:
        """As `pathlib.PurePath.is_absolute`; asks nobody."""
        return self._path.is_absolute()  # type: ignore[no-any-return]

    def is_relative_to(self, other: StrPath) -> bool:
        """As `pathlib.PurePath.is_relative_to`; asks nobody."""
        try:
            self.relative_to(other)
        except ValueError:
            return False
        return True

    if sys.version_info < (3, 15):

        def is_reserved(self) -> bool:
            return self._path.is_reserved()  # type: ignore[no-any-return]

    def joinpath(self, *args: StrPath) -> Self:
        """As `pathlib.PurePath.joinpath`; asks nobody."""
        return self._like(self._path.joinpath(*map(plain, args)))

    def relative_to(self, *other: StrPath, walk_up: bool = False) -> Self:
        """As `pathlib.PurePath.relative_to`; `walk_up` needs Python 3.12."""
        others = [pathlib.Path(plain(one)) for one in other]
        if walk_up:
            return self._like(self._path.relative_to(*others, walk_up=True))
        return self._like(self._path.relative_to(*others))

    def with_name(self, name: str) -> Self:
        """As `pathlib.PurePath.with_name`; asks nobody."""
        return self._like(self._path.with_name(name))

    def with_stem(self, stem: str) -> Self:
        """As `pathlib.PurePath.with_stem`; asks nobody."""
        if not stem and self.suffix:
            raise ValueError(f"{self!r} has a non-empty suffix")  # as pathlib has it since Python 3.13
        return self._like(self._path.with_stem(stem))

    def with_suffix(self, suffix: str) -> Self:
        """As `pathlib.PurePath.with_suffix`; asks nobody."""
        return self._like(self._path.with_suffix(suffix))

    def with_segments(self, *pathsegments: StrPath) -> Self:
        """As `pathlib.PurePath.with_segments`; asks nobody."""
        return self._like(pathlib.Path(*map(plain, pathsegments)))
