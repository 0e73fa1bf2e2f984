"""Add the files that pages link to to MkDocs' site.

The readme is the front page. What pages link to outside of `docs` becomes a page: Markdown as it
is, a notebook with its outputs, another file as a listing, a folder as its readme or the list of
its files. So a link works on a code host and in the site alike, and no text is there twice.
"""

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pygments.formatters import HtmlFormatter

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
README = REPOSITORY / "README.md"
IMAGES = (".png", ".webp")
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)[^)\s#]+")

sources: dict[str, Path] = {}
"""What each page is made of, by its place in the site."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in `docs`."""
    found = {README, *DOCS.rglob("*.md")}
    while (
        new := {
            end for source in found for end in _ends(source).values() if end.suffix not in IMAGES
        }
        - found
    ):
        found |= new
    sources.update({_place(source): source for source in found})
    pages = {
        place: _text(source)
        for place, source in sources.items()
        if files.get_file_from_path(place) is None
    }
    pages |= {"code.css": HtmlFormatter().get_style_defs(".highlight")}
    for place, text in sorted(pages.items()):
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Change links to their targets' places in the site."""
    here = PurePosixPath(page.file.src_uri)
    places = {
        link: os.path.relpath(_place(end), here.parent)
        for link, end in _ends(sources.get(str(here), DOCS / here)).items()
    }
    return _LINK.sub(lambda link: places.get(link[0], link[0]), markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Write the search's index as a script, too.

    Pages that are opened from a disk cannot load it otherwise.
    """
    index = Path(config.site_dir, "search", "search_index.json")
    index.with_suffix(".js").write_text(f"const search_index = {index.read_text()};\n")


def _ends(source: Path) -> dict[str, Path]:
    """Return the files and folders that a page links to."""
    if not source.is_dir() and (source.suffix != ".md" or not source.exists()):
        return {}
    folder = source if source.is_dir() else source.parent
    ends = {link: (folder / link).resolve() for link in _LINK.findall(_text(source))}
    return {link: _front(end) for link, end in ends.items() if end.exists()}


def _front(end: Path) -> Path:
    """Return a folder's readme, if it has one."""
    readme = end / "README.md"
    return readme if readme.exists() else end


def _place(source: Path) -> str:
    """Return the site's path of a file or folder."""
    inside = source.relative_to(DOCS if source.is_relative_to(DOCS) else REPOSITORY).as_posix()
    if source.is_dir():
        return f"{inside}/index.md"
    return (
        "index.md"
        if source == README
        else inside
        if source.suffix in (".md", *IMAGES)
        else f"{inside}.md"
    )


def _text(source: Path) -> str:
    """Return the text of a page."""
    if source.suffix == ".md":
        return source.read_text()
    if source.is_dir():
        listed = sorted(
            file for file in source.iterdir() if file.is_file() and file.suffix not in IMAGES
        )
        return f"# {source.name}\n\n" + "".join(
            f"- [{_title(file)}]({file.name})\n" for file in listed
        )
    if source.suffix == ".ipynb":
        return "\n\n".join(_cell(cell) for cell in json.loads(source.read_text())["cells"])
    return (
        f"# {source.relative_to(REPOSITORY)}\n\n```{source.suffix[1:]}\n{source.read_text()}```\n"
    )


def _cell(cell: dict[str, Any]) -> str:
    """Return a notebook's cell and its outputs as Markdown."""
    text = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        return text
    return "\n\n".join([_listing("python", text), *map(_output, cell["outputs"])])


def _output(output: dict[str, Any]) -> str:
    data = output.get("data", {"text/plain": output.get("text", "")})
    for kind in ("image/jpeg", "image/png"):
        if kind in data:
            return f"![output](data:{kind};base64,{''.join(data[kind].split())})"
    return _listing("text", "".join(data["text/plain"]))


def _listing(language: str, text: str) -> str:
    return f"````{language}\n{text.rstrip()}\n````"


def _title(file: Path) -> str:
    return (
        file.read_text().partition("\n")[0].removeprefix("# ")
        if file.suffix == ".md"
        else file.name
    )
