"""The pictures of one read name files and functions: each is where the picture says, so that it cannot go stale.

docs/images/one-read.svg has a group (class "box") for each station: what has the class "file" is a path, what has the class
"name" a function, a method or an attribute of one of the box's files. docs/architecture.md draws the same with characters.
"""

from __future__ import annotations

import ast
import importlib
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "images" / "one-read.svg"
PAGE = ROOT / "docs" / "architecture.md"
SVG = "{http://www.w3.org/2000/svg}"
STEP = re.compile(r"(aioring/\S+\.py)")


def defined(path: Path) -> set[str]:
    """What a file defines: functions, classes, their methods (inherited ones, too) and attributes, as `name` and as
    `Class.name`."""
    found: set[str] = set()
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            own = set(dir(getattr(module, node.name)))
            for each in ast.walk(node):
                targets = each.targets if isinstance(each, ast.Assign) else [getattr(each, "target", None)]
                for target in targets:
                    for one in target.elts if isinstance(target, ast.Tuple) else [target]:
                        if (
                            isinstance(one, ast.Attribute)
                            and isinstance(one.value, ast.Name)
                            and one.value.id == "self"
                        ):
                            own.add(one.attr)
            found |= {node.name, *own, *(f"{node.name}.{name}" for name in own)}
    return found


def text_of(element: ElementTree.Element) -> str:
    return "".join(element.itertext()).strip()


def boxes(picture: str) -> list[tuple[list[str], list[str]]]:
    """Of each box its files, and the names in it without their arguments."""
    found = []
    for group in ElementTree.fromstring(picture).iter(f"{SVG}g"):
        if "box" in group.get("class", "").split():
            parts = [(each.get("class"), text_of(each)) for each in group.iter()]
            names = [re.sub(r"^await |\(.*", "", text) for kind, text in parts if kind == "name"]
            found.append(([text for kind, text in parts if kind == "file"], names))
    return found


def steps(page: str) -> list[tuple[list[str], list[str]]]:
    """Of each station of the first diagram of the page its files, and the names in backticks."""
    diagram = re.search(r"^```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert diagram is not None, "the page has no diagram"
    found: list[tuple[list[str], list[str]]] = []
    for line in diagram[1].splitlines():
        if path := STEP.search(line):
            found.append(([path[1]], []))
        if found:
            beside = Path(found[-1][0][0]).parent
            found[-1][0].extend(str(beside / name) for name in re.findall(r"(?<![\w/])\w+\.py", line))
            found[-1][1].extend(re.findall(r"`([\w.]+)`", line))
    return found


def missing(stations: list[tuple[list[str], list[str]]]) -> list[str]:
    """What a picture says and the source does not have. A name may also be that of another station: `engine.transfer`."""
    wrong = [f"{file}: no such file" for files, _ in stations for file in files if not (ROOT / file).is_file()]
    if wrong:
        return wrong
    by_file = {file: defined(ROOT / file) for files, _ in stations for file in files}
    for files, names in stations:
        for name in names:
            room, _, last = name.rpartition(".")
            elsewhere = [file for file in by_file if room and Path(file).stem == room]
            here = any({name, f"_{name}"} & by_file[file] for file in files)  # `live`: its own `_live` is the engine's
            if not here and not any(last in by_file[file] for file in elsewhere):
                wrong.append(f"{name}: not in {' or '.join(elsewhere or files)}")
    return wrong


def test_the_picture_of_one_read_names_what_there_is() -> None:
    found = boxes(PICTURE.read_text())
    assert len(found) == 11
    assert sum(len(names) for _, names in found) >= 12
    assert missing(found) == []


def test_the_diagram_of_the_page_names_what_there_is() -> None:
    found = steps(PAGE.read_text())
    assert next(files[0] for files, _ in found) == "aioring/ring/data.py"
    assert len(found) >= 5
    assert sum(len(names) for _, names in found) >= 7
    assert missing(found) == []


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("Engine.on_doorbell", "Engine.on_bell", "Engine.on_bell: not in aioring/engine/engine.py"),
        ("aioring/kernel/doorbell.py", "aioring/kernel/bell.py", "aioring/kernel/bell.py: no such file"),
        ('"name">live<', '"name">dead<', "dead: not in aioring/methods/io_uring.py"),
    ],
)
def test_a_picture_that_has_gone_stale_is_found(before: str, after: str, said: str) -> None:
    picture = PICTURE.read_text()
    assert before in picture
    assert said in missing(boxes(picture.replace(before, after)))


def test_a_diagram_that_has_gone_stale_is_found() -> None:
    page = PAGE.read_text()
    assert "`engine._complete_all`" in page
    assert missing(steps(page.replace("`engine._complete_all`", "`engine._reap_all`"))) == [
        "engine._reap_all: not in aioring/engine/engine.py"
    ]
