"""The decorators that make the methods of the delegating classes: aiofiles' `threadpool.utils`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

__all__ = [
    "cond_delegate_to_executor", "delegate_to_executor", "proxy_method_directly", "proxy_property_directly",
]  # fmt: skip

C = TypeVar("C", bound=type)


def _each(make: Callable[[str], Any], names: tuple[str, ...]) -> Callable[[C], C]:
    def build(cls: C) -> C:
        for name in names:
            setattr(cls, name, make(name))
        return cls

    return build


def delegate_to_executor(*attrs: str) -> Callable[[C], C]:
    """Coroutine methods that call the file's own on a worker."""
    return _each(_delegate, attrs)


def proxy_method_directly(*attrs: str) -> Callable[[C], C]:
    """Methods that call the file's own here and now."""
    return _each(_proxy, attrs)


def proxy_property_directly(*attrs: str) -> Callable[[C], C]:
    """Properties that are the file's."""
    return _each(_property, attrs)


def cond_delegate_to_executor(*attrs: str) -> Callable[[C], C]:
    """As `delegate_to_executor`, of a spooled temporary file: what is in memory is asked here and now."""
    return _each(_cond_delegate, attrs)


def _delegate(name: str) -> Any:
    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return await self._delegate(functools.partial(getattr(self._file, name), *args, **kwargs))

    return _named(method, name)


def _proxy(name: str) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self._file, name)(*args, **kwargs)

    return _named(method, name)


def _property(name: str) -> Any:
    return property(lambda self: getattr(self._file, name))


def _cond_delegate(name: str) -> Any:
    async def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = functools.partial(getattr(self._file, name), *args, **kwargs)
        return await self._delegate(call) if self._file._rolled else call()

    return _named(method, name)


def _named(method: Any, name: str) -> Any:
    method.__name__ = name
    return method
