"""README and the pages lead somewhere: every relative link, image, anchor and page of the index is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "doc").glob("*.md")), *sorted((ROOT / "doc" / "api").glob("*.md"))]
LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def _links(page: Path) -> list[str]:
    """Relative links of a page; code is left out."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    return [link for link in LINK.findall(text) if not re.match(r"[a-z]+:", link)]


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST make them."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _ids(pages: list[Path]) -> list[str]:
    return [str(page.relative_to(ROOT)) for page in pages]


@pytest.mark.parametrize("page", PAGES, ids=_ids(PAGES))
def test_links_of_a_page_lead_somewhere(page: Path):
    wrong = []
    for link in _links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists():
            wrong.append(f"{link}: there is no {target}")
        elif anchor and target.suffix == ".md" and anchor not in _anchors(target):
            wrong.append(f"{link}: {target.name} has no such heading")
    assert not wrong, "\n".join(wrong)


def test_every_page_and_notebook_is_in_the_index():
    index = (ROOT / "doc" / "index.md").read_text(encoding="utf-8")
    listed = {
        line.strip() for block in re.findall(r"```\{toctree\}(.*?)```", index, re.DOTALL) for line in block.splitlines()
    }
    pages = {path.stem for path in (ROOT / "doc").glob("*.md")} - {"index", "README"}
    notebooks = {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert pages | notebooks <= listed, f"doc/index.md lacks {sorted((pages | notebooks) - listed)}"
    assert {name for name in listed if name.startswith("notebooks/")} == notebooks


def test_the_pictures_of_the_pages_are_used():
    used = {link.rpartition("/")[2] for page in PAGES for link in _links(page)}
    pictures = {path.name for path in (ROOT / "doc" / "images").glob("*.png")}
    assert pictures <= used, f"no page shows {sorted(pictures - used)}"
