"""Completes the built site and checks it; `make site` runs it behind the build. Standard library only.

Every link and image is there, what a page links to outside docs/ included, every anchor, and nothing is fetched from
elsewhere. `--chromium` has pages drawn at two widths, into build/shots: none may scroll sideways.
"""

from __future__ import annotations

import functools
import http.server
import itertools
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "site"  # laid out as the repository is: what is built of docs/ is in docs/
SHOTS = ROOT / "build" / "shots"
SHOWN = ("index", "tutorial", "reference/ring", "benchmarks/ring_read")
WIDTHS = (400, 1280)
FETCHED = {"script", "img", "iframe", "source", "video", "audio", "embed", "object"}
STAYS = {"canonical", "prev", "next", "alternate", "license", "author"}  # what `<link rel=` is not fetched
CODE = {"code", "pre", "script", "style", "title"}
LEFT = r"```|~~~|\]\([\w./#-]+\)|\]\[[a-zA-Z][\w.]*\]|^(?:#{1,6}|\| ?-{3}|:::) .*|\n *[-*] \w.*"  # among words
MARKDOWN = re.compile(LEFT, re.MULTILINE)
BROWSER = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
BROWSER += ["--disable-background-networking", "--disable-component-update", "--virtual-time-budget=4000"]
FRAME = """<!doctype html><body style="margin:0">
<iframe scrolling="no" style="display:block;border:0;width:{width}px;height:{height}px"></iframe>
<script>
const frame = document.querySelector("iframe");
frame.onload = () => setTimeout(() => {{
    const inside = frame.contentDocument, shown = inside.documentElement.clientWidth;
    const over = [...inside.querySelectorAll("main *")].filter((e) => e.getBoundingClientRect().right > shown + 1);
    document.body.dataset.wide = inside.documentElement.scrollWidth + "/" + shown + "/" + inside.title + "/" +
        over.slice(0, 3).map((e) => e.tagName + "." + e.className).join(" ");
}}, 1500);
frame.src = "/docs/{page}.html";
</script>"""


class Link(NamedTuple):
    line: int
    target: str
    fetched: bool  # by the browser, unasked


class Page(HTMLParser):
    """What a built page links to, and the anchors in it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[Link] = []
        self.anchors: set[str] = set()
        self.unmade: list[Link] = []  # Markdown that was taken for words
        self.code = 0
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attributes}
        self.code += tag in CODE
        self.anchors.update(said[name] for name in ("id", "name") if name in said and (name == "id" or tag == "a"))
        fetched = tag in FETCHED or (tag == "link" and said.get("rel") not in STAYS)
        here = [said[name] for name in ("href", "src", "data", "poster") if name in said]
        here += [one.split()[0] for one in said.get("srcset", "").split(",") if one.strip()]
        self.links += [Link(self.getpos()[0], one, fetched) for one in here if tag != "base"]

    def handle_endtag(self, tag: str) -> None:
        self.code -= tag in CODE

    def handle_data(self, data: str) -> None:
        if not self.code and (found := MARKDOWN.search(data)):
            self.unmade.append(Link(self.getpos()[0], found[0].strip(), False))


def write(path: Path, body: str, text: Path | None = None, head: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    words = f'<pre style="white-space: pre-wrap">{escape(text.read_text())}</pre>' if text and text.exists() else ""
    title = escape(text.name if text else "aioring")
    head += f'<meta name="viewport" content="width=device-width"><title>{title}</title>'
    path.write_text(f'<!doctype html><meta charset="utf-8">{head}\n{words}\n{body}\n')


def bring(target: Path) -> bool:
    """Put what lies outside docs/ in the repository into the site, where a link expects it. zensical makes NAME.html of a
    link to NAME.md, and index.html of one to README.md: they have it as it is written, a folder's page a list as well."""
    source = ROOT / target.relative_to(SITE)
    folder = source.parent if source.name == "index.html" else source
    if target.is_relative_to(SITE / "docs") or folder == ROOT:
        return False
    if folder.is_dir():
        names = sorted(one.name for one in folder.iterdir() if one.is_file())
        listed = "".join(f'<li><a href="{escape(name)}">{escape(name)}</a></li>' for name in names)
        write(SITE / folder.relative_to(ROOT) / "index.html", f"<ul>{listed}</ul>", folder / "README.md")
        return all(bring(SITE / (folder / name).relative_to(ROOT)) for name in names)
    if source.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    elif source.with_suffix(".md").is_file():
        write(target, "", source.with_suffix(".md"))
    return target.exists()


