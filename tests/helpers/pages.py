"""The commands in bench/README.md, from their parsers: `python -m tests.helpers.pages` writes all generated pages."""

from __future__ import annotations

import argparse
import re

import backends
from bench.cli import commands
from bench.cli.options import Parser
from bench.paths import ROOT

PAGE = ROOT / "bench" / "README.md"
BEGIN, END = "<!-- commands: written by tests/helpers/pages.py -->", "<!-- end of commands -->"


def render() -> str:
    """A part for each command: its description and a table of its options, Markdown."""
    return "\n\n".join(_part(p) for p in every(commands.parser()) if not p.commands)


def every(parser: Parser) -> list[Parser]:
    """The parser and those of its commands."""
    return [parser, *(p for below in parser.commands.values() for p in every(below))]


def _part(parser: Parser) -> str:
    lines = [f"### {parser.prog}", "", "```text", parser.description or "", "", parser.epilog or "", "```", "",
             "| option | meaning | default |", "|---|---|---|"]
    for action in parser._actions:
        if action.dest != "help":
            meaning, default = _meaning(parser, action)
            lines.append(f"| `{_name(action)}` | {meaning} | {default} |")
    return "\n".join(lines)


def _name(action: argparse.Action) -> str:
    value = action.metavar or ("{" + ",".join(action.choices) + "}" if action.choices else "N" if action.type else "NAME")
    if not action.option_strings:
        return str(value)
    name = action.option_strings[0]
    return name if action.nargs == 0 else f"{name}[={value}]" if action.nargs == "?" else f"{name} {value}"


def _meaning(parser: Parser, action: argparse.Action) -> tuple[str, str]:
    """What `--help` says of an option, and its default apart."""
    text = parser.formatter_class(parser.prog)._expand_help(action)
    here = [name for name in backends.names() if (ROOT / "backends" / name).is_dir()]  # no other installed package's
    text = text.replace(", ".join(backends.names()), ", ".join(here)).replace("|", "\\|")
    meaning, default = re.fullmatch(r"(.*?)(?:(?:; |^)default: (.*))?", text).groups()  # type: ignore[union-attr]
    if action.required or not action.option_strings:
        return meaning, "required"
    return meaning or "-", default or "off"


def main() -> None:
    """Put them between the page's two markers."""
    before, rest = PAGE.read_text().split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{render()}\n\n{END}{rest.split(END)[1]}")
    from tests.helpers import differences, rows_page  # they take time to load, and the commands must not

    differences.write()
    rows_page.write()


if __name__ == "__main__":
    argparse.ArgumentParser(prog="python -m tests.helpers.pages", description=__doc__).parse_args()
    main()
