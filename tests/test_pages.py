"""The pages that people read: links lead somewhere, commands parse, lists are whole, the Chinese README keeps step."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from bench.cli import commands
from bench.paths import ROOT
from bench.report import results
from tests.helpers import pages

FOLDERS = ("backends", "bench", "reference", "results", "tests")
EVERY = [*ROOT.glob("*.md"), *sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md"))]
TYPED_BY_HAND = ("CONTRIBUTING.md", "HOW-TO-READ.md", "ROWS.md", "fuzz.md", "orders.md")
GUIDES = [path for path in EVERY if path.name.startswith("README") or path.name in TYPED_BY_HAND]
RECORDS = [ROOT / "results" / "README.md"]  # written by a job: its command is that of the day
ENGLISH, CHINESE = (ROOT / name for name in ("README.md", "README.zh-CN.md"))
COMMAND = re.compile(r"(?:^|\s)(?:ddim-bench|python -m bench|(?:python )?bench/(run|train)\.py) (.+)")
OTHER = re.compile(r"\s*(?:[A-Z_]+=\S+ )*(pytest|tox|pip install|python -m tests\.[\w.]+) (.+)")


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code(text: str) -> list[str]:
    """Fenced blocks."""
    return re.findall(r"^```.*?^```", text, re.DOTALL | re.MULTILINE)


def targets(text: str) -> list[str]:
    """What links and images lead to, without code."""
    for block in code(text):
        text = text.replace(block, "")
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))


def lines_of(text: str) -> list[str]:
    """Commands: of shell blocks, of examples of `--help`, and (then with `...`) of code spans, which may name a command in part."""
    lines: list[str] = []
    for block in code(text):
        shell, whole = block.startswith("```sh\n"), block.replace("\\\n", " ").splitlines()
        lines += [line for line in whole if shell or line.startswith("example: ")]
        text = text.replace(block, "")
    lines += [span.replace("\n", " ") + " ..." for span in re.findall(r"`([^`]+)`", text)]
    return [part for line in lines for part in line.split("&&")]


def typed(text: str) -> list[list[str]]:
    """The words behind `ddim-bench` in the commands of a page."""
    found = [COMMAND.search(line) for line in lines_of(text)]
    return [[*([match[1]] if match[1] else []), *shlex.split(match[2], comments=True)] for match in found if match]


def others(text: str) -> list[tuple[str, list[str]]]:
    """The other programs that the commands of a page start, `python -m MODULE` among them, each with its words."""
    found = [OTHER.match(line) for line in lines_of(text)]
    return [(match[1], [word for word in shlex.split(match[2], comments=True) if word != "..."]) for match in found if match]


def unmet(program: str, words: list[str], config: pytest.Config) -> str:
    """What a command asks for that this project lacks, in words; "" for nothing. Names in capitals stand for the reader's own."""
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    if program == "pytest":
        known, unknown = config._parser.parse_known_and_unknown_args(words)
        names = set(re.findall(r"\w+", known.markexpr or "")) - {"not", "and", "or"}
        markers = {line.partition(":")[0].partition("(")[0] for line in config.getini("markers")}
        paths = [path.partition("::")[0] for path in known.file_or_dir]
        return " ".join([*unknown, *(names - markers), *(path for path in paths if not list(ROOT.glob(path)))])
    if program == "tox":
        sections = re.findall(r"^\[testenv:([\w-]+)(?:{(.*)})?]", (ROOT / "tox.ini").read_text(), re.MULTILINE)
        environments = {name + end for name, ends in sections for end in ends.split(",")}
        return " ".join(name for name in words[1:2] if name not in environments)
    if program == "pip install":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = [name for word in words if (found := re.search(r"\[(.+)\]", word)) for name in found[1].split(",")]
        return " ".join(name for name in asked if name not in extras)
    module = ROOT / (program.split()[-1].replace(".", "/") + ".py")
    return module.name if not module.exists() else " ".join(name for name in options if f'"{name}"' not in module.read_text())


