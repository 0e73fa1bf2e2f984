"""The documents as a site: built without a warning, asking the network for nothing, every link with
an end.
"""

import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from tests.browser import CHROMIUM, REASON
from tests.pages import REPOSITORY

DOCS = REPOSITORY / "docs"
SUBPACKAGES = [page.stem for page in (DOCS / "api").glob("*.md")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    built = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr  # a warning is an error to `--strict`
    return folder


class Addresses(HTMLParser):
    """What a page links to, what it loads by itself, and its anchors."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attributes}
        self.anchors |= {values[key] for key in ("id", "name") if key in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        elif (address := values.get("src") or values.get("href")) is not None:
            self.loaded.append(address)


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Addresses]:
    return {
        page: Addresses(page)
        for page in site.rglob("*.html")
        if page.name not in ("404.html", "search.html")
    }


def test_a_page_loads_nothing_from_the_network(site: Path, pages: dict[Path, Addresses]) -> None:
    in_style = re.compile(r"(?:url\(|@import)\s*[\"']?([^\"')]+)")
    by_pages = [address for page in pages.values() for address in page.loaded]
    by_styles = [
        address for sheet in site.rglob("*.css") for address in in_style.findall(sheet.read_text())
    ]
    assert by_pages
    assert by_styles
    assert [
        address
        for address in [*by_pages, *by_styles]
        if re.match(r"\w+:|//", address) and not address.startswith("data:")
    ] == []


def test_every_link_has_an_end(pages: dict[Path, Addresses]) -> None:
    def ends() -> Iterator[tuple[Path, str]]:
        for page, addresses in pages.items():
            for address in [*addresses.links, *addresses.loaded]:
                parts = urlsplit(address)
                end = (page.parent / unquote(parts.path)).resolve() if parts.path else page
                missing = (
                    parts.fragment
                    and end in pages
                    and unquote(parts.fragment) not in pages[end].anchors
                )
                if not parts.scheme and (not end.is_file() or missing):
                    yield page, address

    assert list(ends()) == []


def test_the_readme_is_the_front_page_and_links_to_files_outside_of_the_documents_work(
    site: Path,
) -> None:
    assert "a layer that learns" in (site / "index.html").read_text()
    pages = (
        "CONTRIBUTING",
        "CHANGELOG",
        "data/index",
        "configs/image_folder/small_st2.yaml",
        "configs/cub/networks/index",
        "operations/index",
    )
    for name in pages:
        assert (site / f"{name}.html").is_file(), name


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_the_reference_has_everything_public_of_a_subpackage(
    subpackage: str, site: Path, pages: dict[Path, Addresses]
) -> None:
    name = f"stn_lightning.{subpackage}"
    module = importlib.import_module(name)
    submodules = {path.stem for path in Path(str(module.__file__)).parent.glob("[a-z]*.py")}
    public = getattr(module, "__all__", submodules)  # some subpackages are used by their modules
    assert public
    assert {f"{name}.{thing}" for thing in public} <= pages[site / f"api/{subpackage}.html"].anchors


def test_a_notebook_is_shown_with_its_outputs(site: Path) -> None:
    text = (site / "notebooks/3_fine_tune.ipynb.html").read_text()
    assert "<h1" in text
    assert '<img alt="output" src="data:image/' in text
    assert '"cell_type"' not in text


def leaves(entries: list[Any]) -> Iterator[Any]:
    for entry in entries:
        (content,) = entry.values() if isinstance(entry, dict) else (entry,)
        yield from leaves(content) if isinstance(content, list) else [entry]


def test_each_page_of_the_navigation_is_in_a_section_and_keeps_its_title() -> None:
    front, *sections = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"]
    assert front == "index.md"
    assert all(isinstance(section, dict) for section in sections)
    pages = list(leaves(sections))
    assert [page for page in pages if not isinstance(page, str)] == []
    documents = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert {page for page in documents - set(pages) if not page.startswith("results/")} == set()


@pytest.mark.skipif(CHROMIUM is None, reason=REASON)
def test_the_search_works_from_the_disk(site: Path) -> None:
    address = f"file://{site}/search.html?q=collapsed"
    flags = ["--headless", "--no-sandbox", "--virtual-time-budget=60000", "--dump-dom"]
    shown = subprocess.run(
        [str(CHROMIUM), *flags, address], capture_output=True, text=True, check=True
    ).stdout
    assert re.search(r'<article><h3><a href="[^"]*/monitoring.html', shown)


def test_the_reference_shows_examples_as_code_and_no_private_base(site: Path) -> None:
    code, quoted, private = 0, [], []
    for page in (site / "api").glob("*.html"):
        text = page.read_text()
        code += text.count('<span class="gp">&gt;&gt;&gt; </span>')
        quoted += [page.name] * ("<blockquote>" in text)
        private += re.findall(r"Bases:\s*(?:<[^>]+>)*_\w+", text)
    assert code > 100
    assert quoted == private == []


def test_the_reference_has_every_subpackage_of_the_library() -> None:
    packages = {path.parent.name for path in (REPOSITORY / "stn_lightning").glob("*/__init__.py")}
    assert set(SUBPACKAGES) == packages - {"cli"}
