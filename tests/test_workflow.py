"""The files that other machines read: the workflow of the public CI, and what runs before a commit."""

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import environment
import pytest
import yaml

WORKFLOW = environment.ROOT / ".github" / "workflows" / "ci.yml"
SYSTEMS = {"POSIX :: Linux": "ubuntu-latest", "MacOS": "macos-latest", "Microsoft :: Windows": "windows-latest"}


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def lint(workflow: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", str(workflow)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)


def test_the_workflow_is_one() -> None:
    done = lint(WORKFLOW)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        pytest.param("runs-on:", "run-on:", id="a misspelt key"),
        pytest.param("timeout-minutes: 30", "timeout-minutes: soon", id="a word for a number"),
    ],
)
def test_control_a_fault_in_the_workflow_is_found(tmp_path: Path, good: str, bad: str) -> None:
    workflow = tmp_path / "ci.yml"
    text = WORKFLOW.read_text(encoding="utf-8")
    assert good in text
    workflow.write_text(text.replace(good, bad), encoding="utf-8")

    assert lint(workflow).returncode == 1


def test_the_workflow_runs_each_python_and_each_system_that_the_package_names() -> None:
    project = tomllib.loads((environment.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [line.removeprefix("Programming Language :: Python :: ") for line in project["classifiers"]]
    systems = [line.removeprefix("Operating System :: ") for line in project["classifiers"]]

    matrix = read(WORKFLOW)["jobs"]["quick"]["strategy"]["matrix"]

    assert matrix["python"] == [name for name in names if name.startswith("3.")]
    assert set(matrix["os"]) == {SYSTEMS[name] for name in systems if name in SYSTEMS}
    assert len(set(matrix["os"])) == len(SYSTEMS)


def test_each_file_that_the_workflow_or_a_commit_runs_is_there() -> None:
    steps = [step["run"] for job in read(WORKFLOW)["jobs"].values() for step in job["steps"] if "run" in step]
    (repository,) = read(environment.ROOT / ".pre-commit-config.yaml")["repos"]
    (hook,) = repository["hooks"]
    words = " ".join([*steps, hook["entry"]]).split()
    files = [word for word in words if word.startswith(("scripts/", ".ci/", "tests/"))]

    assert {"scripts/check", "scripts/test", ".ci/run"} <= set(files)
    assert [file for file in files if not (environment.ROOT / file).is_file()] == []
