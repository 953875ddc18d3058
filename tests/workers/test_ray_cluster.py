"""Cells on a local Ray cluster of several nodes, of which one is killed."""

import contextlib
import importlib.util
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import backends
from bench.cli.main import main
from bench.records import rows
from bench.workers import ray_cluster
from bench.workers.errors import WorkerError
from reference.config import ConfigError
from tests.helpers import tree

ROOT = Path(__file__).resolve().parents[2]


def test_without_ray_its_executor_says_how_to_install_it(monkeypatch, capsys, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest))
    assert main(["run", "--executor", "ray", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and 'pip install -e ".[ray]"' in said and not (tmp_path / "out").exists()
    assert ray_cluster.connect("local", 1, "cpu") is None
    for name in ("dask", "local=here", ""):
        with pytest.raises(ConfigError, match="--executor=.*must be local, ray or ray=HOST:PORT"):
            ray_cluster.connect(name, 1, "cpu")


def test_ray_is_loaded_only_when_asked_for():
    code = "import sys, bench.cli.run, bench.workers.ray_cluster; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray")
def test_an_address_where_nothing_answers_ends_in_one_line(monkeypatch, tmp_path, capfd):
    assert ray_cluster.ANSWER_SECONDS < 30
    monkeypatch.setattr(ray_cluster, "ANSWER_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        command = ["run", "--executor", f"ray={address}", "--backends", "torch", "--steps", "5", "--out", str(tmp_path / "out")]
        assert main(command) == 2
    said = f"error: --executor='ray={address}': no cluster answers there; start one, or leave the address out\n"
    assert capfd.readouterr().err == said
    assert not (tmp_path / "out").exists()


@contextlib.contextmanager
def cluster_of(nodes):
    """A cluster whose head does no work, and its nodes of one CPU each."""
    from ray.cluster_utils import Cluster

    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 5}
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, "_system_config": quick})
    try:
        yield cluster, [cluster.add_node(num_cpus=1) for _ in range(nodes)]
    finally:
        cluster.shutdown()


def note_and_wait(folder, name, seconds):
    """A task: leaves a file that says that it began, named by itself and its node; of a module that only the job's folder had."""
    import ray
    from shipped_module import ABOUT

    assert ABOUT.label == "Shipped"
    node = ray.get_runtime_context().get_node_id()
    (folder / f"{name} {node}").touch()
    time.sleep(seconds)
    if name == "bad":
        raise WorkerError("worker torch ended by SIGKILL")
    return name, node


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)
    return found


@pytest.fixture
def shipped_module(tmp_path, monkeypatch):
    """A backend that no package installs, in a folder of this process' path alone."""
    (folder := tmp_path / "modules").mkdir()
    (folder / "shipped_module.py").write_text("from backends.facts import About\nABOUT = About('Shipped')\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(backends, "_taken", {})
    backends.take("shipped_module")
    yield folder / "shipped_module.py"
    sys.modules.pop("shipped_module", None)
    backends.about.cache_clear()


def test_the_modules_that_the_user_named_are_sent_to_the_nodes(shipped_module, monkeypatch):
    asked = {}
    ray = SimpleNamespace(__spec__=True, nodes=lambda: [{"Alive": True, "Resources": {"CPU": 1}}],
                          init=lambda address, **options: asked.update(options))
    monkeypatch.setitem(sys.modules, "ray", ray)
    ray_cluster.connect("ray", 1, "cpu")
    assert asked["runtime_env"]["py_modules"] == [*(str(ROOT / room) for room in ray_cluster.ROOMS), str(shipped_module)]


@pytest.mark.slow
def test_a_task_goes_to_another_node_when_its_node_dies(tmp_path, shipped_module):
    with cluster_of(2) as (cluster, nodes):
        with pytest.raises(ConfigError, match="--threads=2: the largest node of the cluster has 1 CPUs"):
            ray_cluster.connect(f"ray={cluster.address}", 2, "cpu")
        ray = ray_cluster.connect(f"ray={cluster.address}", 1, "cpu")
        try:
            tasks = {name: (tmp_path, name, 4.0) for name in ("one", "two", "three", "bad")}
            results = ray.map(note_and_wait, tasks)
            began = wait_for(lambda: len(found := [path for path in tmp_path.iterdir() if path.is_file()]) == 2 and found)
            lost = next(path.name.split()[0] for path in began if path.name.endswith(nodes[0].node_id))
            cluster.remove_node(nodes[0], allow_graceful=False)
            got = {}
            for name, fetch in results:
                if name == "bad":
                    with pytest.raises(WorkerError, match="ended by SIGKILL"):
                        fetch()
                else:
                    got[name] = fetch()
        finally:
            ray.close()
    assert got == {name: (name, nodes[1].node_id) for name in ("one", "two", "three")}
    assert (tmp_path / f"{lost} {nodes[0].node_id}").exists() and (tmp_path / f"{lost} {nodes[1].node_id}").exists()


def main_job(code, out, *options):
    command = tree.command(code, "tests/helpers/tiny_run.py", "--backends", "torch", "--steps", "2,10,20", "--eta", "0.5",
                           "--samples", "128", "--train-steps", "2", "--out", out, *options)
    return subprocess.Popen(command, env=tree.environment(code), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def cells(out):
    """Images of the sampling cells, metric of each set of images, steps of the sampling rows."""
    found = rows.read(out / "rows")
    images = sorted(np.load(path).tobytes() for path in out.glob("work/sample-*/images.npy"))
    metrics = {(row.backend, row.config.get("steps")): row.values["fid"] for row in found if row.kind == "metric"}
    order = [row.config["steps"] for row in found if row.kind == "sample"]
    return images, metrics, sorted(order)


def drawing_processes():
    """Ray's processes that draw a cell at this moment."""
    out = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_bytes().startswith(b"ray::draw_cell"):
                out.append(path)
    return out


@pytest.mark.slow
@pytest.mark.recorded
def test_the_main_job_survives_the_death_of_a_node(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    (tmp_path / "code").mkdir()
    code = tree.copy_to(tmp_path / "code")
    local = main_job(code, here)
    said = local.communicate(timeout=240)[0]
    assert local.returncode == 0, said
    with cluster_of(3) as (cluster, nodes):
        job = main_job(code, there, "--executor", f"ray={cluster.address}")
        wait_for(lambda: len(drawing_processes()) == 3 or job.poll() is not None, 180)
        cluster.remove_node(nodes[1], allow_graceful=False)
        said = job.communicate(timeout=240)[0]
        assert job.returncode == 0, said
    assert cells(there) == cells(here)
    assert cells(there)[2] == [2, 10, 20] and len(cells(there)[1]) == 5
    again = main_job(code, there)
    said = again.communicate(timeout=240)[0]
    assert again.returncode == 0 and "12 finished cells were used again" in said, said
    assert cells(there) == cells(here), "no cell was done twice"
