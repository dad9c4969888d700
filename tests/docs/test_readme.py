"""Every python block in README.md and docs/ runs, each by itself, as a person who copies it would run it.

A block may use top-level `await`. It runs in a folder of its own, which holds `SAMPLES`. A fence that opens with
"```python no-run: why" is compiled only. docs/check.py finds the blocks; `make docs` uses the same code.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.conftest import pattern

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = {
    "data.bin": pattern(100_000),
    "notes.txt": b"one line\nand another\n" * 500,
    "empty": b"",
    "folder/one.txt": b"one\n",
    "folder/two.txt": b"two\n",
}


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"tests_docs_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


check = _load(ROOT / "docs" / "check.py")
BLOCKS = check.python_blocks()
OF_README = [block for block in BLOCKS if block.path == ROOT / "README.md"]


def runs(block: Any) -> bool:
    return block.left_out is None


def execute(block: Any) -> dict[str, Any]:
    """Run a block on asyncio; its names afterwards."""
    names: dict[str, Any] = {"__name__": "__main__"}
    code = check.compiled(block)
    coroutine = eval(code, names)
    if code.co_flags & inspect.CO_COROUTINE:
        asyncio.run(coroutine)
    return names


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, data in SAMPLES.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS, ids=[f"{b.path.relative_to(ROOT)}:{b.line}" for b in BLOCKS])
def test_a_block_of_the_documents_runs(block: Any, samples: Path) -> None:
    print(f"{block.path}:{block.line}\n{block.source}")  # pytest shows it when the test fails
    if runs(block):
        execute(block)
    else:
        check.compiled(block)


def test_the_readme_has_a_block_that_runs() -> None:
    assert any(map(runs, OF_README)), "README.md has no python block that runs: what people see first is not tested"


SAMPLE = '''\
# A heading

```python
first = 1
```

* in a list:

  ```python
  import asyncio, pathlib
  text = """kept
    as it is"""
  await asyncio.sleep(0)
  second = len(pathlib.Path("data.bin").read_bytes())
  ```

```
not python
```

````python no-run: it divides by zero
never = 1 / 0
```
not the end
````

```pythonish
neither
```

~~~python
raise LookupError("on purpose")
~~~
'''


def test_the_extractor_finds_python_blocks_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(SAMPLE)
    found = check.python_blocks(tmp_path)
    assert [(block.line, block.info) for block in found] == [
        (4, "python"),
        (10, "python"),
        (22, "python no-run: it divides by zero"),
        (32, "python"),
    ]
    assert found[0].source == "first = 1\n"
    assert found[1].source.startswith('import asyncio, pathlib\ntext = """kept\n  as it is"""\n')
    assert [runs(block) for block in found] == [True, True, False, True]
    assert found[2].left_out == "it divides by zero"


def test_blocks_are_executed_with_top_level_await_and_fail_on_their_own_line(samples: Path) -> None:
    (samples / "README.md").write_text(SAMPLE)
    plain, awaiting, _, failing = check.python_blocks(samples)
    assert execute(plain)["first"] == 1
    names = execute(awaiting)
    assert (names["second"], names["text"]) == (100_000, "kept\n  as it is")
    with pytest.raises(LookupError) as caught:
        execute(failing)
    assert caught.traceback[-1].lineno == failing.line - 1  # pytest counts from 0


def test_what_does_not_hold_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "other.md").write_text("## A `heading`, and more\n")
    (tmp_path / "README.md").write_text(
        "[good](docs/other.md#a-heading-and-more) [no file](nope.md) [no heading](docs/other.md#nope)\n"
        "`[code](is-no-link)` <https://example.org>\n\n"
        "pip install aioring\n" + "\n```python\nx = (\n```\n```python no-run\npass\n```\n"
    )
    monkeypatch.setattr(check, "ROOT", tmp_path)
    monkeypatch.setattr(check, "documents", lambda root=tmp_path: [tmp_path / "README.md"])
    monkeypatch.setattr(check.python_blocks, "__defaults__", (tmp_path,))
    assert [one for one in check.check_links() if one] == [
        "README.md:1: link to nope.md: no such file",
        "README.md:1: link to docs/other.md#nope: no such heading",
    ]
    assert [one for one in check.check_installs() if one] == [
        "README.md:4: has people install aioring, not aioring-io: pip install aioring"
    ]
    block, unsaid = [one for one in check.check_blocks() if one]
    assert block.startswith("README.md:7: this python block does not compile")
    assert unsaid == "README.md:10: this python block is not run, and does not say why"
