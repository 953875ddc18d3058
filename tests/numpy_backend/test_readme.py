"""tests/conformance/README.md, followed to the letter with the NumPy backend in the place of the port."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
README = (ROOT / "tests" / "conformance" / "README.md").read_text()
INTERFACE = "tests/conformance/test_l0_interface.py"


def blocks(language: str) -> list[str]:
    """The README's code blocks in this language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def run(command: str, site: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A shell command, with packages installed into and found in `site` rather than this environment, and with this repository."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    found = os.pathsep.join((str(site), str(ROOT)))
    env = os.environ | {"PATH": path, "PIP_TARGET": str(site), "PYTHONPATH": found, "PIP_NO_INDEX": "1"}
    return subprocess.run(command, shell=True, cwd=cwd, env=env, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 2 and 3 up to the installation: the folder that the package went to."""
    folder = tmp_path_factory.mktemp("port")
    package = folder / "my-port" / "my_port"
    package.mkdir(parents=True)
    (folder / "my-port" / "pyproject.toml").write_text(blocks("toml")[0])
    (package / "__init__.py").write_text((HERE / "__init__.py").read_text())
    (package / "backend.py").write_text((HERE / "backend.py").read_text())
    done = run(blocks("sh")[1], folder / "site", cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_declarations_are_those_of_the_readme() -> None:
    """What the README shows is the example's."""
    assert (HERE / "__init__.py").read_text() == blocks("python")[0]


def test_step_1_installs_what_step_3_builds_with() -> None:
    """Step 3 takes the environment's own setuptools, and that of a fresh environment may be too old to build alone."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "--no-build-isolation" in blocks("sh")[1] and '.[test]"' in blocks("sh")[0]
    assert set(project["build-system"]["requires"]) <= set(project["project"]["optional-dependencies"]["test"])


@pytest.mark.slow
def test_the_readme_leads_to_a_green_run(site: Path) -> None:
    """Step 3: all claimed levels pass, no other is run; tests of what is not claimed are left out and counted."""
    done = run(blocks("sh")[2], site, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "my_port on cpu: L0, L1, L5 in float64, float32" in done.stdout
    left = re.search(r"NOT CLAIMED by my_port: samplers heun, .*: (\d+) tests left out\n", done.stdout)
    assert left and int(left.group(1)) > 100, done.stdout[-3000:]
    assert re.search(r"\n\d+ passed, \d+ skipped, \d+ deselected in", done.stdout), done.stdout[-300:]


def test_a_mistake_is_found(site: Path, tmp_path: Path) -> None:
    """Variance for standard deviation fails L1 and names the plan."""
    broken = copy(site, tmp_path, "plan.eta * math.sqrt(small)", "plan.eta * small")
    done = run("pytest tests/conformance/test_l1_steps.py --backend=my_port -k 'test_steps and plain-ddim-eps'", broken, ROOT)
    assert done.returncode == 1
    assert "plain ddim eps" in done.stdout and "L1.step" in done.stdout


def copy(site: Path, folder: Path, old: str = "", new: str = "", xfails: str = "") -> Path:
    """The installed package once more, with an edit and a list of known deviations."""
    subprocess.run(["cp", "-r", str(site), str(folder / "site")], check=True)
    package = folder / "site" / "my_port"
    path = next(path for path in (package / "backend.py", package / "__init__.py") if old in path.read_text())
    path.write_text(path.read_text().replace(old, new) if old else path.read_text())
    (package / "conformance-xfails.txt").write_text(xfails)
    return folder / "site"


@pytest.mark.parametrize(("broken", "xfails", "code", "says"), [
    (True, "", 1, "threads"),
    (True, "test_device_info[my_port  # says no device\n", 0, "2 xfailed"),
    (False, "test_device_info[my_port  # says no device\n", 1, "XPASS(strict)"),
    (True, "test_device_info[my_port\n", 4, "needs a reason"),
])
def test_known_deviations(site: Path, tmp_path: Path, broken: bool, xfails: str, code: int, says: str) -> None:
    """A deviation fails, unless it is listed with a reason; a listed one must fail."""
    edited = copy(site, tmp_path, *(('"device": "cpu"', '"threads": "1"') if broken else ("", "")), xfails=xfails)
    done = run(f"pytest {INTERFACE} --backend=my_port", edited, ROOT)
    assert (done.returncode, says in done.stdout + done.stderr) == (code, True), done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize(("old", "new", "test"), [
    ("if z is None:", "if i > 256:\n            mean = 1.01 * mean\n        if z is None:", "test_long_path"),
    ('eps = c["eps_from_x"]', 'x0 = x0.astype(np.float16)\n        eps = c["eps_from_x"]', "test_images_are_not_rounded"),
    ("if z is None:", "mean = 1.01 * mean\n        if z is None:", "test_path_of_a_scale_shift_network"),
])
def test_what_a_sampler_without_a_network_does_is_checked(site: Path, tmp_path: Path, old: str, new: str, test: str) -> None:
    """Paths of 300 steps, of a constant output and of a network with scale and shift, by the NumPy network."""
    done = run(f"pytest tests/conformance/test_l5_paths.py --backend=my_port -k {test}", copy(site, tmp_path, old, new), ROOT)
    assert done.returncode == 1 and f"FAILED tests/conformance/test_l5_paths.py::{test}" in done.stdout, done.stdout[-2000:]


def test_a_deviation_that_fits_no_test(site: Path, tmp_path: Path) -> None:
    """An entry without a test is an error once the whole kit is collected."""
    edited = copy(site, tmp_path, xfails="test_of_old  # renamed long ago\n")
    done = run("pytest tests/conformance --backend=my_port --collect-only", edited, ROOT)
    assert done.returncode != 0 and "'test_of_old' fits no test" in done.stdout + done.stderr


@pytest.mark.parametrize("edit", [("import math", "import math, a_framework_that_is_absent"), ("levels=(\"L0\",", "levels=(\"L9\",")])
def test_a_backend_that_cannot_be_used_fails(site: Path, tmp_path: Path, edit: tuple[str, str]) -> None:
    """Asked for and not importable, or claiming a level that does not exist: an error, not a skip."""
    done = run(f"pytest {INTERFACE} --backend=my_port", copy(site, tmp_path, *edit), ROOT)
    assert done.returncode == 4
    assert ("a_framework_that_is_absent" in done.stderr) or ("L9" in done.stderr)


def test_an_unknown_backend_fails(site: Path) -> None:
    """The message lists what there is."""
    done = run(f"pytest {INTERFACE} --backend=no_such", site, ROOT)
    assert done.returncode == 4
    assert "backend='no_such'" in done.stderr and "my_port" in done.stderr


def test_by_default_a_backend_without_its_framework_is_named(site: Path, tmp_path: Path) -> None:
    """Without --backend every backend that can be imported is checked, and the summary names the others."""
    absent = copy(site, tmp_path, "import math", "import a_framework_that_is_absent")
    done = run(f"pytest {INTERFACE} -k test_device_info", absent, ROOT)
    assert "NOT CHECKED: backend='my_port'" in done.stdout, done.stdout + done.stderr
