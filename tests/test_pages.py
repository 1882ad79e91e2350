"""The README and docs/ say what is so: links, files, options, commands, tables and figures."""

from __future__ import annotations

import importlib
import re
import sys

import click
import pytest
from lacoot_deploy_cli.main import COMMANDS, cli
from pages import FENCE, PAGES, REPOSITORY

import lacoot_deploy

sys.path[:0] = [str(REPOSITORY / "samples" / "benchmarks"), str(REPOSITORY / "docs")]


def headings(text: str) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    bare = FENCE.sub("", text)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", bare, re.MULTILINE)
    }


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (REPOSITORY / page).parent.joinpath(name).resolve() if name else REPOSITORY / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            other = PAGES[target.relative_to(REPOSITORY).as_posix()]
            assert anchor in headings(other), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_files_and_make_targets_that_a_page_names_exist(page):
    text = PAGES[page]
    named = re.findall(r"(?<![\w/])((?:samples|lacoot_deploy|tests|cli|docs)/[\w./*-]*\w)", text)
    missing = [name for name in named if "_*" not in name and not list(REPOSITORY.glob(name))]
    assert not missing
    targets = set(re.findall(r"^(\w[\w-]*):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES)
def test_names_that_a_page_puts_into_a_file_stand_there(page):
    for name, file in re.findall(r"`(\w+)`\s+of\s+`([\w/]+\.py)`", PAGES[page]):
        assert re.search(rf"\b{name}\b", (REPOSITORY / file).read_text(encoding="utf-8")), (name, file)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in ("CHANGELOG.md", "docs/cli.md")])
def test_options_that_a_page_names_exist(page):
    context = click.Context(cli)
    known = {
        option
        for name in COMMANDS
        for parameter in cli.get_command(context, name).params
        for option in parameter.opts + parameter.secondary_opts
    }
    scripts = {
        option
        for folder in ("samples", "docs", "tests/fuzz", "tests/faults")
        for path in (REPOSITORY / folder).rglob("*.py")
        for option in re.findall(r'"(--[\w-]+)"', path.read_text(encoding="utf-8"))
    }
    named = set(re.findall(r"(?<![\w-])(--[a-z][a-z0-9-]+)", PAGES[page]))
    assert named - {"--help", "--version", "--strict"} <= known | scripts


def test_the_readme_is_one_page_and_every_page_of_docs_is_within_reach():
    assert len(PAGES["README.md"].splitlines()) <= 150
    reached, waiting = set(), ["README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached or page not in PAGES:
            continue
        reached.add(page)
        for link in re.findall(r"\]\(([^)#\s]+\.md)", PAGES[page]):
            if "://" not in link:
                target = (REPOSITORY / page).parent.joinpath(link).resolve()
                waiting.append(target.relative_to(REPOSITORY).as_posix())
    assert set(PAGES) <= reached


def test_the_commands_and_functions_of_the_pages_are_those_that_exist():
    table = re.search(r"^## Commands\n(.*?)^## ", PAGES["README.md"], re.MULTILINE | re.DOTALL).group(1)
    assert re.findall(r"^\| `([a-z]+)", table, re.MULTILINE) == list(COMMANDS)
    shown = set(re.findall(r"\bld\.([a-z]+)\(", PAGES["docs/guides/python.md"]))
    assert {"benchmark" if name == "bench" else name for name in COMMANDS} <= shown
    assert shown <= set(lacoot_deploy.__all__)


def test_every_room_has_its_line_in_the_architecture():
    rooms = [path.parent for path in (REPOSITORY / "lacoot_deploy").glob("*/__init__.py")]
    page = PAGES["docs/architecture.md"]
    assert not [room.name for room in rooms if f"| `lacoot_deploy/{room.name}/` |" not in page]


def test_tables_are_those_of_the_figures():
    tables = importlib.import_module("tables")
    old = [page for page, text in PAGES.items() if tables.filled(text) != text]
    assert not old, "make docs"
    placed = {name for text in PAGES.values() for _, name, _ in tables.PLACE.findall(text)}
    assert placed == set(tables.TABLES)


def test_the_list_of_options_is_that_of_the_help_texts():
    reference = importlib.import_module("cli_reference")
    assert PAGES["docs/cli.md"] == reference.page(), "make docs"


def test_the_picture_is_drawn_from_the_figures(tmp_path):
    pytest.importorskip("matplotlib")
    importlib.import_module("picture").draw(tmp_path / "p.svg")
    assert (tmp_path / "p.svg").read_text().count("<use") == (
        REPOSITORY / "docs/removal.svg"
    ).read_text().count("<use")


def test_every_sample_and_recipe_is_named_in_a_page():
    everything = "\n".join(PAGES.values())
    samples = [path for path in (REPOSITORY / "samples").iterdir() if path.suffix == ".py"]
    assert not [path.name for path in samples if f"samples/{path.name}" not in everything]
    benchmarks = (REPOSITORY / "samples" / "benchmarks").glob("*.py")
    assert not [path.name for path in benchmarks if path.name not in everything]
