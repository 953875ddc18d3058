"""The sections of `report.html` about studies: x_T as the name of an image, likelihoods, and how far chance moves FID."""

from __future__ import annotations

from bench.paths import command_line
from bench.pictures import svg
from bench.pictures.svg import Series
from bench.records.rows import AnyRow
from bench.report import noise_page
from bench.report.html.parts import Figure, Section, Table, plain
from bench.report.measures import interval
from bench.report.studies import image_claims, likelihood_page, round_trip_page, same_noise_page


def likelihoods(every: list[AnyRow]) -> Section:
    """The variational bound of every network: a table, bits per dimension against S, and the KL terms of its longest path."""
    s, command = Section("Likelihoods", folded=True), command_line("likelihood", "--weights", "SOURCE")
    networks = likelihood_page.newest(every)
    for name, rows in networks.items():
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
    if s.tables:
        s.text += likelihood_page.schedule_claims(networks)
    else:
        s.missing.append(("Likelihoods have no rows yet.", command))
    return s


def chance(every: list[AnyRow]) -> Section:
    """FID of fixed images against their number: how large chance and bias are."""
    s, command = Section("How far chance alone moves FID", folded=True), command_line("study", "noise")
    for row in noise_page.newest(every):
        frame, c = noise_page.table(row), row.config
        name = f"FID[{c['extractor']}]"
        series = [Series(title, frame["n"].tolist(), frame[key].tolist(), frame[f"{key}_sd"].fillna(0).tolist(), colour=k)
                  for k, (key, title) in enumerate({"fid": "n images", "inf": "extrapolated from n/2 and n"}.items())]
        # The whole set may be hardly larger than its largest parts: their marks would lie on one another.
        ticks = [n for n in frame["n"].tolist() if n == c["samples"] or n < c["samples"] / 1.5]
        # Linear: extrapolations of real images lie on either side of 0.
        s.figures.append(Figure(
            f"{name} against n: {c['name']}", [("", svg.curves(series, "images n", name, log="x", ticks=ticks))],
            f"Parts of n of {c['samples']:,} images, 1 seed ({c['seed']}); bars: standard deviation between parts. Extractor "
            f"{c['extractor']}, sha256 {c['extractor_sha256'][:16]}, against fashion-mnist {c['reference']}.", command))
    if not s.figures:
        s.missing.append(("FID against the number of fixed images has no rows yet.", command))
    return s


def latents(every: list[AnyRow]) -> Section:
    """What the DDIM paper says of x_T: verdicts, the error of encoding and decoding, and how alike images of the same x_T are."""
    s = Section("x_T as the name of an image", [
        "Encoding takes DDIM's steps backwards, from an image to the x_T that draws it; decoding draws it again. Distances are of "
        "the extractor's features, as a share of the mean distance from images of other x_T: 0 is the same image, 1 no nearer than "
        "any."])
    trips, noises = round_trip_page.newest(every), same_noise_page.newest(every)
    by_trip, by_noise = (command_line("study", name, "--weights", "SOURCE") for name in ("round-trip", "same-noise"))
    for name, rows in trips.items():
        about = round_trip_page.about(rows)
        s.tables.append(Table(f"Table 2 of the DDIM paper: {name}", image_claims.summary(round_trip_page.claims(rows)), about,
                              by_trip, folded=bool(s.tables)))
        s.tables.append(Table(f"Error of encoding and decoding: {name}", round_trip_page.table(rows), about, by_trip, folded=True))
        s.tables.append(Table(f"Every comparison of table 2: {name}", image_claims.detail(round_trip_page.claims(rows)),
                              f"{image_claims.READING.replace('*', '')} {about}", by_trip, folded=True))
        errors = [(f"eta = {plain(eta)}", round_trip_page.errors(rows, eta)) for eta in (round_trip_page.ZERO, round_trip_page.ONE)]
        curves = [Series(title, list(found), [float(v.mean()) for v in found.values()], [interval(v)[1] for v in found.values()],
                         colour=k) for k, (title, found) in enumerate(errors)]
        published = round_trip_page.PUBLISHED
        curves.append(Series("DDIM paper, CIFAR-10", list(published), list(published.values()), colour=2))
        s.figures.append(Figure(f"Error of encoding and decoding against S: {name}", [("", svg.curves(
            curves, "steps S", "squared error per dimension", ticks=sorted({S for c in curves for S in c.x})))], about, by_trip,
            folded=True))
    for name, network in noises.items():
        about = same_noise_page.about(network)
        s.tables.append(Table(f"Figures 5 and 6 of the DDIM paper: {name}",
                              image_claims.summary(same_noise_page.claims(network)), about, by_noise,
                              folded=name != next(iter(noises))))
        s.tables.append(Table(f"Distance from the image of the same x_T: {name}", same_noise_page.table(network[0]), about,
                              by_noise, folded=True))
        s.tables.append(Table(f"Every comparison of figures 5 and 6: {name}", image_claims.detail(same_noise_page.claims(network)),
                              f"{image_claims.READING.replace('*', '')} {about}", by_noise, folded=True))
    for found, title, command in ((trips, "Encoding and decoding", by_trip), (noises, "Images of the same x_T", by_noise)):
        if not found:
            s.missing.append((f"{title}: no rows yet.", command))
    return s
