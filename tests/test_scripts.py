"""The scripts that every checkout starts with: the environment they make, and what they say when they cannot."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from pathlib import Path

import environment
import pytest

SCRIPTS = sorted(
    path
    for path in (environment.ROOT / "scripts").iterdir()
    if path.is_file() and not path.suffix and path.read_bytes().startswith(b"#!/usr/bin/env python3")
)


def put_interpreter(venv: Path, lock: int) -> None:
    """Stand in for the real installation: an environment without packages."""
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", str(venv)], check=True)


def cut_off(venv: Path, lock: int) -> None:
    """Stand in for an installation that somebody stops half-way."""
    put_interpreter(venv, lock)
    (venv / "half").touch()
    raise KeyboardInterrupt


def refuse_to_install(venv: Path, lock: int) -> None:
    """Stand in for an installation that must not happen."""
    pytest.fail("an environment was made although there was one")


def test_a_half_made_environment_is_not_ready_and_is_made_again(tmp_path: Path) -> None:
    venv = tmp_path / ".venv"
    with pytest.raises(KeyboardInterrupt):
        environment.ensure(venv, "recipe", cut_off)
    assert not environment.is_ready(venv, "recipe")

    environment.ensure(venv, "recipe", put_interpreter)

    assert environment.is_ready(venv, "recipe")
    assert not (venv / "half").exists()


def test_a_finished_environment_is_made_again_only_for_another_recipe(tmp_path: Path) -> None:
    venv = tmp_path / ".venv"
    environment.ensure(venv, "old", put_interpreter)
    (venv / "old").touch()
    environment.ensure(venv, "old", refuse_to_install)

    environment.ensure(venv, "new", put_interpreter)

    assert environment.is_ready(venv, "new")
    assert not (venv / "old").exists()


def test_an_environment_whose_interpreter_does_not_start_is_made_again(tmp_path: Path) -> None:
    venv = tmp_path / ".venv"
    environment.ensure(venv, "recipe", put_interpreter)
    environment.python_of(venv).unlink()
    environment.python_of(venv).symlink_to(tmp_path / "removed" / "python")
    assert not environment.is_ready(venv, "recipe")

    environment.ensure(venv, "recipe", put_interpreter)

    assert environment.is_ready(venv, "recipe")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_the_scripts_did_not_make_is_left_alone(tmp_path: Path, kind: str) -> None:
    venv = tmp_path / ".venv"
    own = venv / "pyvenv.cfg" if kind == "folder" else venv
    own.parent.mkdir(exist_ok=True)
    own.write_text("somebody's own", encoding="utf-8")

    with pytest.raises(SystemExit, match="was not made by these scripts"):
        environment.ensure(venv, "recipe", refuse_to_install)

    assert own.read_text(encoding="utf-8") == "somebody's own"


def test_an_environment_made_elsewhere_is_used_as_it_is_if_it_has_the_tools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    venv = tmp_path / ".venv"
    put_interpreter(venv, 0)
    with pytest.raises(SystemExit, match="lacks the development tools"):
        environment.ensure(venv, "recipe", refuse_to_install)

    monkeypatch.setattr(environment, "TOOLS", ("json",))

    environment.ensure(venv, "recipe", refuse_to_install)
    assert environment.is_ready(venv, "recipe")


def test_of_two_scripts_started_at_once_one_makes_the_environment(tmp_path: Path) -> None:
    venv = tmp_path / ".venv"
    start = threading.Barrier(2)
    installs: list[Path] = []

    def install(venv: Path, lock: int) -> None:
        put_interpreter(venv, lock)
        installs.append(venv)

    def script() -> None:
        start.wait()
        environment.ensure(venv, "recipe", install)

    threads = [threading.Thread(target=script) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert installs == [venv]
    assert environment.is_ready(venv, "recipe")


def test_the_recipe_follows_the_lock_and_the_package_but_not_the_linters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = (environment.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lock = environment.LOCK.read_text(encoding="utf-8")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "LOCK", tmp_path / "lock")

    def recipe(project: str, lock: str) -> str:
        (tmp_path / "pyproject.toml").write_text(project, encoding="utf-8")
        (tmp_path / "lock").write_text(lock, encoding="utf-8")
        return environment.recipe()

    first = recipe(project, lock)
    assert recipe(project + "\n[tool.other]\n", lock) == first
    assert recipe(project, lock + "\nother==1\n") != first
    assert recipe(project.replace("[project.scripts]", "[project.scripts]\nother = 'outbox:x'"), lock) != first


def test_a_restart_keeps_the_arguments_and_the_exit_code(tmp_path: Path) -> None:
    script = tmp_path / "a script"
    script.write_text(
        "import json, os, sys\n"
        f"sys.path.insert(0, {str(environment.ROOT / 'scripts')!r})\n"
        "import environment\n"
        "if not os.environ.get('RESTARTED'):\n"
        "    os.environ['RESTARTED'] = '1'\n"
        "    environment.restart(environment.Path(sys.executable))\n"
        "print(json.dumps(sys.argv[1:]))\n"
        "sys.exit(7)\n",
        encoding="utf-8",
    )
    arguments = ["-k", "one or two", "", 'a "quote"', "*"]

    done = subprocess.run(
        [sys.executable, script.name, *arguments], cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=False
    )

    assert json.loads(done.stdout) == arguments
    assert done.returncode == 7


def test_an_old_python_hands_over_to_a_newer_one_that_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_path = {"python3.11": str(tmp_path / "a stub that does not start"), "python3.13": sys.executable}
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(shutil, "which", on_path.get)

    assert environment.newer_python() == Path(sys.executable)


def test_an_old_python_alone_ends_with_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "OLDEST", (99, 0))
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(sys, "argv", ["scripts/test"])

    with pytest.raises(SystemExit, match=r"^Python 3\.11 or newer is needed; this is \d"):
        environment.enter("usage")


@pytest.mark.parametrize("path", [Path(environment.__file__), *SCRIPTS], ids=lambda path: path.name)
def test_an_old_python_can_read_the_script(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 6))
    imports = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert "__future__" not in imports, "3.6 does not know `annotations`"


@pytest.mark.parametrize("name", [path.name for path in SCRIPTS])
def test_help_makes_no_environment(tmp_path: Path, name: str) -> None:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for file in ("environment.py", name):
        shutil.copy(environment.ROOT / "scripts" / file, scripts)

    done = subprocess.run(
        [sys.executable, str(scripts / name), "--help"], stdout=subprocess.PIPE, text=True, check=True
    )

    assert f"scripts/{name}" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["scripts"]


def test_the_linter_and_the_type_checker_see_every_script() -> None:
    tool = tomllib.loads((environment.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    names = {f"scripts/{path.name}" for path in SCRIPTS}

    assert names - set(tool["ruff"]["extend-include"]) == set(), "without an extension they must be named"
    assert names - set(tool["mypy"]["files"]) == set(), "without an extension they must be named"


def requirements() -> set[str]:
    """Return the name of each distribution that the project or its development asks for."""
    whole = tomllib.loads((environment.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    project, development = whole["project"], whole["dependency-groups"]["dev"]
    extras = (line for name in ("inspect", "otel", "prometheus") for line in project["optional-dependencies"][name])
    names = {re.split(r"[^\w-]", line)[0] for line in [*project["dependencies"], *development, *extras]}
    return names - {project["name"]}


def test_the_lock_pins_every_dependency_by_its_hashes_and_names_no_place() -> None:
    text = environment.LOCK.read_text(encoding="utf-8")
    pins = re.findall(r"^[^\s#].*(?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+", text, re.MULTILINE)
    heads = [pin.split("\n")[0] for pin in pins]

    assert "://" not in text
    assert [head for head in heads if not re.match(r"[\w.-]+==[\w.]+( ; .+)? \\$", head)] == []
    assert len(heads) == len(re.findall(r"^[^\s#]", text, re.MULTILINE)), "a package without a hash"
    assert requirements() - {head.split("==")[0] for head in heads} == set()


def test_a_pin_is_cut_out_of_the_lock_with_all_its_hashes() -> None:
    lock = "puv==1 \\\n    --hash=a\nuv==2 \\\n    --hash=b \\\n    --hash=c\n    # via x\nuvloop==3 \\\n    --hash=d\n"

    assert environment.pin_of("uv", lock) == "uv==2 \\\n    --hash=b \\\n    --hash=c\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "code"),
    [
        pytest.param("def test_x(): pass", 0, id="a test that passes"),
        pytest.param("@pytest.mark.skip\ndef test_x(): pass", 1, id="a skipped test"),
        pytest.param("pytest.skip('all', allow_module_level=True)", 1, id="a skipped module"),
        pytest.param("@pytest.mark.xfail\ndef test_x(): assert False", 0, id="an expected failure"),
    ],
)
def test_a_skip_fails_a_run_in_ci(tmp_path: Path, body: str, code: int) -> None:
    (tmp_path / "test_good.py").write_text("def test_good(): pass", encoding="utf-8")
    (tmp_path / "test_other.py").write_text(f"import pytest\n{body}", encoding="utf-8")
    (tmp_path / "pytest.ini").touch()
    path = os.pathsep.join([str(environment.ROOT / "scripts"), os.environ.get("PYTHONPATH", "")])
    variables = {**os.environ, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    command = [sys.executable, "-m", "pytest", "-p", "no_skips", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, check=False)

    assert done.returncode == code
