"""The stages of the main job, in their order."""

from __future__ import annotations

from collections.abc import Callable

from bench.job import checks, measuring, sampling, timing, training
from bench.job.job import Images, Job
from bench.records.notebook import Notebook
from bench.workers.crew import Crew
from bench.workers.errors import WorkerError
from bench.workers.ray_cluster import Ray


def start(job: Job, crew: Crew, book: Notebook) -> None:
    """Start every worker; one that dies leaves all its cells missing. Raises `ConfigError` for a device that is absent."""
    with book.stage("start"):
        for backend in job.backends:
            try:
                crew.start(backend)
            except WorkerError as error:
                if job.processes > 1:
                    raise
                book.leave(f"all cells of {backend}", error)
                book.agenda.drop(backend)


def run(job: Job, crew: Crew, book: Notebook, cluster: Ray | None = None,
        begin: Callable[[Job, Notebook], None] | None = None) -> Images:
    """Every stage; the files of the images that were drawn. `begin` is called once the network to sample from is there."""
    if job.fit:
        with book.stage("own network"):
            fitted = training.own_network(job, crew, book)
        if fitted is None:
            with book.stage("metric"):
                measuring.measure(job, book, {}, cluster)  # floor and ceiling
            return {}
        job = fitted
    if begin:
        begin(job, book)
    # All trainings come first: other processes of a launcher must not wait long for their share.
    with book.stage("training"):
        trained = [training.compare(job, crew, book, backend) for backend in crew if job.trains(backend)]
    with book.stage("checks"):
        for backend in crew:
            checks.oracle(job, crew, book, backend)
        checks.training(job, book, [row for row in trained if row is not None])
        checks.losses(job, book, [row for row in trained if row is not None])
    with book.stage("timing"):
        timing.steps(job, crew, book)
    with book.stage("checks"):
        for backend in crew:
            checks.timed(job, crew, book, backend)
    with book.stage("sampling"):
        images = sampling.draw(job, crew, book, cluster)
    with book.stage("checks"):
        for backend in crew:
            checks.paths(job, crew, book, backend, images)
        checks.images(job, crew, book, images)
        if job.twice:
            for backend in crew:
                checks.determinism(job, crew, book, backend)
        crew.close()
    with book.stage("metric"):
        measuring.measure(job, book, images, cluster)
    return images


def share(job: Job, crew: Crew, book: Notebook) -> None:
    """What a process of a launcher does that is not the first one: its share of the trainings and of the images."""
    for backend in crew:
        if job.trains(backend):
            training.share(job, crew, book, backend)
        for cell in job.cells[backend]:
            sampling.share(job, crew, book, backend, cell)
