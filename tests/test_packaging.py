"""The installed package: what it depends on, what the wheel holds, and that it works outside the checkout."""

import ast
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def requirement_names(requirements):
    return {re.match(r"[\w-]+", requirement)[0].replace("-", "_") for requirement in requirements}


def test_requirements_txt_installs_the_dependencies():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if not line.startswith("#")]
    assert listed == PROJECT["dependencies"] + PROJECT["optional-dependencies"]["page"]


def test_every_import_is_a_dependency():
    imported = set()
    for path in [*ROOT.glob("gpt/**/*.py"), *ROOT.glob("train/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    third_party = imported - sys.stdlib_module_names - {"gpt", "train"}
    assert third_party == requirement_names(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["export"])


def test_versions_agree():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## \[([\d.]+)\]", changelog, re.MULTILINE)[1] == PROJECT["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == PROJECT["version"]


def test_shipped_weights_stay_small():
    assert sum(path.stat().st_size for path in (ROOT / "weights").rglob("*") if path.is_file()) < 40_000_000


def test_continuous_integration_runs_the_gate_on_every_supported_python():
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"].values()
    supported = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if c.startswith("Programming Language")]
    assert job["strategy"]["matrix"]["python"] == supported
    assert job["steps"][-1]["run"] == ".ci/run"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", folder, ROOT], check=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A virtual environment with the wheel, and with the packages of this one instead of another copy of PyTorch."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel], check=True
    )
    (site_packages,) = folder.glob("lib/python*/site-packages")
    (site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder


@pytest.fixture
def run(environment, hub, tmp_path):
    """A function that runs a command of that environment, outside the checkout and with the fake Hub."""
    env = {name: value for name, value in hub.env(home=tmp_path / "home").items() if name != "PYTHONPATH"}
    env |= {"PATH": f"{environment / 'bin'}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def command(*words):
        program = environment / "bin" / words[0]
        return subprocess.run([program, *map(str, words[1:])], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)

    return command


@pytest.mark.slow
def test_wheel_has_every_file_of_the_packages(wheel):
    tracked = subprocess.run(["git", "ls-files", "gpt", "train"], cwd=ROOT, capture_output=True, text=True, check=True)
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == set(tracked.stdout.split())
    assert {"gpt/engine/kernel.c", "gpt/py.typed", "train/py.typed"} <= packed


@pytest.mark.slow
def test_installed_package_opens_a_folder_and_compiles_the_kernel(run, environment):
    script = "import sys, gpt; lm = gpt.load(sys.argv[1]); print(gpt.__file__, lm.engine, len(lm.generate('ROMEO:').token_ids))"
    done = run("python", "-c", script, ROOT / "weights" / "gpt-shakespeare")
    assert done.returncode == 0, done.stderr
    source, engine, length = done.stdout.split()
    assert Path(source).is_relative_to(environment)
    assert engine == ("C" if shutil.which("cc") else "PyTorch")
    assert length == "300"


@pytest.mark.slow
def test_installed_package_opens_a_model_of_the_hub(run, hub):
    hub.add_folder(ROOT / "weights" / "bigram-shakespeare", "alice/tiny")
    done = run("gpt", "--model", "alice/tiny", "--prompt", "abc", "--length", 20)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip("\n")) >= 20


@pytest.mark.slow
def test_installed_package_says_where_the_shipped_weights_are(run):
    done = run("gpt", "--model", "gpt-shakespeare")
    assert done.returncode == 1
    (sentence,) = done.stderr.splitlines()
    assert "gpt-shakespeare" in sentence
    assert "git checkout" not in sentence


@pytest.mark.slow
def test_installed_package_trains(run, text_file, tmp_path):
    done = run("gpt-train", "run", "bigram", "--data", text_file, "--out", tmp_path / "mine")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "mine" / "README.md").is_file()  # from the card template


@pytest.mark.slow
@pytest.mark.parametrize("command", ["gpt", "gpt-train", "python -m gpt", "python -m train"])
def test_command_prints_its_help(run, command):
    done = run(*command.split(), "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


@pytest.mark.slow
def test_api_reference_is_generated(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pdoc", "gpt", "gpt.models", "train", "-o", tmp_path], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "BatchGenerator" in (tmp_path / "gpt.html").read_text(encoding="utf-8")
    assert "CausalLM" in (tmp_path / "gpt" / "models" / "base.html").read_text(encoding="utf-8")
