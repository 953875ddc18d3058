"""The section of `report.html` about the newest main job: what `results/README.md` shows of it."""

from __future__ import annotations

from bench.records.rows import AnyRow, of
from bench.records.values import Sample
from bench.report import results, speed_page
from bench.report.html.parts import MAIN, Section, Table


def section(job: list[AnyRow]) -> list[Section]:
    """Of the rows of one main job (`first_screen.newest_job`); none without rows."""
    if not job:
        return []
    drawn = of(job, Sample)[0]  # floor and ceiling may be of another job
    s = Section("The main job", folded=True)
    about = " ".join(line.removeprefix("- ") + "." for line in results.bounds(job))
    seed = f"1 seed ({drawn.config['seed']})"
    s.tables.append(Table(f"Images of preset {drawn.preset}", results.sample_table(job), f"{seed}. {about}", MAIN))
    speed = speed_page.speed_table(job)
    if not speed.empty:
        said = " ".join(line.removeprefix("- ") + "." for line in speed_page.ratio_lines(job))
        s.tables.append(Table(f"Times of preset {drawn.preset}", speed, f"Batches of n images as in the column, {seed}; no "
                              f"extractor. Medians of blocks that alternate. {said}", MAIN))
    s.tables.append(Table(f"Agreement in preset {drawn.preset}", results.check_table(job), "Largest errors. Those without a "
                          "verdict are reported only.", MAIN, folded=True))
    return [s]
