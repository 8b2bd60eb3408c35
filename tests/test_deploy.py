"""docs/deploy.md keeps its word: the bot ends on SIGTERM, unit and image point at one folder, cron's lines run."""

from __future__ import annotations

import configparser
import json
import re
import signal
import subprocess
import sys
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml

from tests import forked
from tests.store.tools import ROOT, count

PAGE = ROOT / "docs" / "deploy.md"
STOP_S = 15  # what docs/durability.md gives a clean stop at most


def block(language: str) -> str:
    """Return the page's only block of `language`."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return str(text)


def environment(**more: str) -> dict[str, str]:
    """What cron and systemd give: next to nothing."""
    return {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), **more}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a program could catch")
def test_the_bot_starts_puts_and_ends_on_sigterm(tmp_path: Path) -> None:
    (tmp_path / "bot.py").write_text(block("python"), encoding="utf-8")
    path = tmp_path / "data" / "bot.db"
    with subprocess.Popen(
        [sys.executable, "bot.py"], cwd=tmp_path, env=environment(OUTBOX_PATH=str(path)), stderr=subprocess.PIPE
    ) as bot:
        while bot.poll() is None and not _has_a_row(path):
            pass
        bot.send_signal(signal.SIGTERM)
        assert bot.wait(timeout=200) == 0, bot.stderr and bot.stderr.read()
    assert count(path) == 1
    assert not path.with_name("bot.db-wal").exists(), "closed cleanly"


def _has_a_row(path: Path) -> bool:
    command = [sys.executable, "-m", "outbox", "status", "--json", "--path", str(path)]
    done = forked.run(command, capture_output=True, text=True, cwd=ROOT, env=environment())
    return done.stdout.startswith("{") and json.loads(done.stdout).get("pending") == 1


def test_the_container_keeps_the_folder_and_gives_the_bot_its_time() -> None:
    service: dict[str, Any] = yaml.safe_load(block("yaml"))["services"]["bot"]
    image = block("dockerfile")
    path = PurePosixPath(re.findall(r"^ENV OUTBOX_PATH=(\S+)$", image, re.MULTILINE)[0])
    assert problems(service, path) == []
    assert json.loads(re.findall(r"^CMD (.*)$", image, re.MULTILINE)[0]) == ["python", "bot.py"]
    assert int(service["stop_grace_period"].removesuffix("s")) > STOP_S


def problems(service: dict[str, Any], path: PurePosixPath) -> list[str]:
    """Return why the file would not be kept."""
    targets = [PurePosixPath(each.split(":")[1]) for each in service.get("volumes", [])]
    found = [] if path.is_absolute() else ["a relative path"]
    found += ["the file itself is mounted"] if path in targets else []
    return found + ([] if path.parent in targets else ["its folder is not mounted"])


def test_a_mount_of_the_file_would_be_found() -> None:
    """The control."""
    path = PurePosixPath("/data/bot.db")
    assert problems({"volumes": ["./bot.db:/data/bot.db"]}, path) != []
    assert problems({}, path) != []
    assert problems({"volumes": ["./data:/data"]}, PurePosixPath("bot.db")) != []


def test_the_unit_says_where_the_file_is_and_gives_the_bot_its_time() -> None:
    service = unit_of(block("ini"))["Service"]
    path = PurePosixPath(service["Environment"].removeprefix("OUTBOX_PATH="))
    assert path.is_absolute()
    assert path.parent == PurePosixPath("/var/lib") / service["StateDirectory"]
    assert PurePosixPath(service["ExecStart"].split()[0]).is_absolute()
    assert PurePosixPath(service["WorkingDirectory"]).is_absolute()
    assert int(service["TimeoutStopSec"]) > STOP_S


def unit_of(text: str) -> configparser.RawConfigParser:
    unit = configparser.RawConfigParser()
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    return unit


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no systemd")
def test_the_timers_pipe_puts_each_fill_once_however_often_it_runs(tmp_path: Path) -> None:
    service, timer = re.split(r"^# /etc/systemd/system/fills\.\w+\n", block("systemd"), flags=re.MULTILINE)[1:]
    assert unit_of(timer)["Timer"]["Persistent"] == "true"
    run = unit_of(service)["Service"]
    (program,) = re.findall(r"/bin/sh -c '(.*)'", run["ExecStart"])
    ids = ["0c6e8c1c-4f0b-4c5e-9a52-6f1d1a4c0001", "0c6e8c1c-4f0b-4c5e-9a52-6f1d1a4c0002"]
    lines = "".join(json.dumps({"id": own, "price": 1.5}) + "\n" for own in ids)
    for name, text in {
        "curl": f"cat <<'END'\n{lines}END",
        "outbox": f'exec "{sys.executable}" -m outbox "$@"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    path = str(tmp_path / "bot.db")
    for _ in range(2):
        done = subprocess.run(
            ["/bin/sh", "-c", program.replace("/srv/bot/.venv/bin", str(tmp_path))],
            env=environment(OUTBOX_PATH=path) | {"PATH": f"{tmp_path}:/usr/bin:/bin"},
            cwd=tmp_path, capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert count(Path(path)) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither")
def test_the_line_that_measures_the_inbox_puts_its_rows(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m outbox "$@"\n', encoding="utf-8")
    (tmp_path / "outbox").chmod(0o755)
    path = str(tmp_path / "bot.db")
    done = subprocess.run(
        ["/bin/sh", "-c", block("sh").replace("20000", "20")],
        env=environment(OUTBOX_PATH=path) | {"PATH": f"{tmp_path}:/usr/bin:/bin"},
        cwd=tmp_path, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert count(Path(path)) == 20


def cron_lines() -> tuple[dict[str, str], list[str]]:
    """Return the variables, and each command as cron hands it to the shell."""
    lines = block("cron").splitlines()
    variables = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    commands = [line.split(maxsplit=5)[5] for line in lines if not re.match(r"\w+=", line)]
    return variables, [as_cron_reads(each) for each in commands]


def as_cron_reads(command: str) -> str:
    """Cut at a bare %, which is a line's end there; \\% is one."""
    return re.split(r"(?<!\\)%", command)[0].replace("\\%", "%")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no cron")
def test_crons_lines_run_from_anywhere_with_hardly_any_environment(tmp_path: Path) -> None:
    program = tmp_path / ".venv" / "bin" / "outbox"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m outbox "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    (tmp_path / "copies").mkdir()
    variables, commands = cron_lines()
    assert len(commands) == 2
    moved = {name: value.replace("/srv/bot", str(tmp_path)) for name, value in variables.items()}
    for command in commands:
        done = subprocess.run(
            ["/bin/sh", "-c", command.replace("/srv/bot", str(tmp_path))],
            cwd="/", env=environment(**moved), capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, (tmp_path / "cron.log").read_text(encoding="utf-8")
    (copy,) = (tmp_path / "copies").glob("bot-*.db")
    assert count(tmp_path / "data" / "bot.db") == count(copy) == 1


def test_a_bare_percent_would_be_cut() -> None:
    """The control."""
    assert as_cron_reads("date +%s") == "date +"
    assert as_cron_reads("date +\\%s") == "date +%s"
