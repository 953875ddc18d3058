"""The pages that are committed are those of the rows that are committed."""

import filecmp
import shutil

from bench.cli.main import main
from bench.paths import ROOT


def test_every_page_is_that_of_the_rows(tmp_path):
    """They say what `ddim-bench report` writes from the same rows. PNG figures vary with
    matplotlib's version and are left out."""
    out = shutil.copytree(ROOT / "results", tmp_path / "results", ignore=shutil.ignore_patterns("work"))
    assert main(["report", "--out", str(out)]) == 0
    pages = sorted(path.name for path in out.iterdir() if path.suffix in (".md", ".html"))
    same, differ, absent = filecmp.cmpfiles(ROOT / "results", out, pages, shallow=False)
    assert (differ, absent) == ([], []), "run ddim-bench report: these are older than the rows"
    assert "report.html" in same
