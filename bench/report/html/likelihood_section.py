"""The section of `report.html` about likelihoods: bits per dimension against S, and the terms of the bound."""

from __future__ import annotations

from bench.paths import command_line
from bench.pictures import svg
from bench.pictures.svg import Series
from bench.records.rows import AnyRow
from bench.report.html.parts import Figure, Section, Table
from bench.report.studies import likelihood_page


def likelihoods(every: list[AnyRow]) -> Section:
    """The variational bound of every network: a table, bits per dimension against S, and the KL terms of its longest path."""
    s, command = Section("Likelihoods"), command_line("likelihood", "--weights", "SOURCE")
    for name, rows in likelihood_page.newest(every).items():
        first, c = [row for row in rows if row.backend == rows[0].backend], rows[0].config
        frame, longest = likelihood_page.table(first), rows[0]
        about = (f"n = {longest.values['n']:,} held-out images, 1 seed ({c['seed']}) of the noise; bars and ±: half of the 95% "
                 "interval of the mean over images. No extractor.")
        s.tables.append(Table(f"The variational bound: {name}", likelihood_page.shown(rows), about, command, folded=True))
        s.text += likelihood_page.claims(rows)
        curves = [Series(str(variance), lines["S"].tolist(), lines["bits"].tolist(), lines["half"].tolist(), colour=k)
                  for k, (variance, lines) in enumerate(frame.groupby("variance", sort=False))]
        ticks = sorted(set(frame["S"]))
        s.figures.append(Figure(f"Bits per dimension against S: {name}",
                                [("", svg.curves(curves, "steps S", "bits per dimension", ticks=ticks))], about, command))
        if len(longest.values["timesteps"]) > 2:
            terms = [Series(variance, longest.values["timesteps"][1:], bits["terms"][1:], colour=k)
                     for k, (variance, bits) in enumerate(likelihood_page.by_variance(longest))]
            s.figures.append(Figure(f"KL terms against t, S = {c['steps']}: {name}",
                                    [("", svg.curves(terms, "timestep t", "bits per dimension"))], about, command))
    if not s.tables:
        s.missing.append(("Likelihoods have no rows yet.", command))
    return s
