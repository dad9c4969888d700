"""The documentation site has everything: the reference every public name, the navigation every page. (No build: `make
site` does that, and checks links.)"""

from __future__ import annotations

import importlib
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import aioring

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
DIRECTIVE = re.compile(r"^::: ([\w.]+)((?:\n +.*)*)", re.MULTILINE)
# Others' own, which are named on the page.
NAMED = {f"aioring.anyio.{name}" for name in ("TemporaryDirectory", "gettempdir", "gettempdirb", "mkdtemp", "mkstemp")}


def entries(nav: list[dict[str, Any]]) -> Iterator[str]:
    for entry in nav:
        for target in entry.values():
            yield from [target] if isinstance(target, str) else entries(target)


def directives() -> dict[str, str]:
    """What the reference collects, with the directive's options."""
    return {
        found[1]: found[2]
        for page in sorted((DOCS / "reference").glob("*.md"))
        for found in DIRECTIVE.finditer(page.read_text())
    }


def covered(name: str, collected: dict[str, str]) -> bool:
    module = name.rpartition(".")[0]
    of_its_own = f"heading: {name}\n" in "\n".join(collected.values()) + "\n"  # its module has the same name
    return name in collected or of_its_own or (module in collected and "members" not in collected[module])


@pytest.mark.parametrize(
    "module",
    [
        "aioring",
        "aioring.testing",
        "aioring.aiofiles",
        "aioring.aiofiles.os",
        "aioring.aiofiles.ospath",
        "aioring.aiofiles.tempfile",
        "aioring.anyio",
        "aioring.anyio.streams.file",
        "aioring.observe",
        "aioring.interop.otel",
        "aioring.interop.prometheus",
    ],
)
def test_the_reference_has_every_public_name(module: str) -> None:
    collected = directives()
    names = [f"{module}.{name}" for name in importlib.import_module(module).__all__]
    missing = [name for name in names if name not in NAMED and name != "aioring.aiofiles.os.path"]
    assert [name for name in missing if not covered(name, collected)] == []


def test_what_others_own_is_named_on_the_page() -> None:
    text = (DOCS / "reference" / "anyio.md").read_text()
    assert [name for name in sorted(NAMED) if f"`{name.rpartition('.')[2]}`" not in text] == []


def test_what_the_reference_collects_is_there() -> None:
    for name in directives():
        module, _, last = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), last), name


def test_the_reference_leads_to_each_of_its_pages() -> None:
    text = (DOCS / "reference" / "index.md").read_text()
    pages = {page.name for page in (DOCS / "reference").glob("*.md")} - {"index.md"}
    assert [page for page in sorted(pages) if f"]({page})" not in text] == []


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page() -> None:
    named = list(entries(PROJECT["nav"]))
    pages = {str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md")}
    assert sorted(set(named) - pages) == [], "no such page"
    assert sorted(pages - set(named)) == [], "a page that nobody finds"
    assert len(named) == len(set(named))


def test_a_fence_says_nothing_that_the_site_would_not_take_for_one() -> None:
    fences = [
        line for page in DOCS.rglob("*.md") for line in re.findall(r"^ *(?:`{3,}|~{3,})(.*)$", page.read_text(), re.M)
    ]
    assert {said for said in fences if not re.fullmatch(r"\w*|python no-run: .+", said)} == set()


def test_the_site_is_built_strictly_and_needs_nothing_from_elsewhere() -> None:
    assert PROJECT["strict"] is True
    assert PROJECT["theme"]["font"] is False
    assert (ROOT / PROJECT["site_dir"]).is_relative_to(ROOT / "build")  # which git ignores
    assert aioring.__name__ == PROJECT["site_name"]