def check_links() -> Iterator[str | None]:
    pages = {path: Page(path) for path in sorted(SITE.rglob("*.html"))}
    for path, page in pages.items():
        for link in page.links:
            wrong = look(path, link, pages)
            yield f"{path.relative_to(SITE)}:{link.line}: {link.target}: {wrong}" if wrong else None
        for left in page.unmade:
            yield f"{path.relative_to(SITE)}:{left.line}: {left.target}: Markdown that was taken for words"
    for path in sorted(SITE.rglob("*.css")):
        for found in re.findall(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')\s]+)", path.read_text()):
            yield f"{path.relative_to(SITE)}: {found}: fetched from elsewhere"


def look(path: Path, link: Link, pages: dict[Path, Page]) -> str | None:
    """What is wrong with a link."""
    parts = urlsplit(link.target)
    if parts.scheme == "data":
        return None
    if parts.scheme or parts.netloc:
        return "fetched from elsewhere" if link.fetched else None
    if parts.path.startswith("/"):  # nobody says that the site lies at the top of its host; the 404 page cannot know
        return None if path.name == "404.html" else "begins at the top of the host"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    inside = target.is_relative_to(SITE)
    if not inside or not (target.is_file() or (target / "index.html").is_file() or bring(target)):
        return "no such file, or a folder without a page"
    target = target / "index.html" if target.is_dir() else target
    if parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
        return "no such anchor"
    return None


class Quiet(http.server.SimpleHTTPRequestHandler):
    """The site; and `/frame/WIDTH/HEIGHT/PAGE`: a page in a frame, since a window may be no narrower than 500."""

    def do_GET(self) -> None:
        if not (frame := re.fullmatch(r"/frame/(\d+)/(\d+)/(.+)", self.path)):
            return super().do_GET()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        self.wfile.write(FRAME.format(width=frame[1], height=frame[2], page=frame[3]).encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


def check_widths(browser: str) -> Iterator[str | None]:
    SHOTS.mkdir(parents=True, exist_ok=True)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(SITE))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for page, width in itertools.product(SHOWN, WIDTHS):
            height = 2 * width if width < 800 else width
            shot = SHOTS / f"{page.replace('/', '-')}-{width}.png"
            with tempfile.TemporaryDirectory() as profile:
                command = [browser, *BROWSER, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
                url = f"http://127.0.0.1:{server.server_port}/frame/{width}/{height}/{page}"
                subprocess.run([*command, f"--screenshot={shot}", url], check=True, capture_output=True, timeout=60)
                done = subprocess.run([*command, "--dump-dom", url], check=True, capture_output=True, timeout=60)
            said = re.search(r'data-wide="(\d+)/(\d+)/([^"]*)"', done.stdout.decode())
            if said is None or int(said[2]) != width:
                yield f"{page} at {width}: was not drawn, or in another width"
            else:
                yield f"{page} at {width}: is {said[1]} wide: {said[3]}" if int(said[1]) > width else None
        server.shutdown()


def main() -> int:
    if not (SITE / "docs" / "index.html").exists():
        sys.exit(f"no site in {SITE}: `make site` builds it")
    if "--chromium" in sys.argv[1:]:
        browser = shutil.which("chromium") or sys.exit("no chromium here: apt-get install chromium")
        what, found = "widths", list(check_widths(browser))
    else:
        to_docs = '<meta http-equiv="refresh" content="0; url=docs/index.html">'
        write(SITE / "index.html", '<a href="docs/index.html">aioring</a>', head=to_docs)
        what, found = "links", list(check_links())
    wrong = [one for one in found if one is not None]
    print(f"site: {what}: {found.count(None):,} hold, {len(wrong):,} do not")
    for one in wrong:
        print(f"site: WRONG: {one}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
