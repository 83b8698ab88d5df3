"""The documentation's snippets are lines of the source, its links lead somewhere, and its figures of size are true."""
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
SNIPPET = re.compile(r"<!-- from: (\S+) -->\n```\w*\n(.*?)```", re.S)
LINK = re.compile(r"\[[^\]]*\]\(([^)#]+)(#[^)]*)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_snippets_are_in_the_source(page):
    for source, snippet in SNIPPET.findall(page.read_text()):
        assert snippet in (ROOT / source).read_text(), f"{page.name} quotes {source}:\n{snippet}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target, _ in LINK.findall(page.read_text()):
        if not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_readme_states_the_size_of_the_engine():
    stated = re.search(r"`src/engine/`[^.]*?([\d,]+) lines", (ROOT / "README.md").read_text())
    files = [*ROOT.glob("src/engine/*.cc"), *ROOT.glob("src/engine/*.h")]
    lines = sum(len(f.read_text().splitlines()) for f in files)
    assert int(stated[1].replace(",", "")) == lines
