"""From an adapter to a row in the table: the numbered steps of tests/conformance/README.md show what examples/port holds."""

from __future__ import annotations

import re
import textwrap

from tests.numpy_backend.test_readme import README, ROOT

STEPS = README.split("\n## From the adapter to a row in the table\n")[1].split("\n## ")[0]
PORT = ROOT / "examples" / "port"


def blocks(language: str) -> list[str]:
    """The code blocks of the steps in this language."""
    return [textwrap.dedent(text) for text in re.findall(rf"^ *```{language}\n(.*?)^ *```", STEPS, re.DOTALL | re.MULTILINE)]


def test_the_claims_are_those_of_the_page():
    assert blocks("python") == [(PORT / "my_port" / "__init__.py").read_text()]
    assert re.findall(r"^(\d)\. ", STEPS, re.MULTILINE) == [str(n) for n in range(1, 8)]