@pytest.mark.parametrize("path", EVERY, ids=named)
def test_links_lead_to_files(path):
    for target in targets(path.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        page = path.parent / file if file else path
        assert page.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}, target


@pytest.mark.parametrize("path", [path for path in GUIDES if path not in RECORDS], ids=named)
def test_commands_parse(path, capsys):
    """With the options of the real parsers; `...` stands for whatever else a command needs."""
    for words in typed(path.read_text()):
        parser = commands.parser()
        if "..." in words:
            for action in (action for p in pages.every(parser) for action in p._actions):
                action.required = False
        try:
            if given := [word for word in words if word != "..."]:
                parser.parse(["speed" if "--speed" in given and n == 0 else word  # as `main` does
                              for n, word in enumerate(given) if word != "--speed"])
        except SystemExit as end:
            assert end.code in (0, None), f"{shlex.join(words)}: {capsys.readouterr().err}"


@pytest.mark.parametrize("path", [path for path in GUIDES if path not in RECORDS], ids=named)
def test_what_other_commands_name_exists(path, request):
    """Options, markers and paths of pytest, environments of tox, extras of pip, modules of the tests with their options."""
    for program, words in others(path.read_text()):
        assert unmet(program, words, request.config) == "", shlex.join([program, *words])


@pytest.mark.parametrize(("line", "lacks"), [
    ("pytest --slow -m 'slow and not recorded' tests/reference tests/*/test_fuzz_*.py", ""),
    ("pytest --slwo -m 'slow and not quick' tests/nowhere", "--slwo quick tests/nowhere"),
    ("OMP_NUM_THREADS=1 pytest tests/api.py::test", "tests/api.py"), ("tox -e reference-py312", ""), ("tox -e lnt", "lnt"),
    ('pip install -c constraints.txt -e ".[torch,tests]"', "tests"),
    ("python -m tests.helpers.fuzz_readers --inputs 9 --sed 1", "--sed"), ("python -m tests.nothing --x", "nothing.py"),
])
def test_what_a_command_lacks_is_seen(line, lacks, request):
    [(program, words)] = others(f"```sh\n{line}\n```")
    assert unmet(program, words, request.config) == lacks


def test_commands_are_found():
    text = ("```sh\npip install x && python bench/run.py --steps 10  # why\ntorchrun -n 2 bench/train.py ...\n```\n"
            "```text\nddim-bench x\nexample: ddim-bench report\n```\n"
            "`python -m bench\nstudy noise`, `ddim-bench` and ddim-bench run")
    assert typed(text) == [["run", "--steps", "10"], ["train", "..."], ["report"], ["study", "noise", "..."], ["..."]]
    assert typed(ENGLISH.read_text()) == [["run", "--steps", "10,50,1000"]] and len(typed(pages.PAGE.read_text())) >= 25


def test_the_commands_of_bench_are_current():
    found = pages.PAGE.read_text().split(pages.BEGIN)[1].split(pages.END)[0].strip()
    assert found == pages.render(), "bench/README.md is not current: `python -m tests.helpers.pages` writes its commands again"


def test_the_commands_are_written_without_waiting_for_libraries():
    program = "import sys; from tests.helpers import pages; pages.render(); print({'numpy', 'torch'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout == "set()\n", done.stderr


def test_every_file_of_bench_is_explained_in_its_room():
    """Each by its name, under the name of its room, and no other."""
    listed = pages.PAGE.read_text().split("### The rule of imports")[0]
    parts = re.split(r"^\*\*(\(root\)|[\w/]+)\*\*: ", listed, flags=re.MULTILINE)
    explained = {(room.strip("/()"), name) for room, text in zip(parts[1::2], parts[2::2], strict=True)
                 for name in re.findall(r"`([\w/]+\.py)`", text.partition("first.\n")[2] or text)}
    there = set()
    for path in (ROOT / "bench").rglob("*.py"):
        if path.name != "__init__.py":
            room, *rest = path.relative_to(ROOT / "bench").parts
            there.add((room, "/".join(rest)) if rest else ("root", room))
    assert explained == there, f"not in bench/README.md: {there - explained}; not in bench/: {explained - there}"


