"""Weights by their name on the Hugging Face hub, from a hub on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from safetensors.numpy import load_file

from bench.cli.main import main
from bench.weights import pipeline, sources
from bench.weights.errors import CheckpointError
from reference.config import DiffusionConfig
from reference.weights import initialise
from tests.helpers.tiny import TINY, same
from tests.weights.test_pipeline import WEIGHTS, make_legacy

torch = pytest.importorskip("torch")
from tests.weights.test_tensor_files import split  # noqa: E402


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine: the routes that `snapshot_download` asks for, serving `hub.folder` as owner/name."""
    from huggingface_hub import constants

    class Handler(BaseHTTPRequestHandler):
        def answer(self, status, data=b"", **headers):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": len(data)}.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(data)

        def do_GET(self):
            path = self.path.partition("?")[0]
            files = [file.relative_to(server.folder).as_posix() for file in server.folder.rglob("*") if file.is_file()]
            if path.startswith("/api/models/owner/name/tree/"):
                sizes = {file: (server.folder / file).stat().st_size for file in files}
                tree = [{"type": "file", "path": file, "size": size, "oid": "a" * 40} for file, size in sizes.items()]
                self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
            elif path.startswith("/api/models/owner/name/revision/"):
                server.revisions.add(path.rpartition("/")[2])
                info = {"id": "owner/name", "sha": "0" * 40, "siblings": [{"rfilename": file} for file in files]}
                self.answer(200, json.dumps(info).encode(), Content_Type="application/json")
            elif path.startswith("/owner/name/resolve/") and (file := path.split("/", 5)[5]) in files:
                server.served.add(file)
                data = (server.folder / file).read_bytes()
                self.answer(200, data, ETag=f'"{hashlib.sha256(data).hexdigest()}"', X_Repo_Commit="0" * 40)
            else:
                self.answer(404)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.served, server.revisions = set(), set()
    url = f"http://127.0.0.1:{server.server_port}"  # read from $HF_ENDPOINT on import, which is too late here
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_name_on_the_hub_loads_and_only_what_is_needed_is_fetched(hub, folder, tmp_path):
    hub.folder = folder
    torch.save({"a": torch.zeros(1)}, (folder / WEIGHTS).with_suffix(".bin"))
    (folder / "run_me.py").write_text("raise SystemExit")
    weights, model, diffusion = sources.load("owner/name")
    assert same(weights, initialise(TINY, 0)) and (model, diffusion) == (TINY, DiffusionConfig())
    assert hub.served == {"model_index.json", "unet/config.json", "scheduler/scheduler_config.json", WEIGHTS}

    blob = (tmp_path / "cache").rglob("*.safetensors").__next__().resolve()
    is_refused_when_damaged(blob)


def is_refused_when_damaged(blob):
    damaged = bytearray(blob.read_bytes())
    damaged[-1] ^= 1
    blob.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="does not match its SHA-256 on the hub"):
        sources.load("owner/name")


def test_shards_on_the_hub_are_fetched_with_their_index(hub, folder):
    split(folder)
    hub.folder = folder
    torch.save({"a": torch.zeros(1)}, (folder / WEIGHTS).with_suffix(".bin"))
    assert same(sources.load("owner/name")[0], initialise(TINY, 0)) and not any(file.endswith(".bin") for file in hub.served)


def test_a_hub_repository_with_a_pickle_alone_goes_through_weights_only(hub, folder, tmp_path):
    hub.folder = make_legacy(folder, flat=True)  # google/ddpm-cifar10-32 before it had safetensors
    weights = {name: torch.from_numpy(value) for name, value in load_file(hub.folder / pipeline.WEIGHTS).items()}
    (hub.folder / pipeline.WEIGHTS).unlink()
    torch.save(weights, hub.folder / "diffusion_pytorch_model.bin")
    assert same(sources.load("owner/name@v1.0")[0], initialise(TINY, 0)) and hub.revisions == {"v1.0"}
    is_refused_when_damaged((tmp_path / "cache").rglob("*.bin").__next__().resolve())


def test_no_network_is_one_line_that_says_what_to_do(hub, capsys):
    hub.shutdown()
    hub.server_close()
    assert main(["run", "--weights", "google/ddpm-cifar10-32", "--dry-run=plan"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "put its config.json, scheduler_config.json and diffusion_pytorch_model.safetensors" in said
