"""From an adapter to a row in the table: the numbered steps of tests/conformance/README.md, played from an empty folder."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from PIL import Image

from bench.records import rows
from tests.numpy_backend.test_readme import README, ROOT, run

STEPS = README.split("\n## From the adapter to a row in the table\n")[1].split("\n## ")[0]
PORT = ROOT / "examples" / "port"


def blocks(language: str) -> list[str]:
    """The code blocks of the steps in this language."""
    return [textwrap.dedent(text) for text in re.findall(rf"^ *```{language}\n(.*?)^ *```", STEPS, re.DOTALL | re.MULTILINE)]


def test_the_claims_are_those_of_the_page():
    assert blocks("python") == [(PORT / "my_port" / "__init__.py").read_text()]
    assert re.findall(r"^(\d)\. ", STEPS, re.MULTILINE) == [str(n) for n in range(1, 8)]


@pytest.mark.slow
@pytest.mark.routes
def test_from_the_adapter_to_a_row_in_the_table(tmp_path: Path) -> None:
    """Every command of the page, one after another, as it stands there."""
    (tmp_path / "ddim-bench").symlink_to(ROOT)
    commands = [command for block in blocks("sh") for command in block.splitlines()]
    said = []
    for command in commands:
        done = run(command, tmp_path / "site", cwd=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        said.append(done.stdout)
    _, _, kit, _, found, *_ = said
    assert "NOT CLAIMED by my_port: objectives x0, v, previous: " in kit and re.search(r"\n\d+ passed, \d+ skipped", kit), kit[-2000:]
    assert found.count("My port with the network of PyTorch") >= 2
    every, pair = rows.read(tmp_path / "my-results" / "rows"), "my_port+torch"
    assert [row.config["steps"] for row in every if row.kind == "metric" and row.backend == pair] == [5]
    [images] = [row.values["images"] for row in every if row.kind == "check" and row.backend == f"torch {pair}"]
    assert images["ok"]
    with Image.open(tmp_path / "mine.png") as picture:
        assert picture.size >= (4 * 28, 4 * 28)
    assert pair in (tmp_path / "my-machine.jsonl").read_text()