def test_the_chinese_readme_keeps_step():
    """The same headings by level, code, links and numbers of tables; the languages link to each other."""
    english, chinese = ENGLISH.read_text(), CHINESE.read_text()
    assert code(english) == code(chinese) and len(code(english)) >= 3

    def levels(text: str) -> list[int]:
        return [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]

    def numbers(text: str) -> list[list[str]]:
        return [re.findall(r"\d[\d.e-]*", line) for line in text.splitlines() if line.startswith("|")]

    def spans(text: str) -> Counter[str]:
        return Counter(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)))

    assert levels(english) == levels(chinese)
    assert numbers(english) == numbers(chinese)
    assert spans(english) == spans(chinese)
    ours, theirs = targets(english), targets(chinese)
    assert ours[0] == CHINESE.name and theirs[0] == ENGLISH.name and ours[1:] == theirs[1:]


def test_a_job_updates_both_readmes(tmp_path, monkeypatch):
    """Only between the markers."""
    for path in (ENGLISH, CHINESE):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(results, "bounds", lambda rows: ["- a line"])
    results.update_readme(tmp_path / ENGLISH.name, [])
    for path in (ENGLISH, CHINESE):
        old, new = path.read_text(), (tmp_path / path.name).read_text()
        assert new.split(results.BEGIN)[0] == old.split(results.BEGIN)[0]
        assert new.split(results.END)[1] == old.split(results.END)[1]
        assert "- a line" in new and "PyTorch   |   10" not in new


def test_the_python_of_the_readme_prints_what_it_says(monkeypatch):
    """In a process of its own, as a reader runs it."""
    program, shown = (re.search(rf"```{kind}\n(.*?)```", ENGLISH.read_text(), re.DOTALL)[1] for kind in ("python", "text"))
    assert len(program.splitlines()) <= 20
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.stdout == shown, done.stderr


def test_words_of_the_glossary():
    """Each once, and the numbers of the page are those of its sources."""
    text = (ROOT / "results" / "HOW-TO-READ.md").read_text()
    words = [line.split("|")[1].strip() for line in text.split("## Glossary")[1].splitlines()[4:] if line.startswith("|")]
    assert " ".join(words) == "cell row plan convention oracle floor ceiling contender roof stream S n eta"
    noise = (ROOT / "results" / "noise.md").read_text()
    held_out, small = (noise.split(f"\n## {name}\n")[1].split("\n## ")[0] for name in ("held-out images", "fmnist-small"))
    fid = {n: value for n, value in re.findall(r"^\| ([\d,]+) +\| [\d*]+ +\| ([\d.]+)", held_out, re.MULTILINE)}
    assert f"{fid['128']} at n = 128, of {fid['2,048']} at n = 2,048 and of {fid['10,000']} at n = 10,000" in text
    differs = re.search(r"^\| 128 .*?\| (\S+) +\| +\| +\| +\|$", small, re.MULTILINE)[1]
    assert f"`fmnist-small` it is {differs}" in text
    cell = re.search(r'"([\d.]+ ± [\d.]+)" is the mean', text)[1]
    assert f"| {cell} " in (ROOT / "results" / "table.md").read_text()


def test_kinds_of_rows_are_explained():
    from bench.records.rows import KINDS

    text = (ROOT / "results" / "HOW-TO-READ.md").read_text().split("## Kinds of rows")[1].split("\n## ")[0]
    assert re.findall(r"^\| `(\w+)`", text, re.MULTILINE) == list(KINDS)


def test_the_table_of_differences_is_that_of_the_conventions():
    from tests.helpers import differences

    held = differences.PAGE.read_text().split(differences.BEGIN)[1].split(differences.END)[0].strip()
    assert held == differences.render(), "run python -m tests.helpers.pages"
    assert len(held.splitlines()) == 2 + len(differences.LINES)
