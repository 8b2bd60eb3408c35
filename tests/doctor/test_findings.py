"""What facts about machine, file and remote end mean: tables with a healthy row beside each broken one."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path

import pytest

from outbox.doctor import findings, remote_findings
from outbox.doctor.complaints import Complaint, complaint
from outbox.doctor.findings import Severity, Trial, WalFacts
from outbox.doctor.local import filesystem_of
from outbox.doctor.remote_findings import Obstacle, TableFacts, Target, targets
from outbox.entry import Destination, LaneSpec, Operation
from outbox.postgrest.project import KeyFacts, KeyKind, read_key
from outbox.postgrest.verdicts import Failure, Refusal, Reply

OK, WARNING, FAULT = Severity.OK, Severity.WARNING, Severity.FAULT
FILE = Path("my bot.db")
MIB = 1024 * 1024


@pytest.mark.parametrize(
    ("free_mib", "severity"),
    [
        pytest.param(40, FAULT, id="nearly full"),
        pytest.param(400, WARNING, id="little"),
        pytest.param(4000, OK, id="enough"),
    ],
)
def test_free_space(free_mib: int, severity: Severity) -> None:
    assert findings.disk(free_mib * MIB).severity is severity


def test_free_space_reads_as_people_say_it() -> None:
    assert [findings.disk(free).says for free in (68_120_000_000, 12_582_912)] == ["68.1 GB free", "13 MB free"]


@pytest.mark.parametrize(
    ("facts", "severity", "word"),
    [
        pytest.param(WalFacts(4 * MIB, (7,)), OK, "4.0 MiB", id="small, though somebody reads"),
        pytest.param(WalFacts(90 * MIB, (7,)), WARNING, "process 7", id="held back"),
        pytest.param(WalFacts(90 * MIB), WARNING, "made small again", id="large, and nobody reads"),
    ],
)
def test_the_wal(facts: WalFacts, severity: Severity, word: str) -> None:
    finding = findings.wal(facts)
    assert (finding.severity, word in finding.says) == (severity, True)


@pytest.mark.parametrize(
    ("wal_mode", "filesystem", "trial", "severity"),
    [
        pytest.param(True, "ext4", Trial(0.002), OK, id="a disk"),
        pytest.param(True, None, Trial(0.002), OK, id="a system that does not name its file systems"),
        pytest.param(None, "ext4", Trial(0.002), OK, id="an empty file"),
        pytest.param(False, "ext4", Trial(0.002), FAULT, id="a rollback journal"),
        pytest.param(True, "nfs4", Trial(0.002), FAULT, id="a network file system"),
        pytest.param(True, "tmpfs", Trial(0.002), FAULT, id="memory"),
        pytest.param(True, "ext4", Trial(0.7), WARNING, id="a slow disk"),
        pytest.param(True, "ext4", Trial(None, "no"), WARNING, id="nothing could be tried"),
    ],
)
def test_durability(wal_mode: bool | None, filesystem: str | None, trial: Trial, severity: Severity) -> None:
    assert findings.durability(FILE, wal_mode, filesystem, trial).severity is severity


@pytest.mark.parametrize(
    ("newest_put_ms", "ahead_s", "severity"),
    [
        pytest.param(None, None, OK, id="nothing to compare with"),
        pytest.param(999_000, 0.4, OK, id="all agree"),
        pytest.param(1_004_000, None, OK, id="within a few seconds"),
        pytest.param(1_060_000, None, WARNING, id="an entry of the future"),
        pytest.param(999_000, 30.0, WARNING, id="ahead"),
        pytest.param(999_000, -30.0, WARNING, id="behind"),
        pytest.param(None, -3600.0, FAULT, id="far behind"),
    ],
)
def test_the_clock(newest_put_ms: int | None, ahead_s: float | None, severity: Severity) -> None:
    finding = findings.clock(now_ms=1_000_000, newest_put_ms=newest_put_ms, ahead_s=ahead_s, platform="linux")
    assert finding.severity is severity
    assert (finding.fix is None) == (severity is OK)


def test_a_file_in_a_folder_with_a_space_gives_a_command_that_a_shell_takes() -> None:
    finding = findings.permissions({FILE: 0o644, Path("my bot.db-wal"): 0o600}, writable=True)
    assert finding.fix == "chmod 600 'my bot.db'"
    assert findings.permissions({FILE: 0o600}, writable=True).severity is OK
    assert findings.permissions(None, writable=True).severity is OK  # Windows
    assert findings.permissions({FILE: 0o600}, writable=False).severity is WARNING


@pytest.mark.parametrize(
    ("mounts", "kind"),
    [
        pytest.param(["22 1 8:1 / / rw - ext4 /dev/sda1 rw"], "ext4", id="one disk"),
        pytest.param(
            ["22 1 8:1 / / rw - ext4 /dev/sda1 rw", "40 22 0:1 / /srv/my\\040bots rw shared:9 - nfs4 host:/ rw"],
            "nfs4",
            id="a mount below it, with a space in its name",
        ),
        pytest.param(
            ["22 1 8:1 / /srv rw - ext4 /dev/sda1 rw", "41 22 0:2 / /srv rw - tmpfs tmpfs rw"],
            "tmpfs",
            id="two at one place: the later one",
        ),
        pytest.param(["nonsense", "1 2 3 - x", ""], None, id="nothing that can be read"),
    ],
)
def test_the_file_system_is_the_nearest_mount_above(mounts: list[str], kind: str | None) -> None:
    assert filesystem_of(Path("/srv/my bots/bot.db"), mounts) == kind


# ------------------------------------------------------------------------------------------ the key


def jwt(**claims: object) -> str:
    return f"x.{base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b'=').decode()}.y"


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        pytest.param("sb_secret_x", KeyFacts(KeyKind.SECRET), id="secret"),
        pytest.param(
            jwt(role="service_role", ref="abc", exp=2e9),
            KeyFacts(KeyKind.LEGACY_SERVICE_ROLE, "service_role", "abc", 2e9),
            id="a legacy key",
        ),
        pytest.param(jwt(role="reader", exp="soon"), KeyFacts(KeyKind.UNKNOWN, "reader"), id="another role"),
        pytest.param(jwt(role=1, ref=2, exp=True), KeyFacts(KeyKind.UNKNOWN), id="claims of other types"),
        pytest.param(jwt(role="anon", exp=10**400), KeyFacts(KeyKind.LEGACY_ANON, "anon"), id="no time at all"),
        pytest.param(
            "x." + base64.urlsafe_b64encode(b"[" * 100_000).decode() + ".y", KeyFacts(KeyKind.UNKNOWN), id="deep"
        ),
    ],
)
def test_what_a_key_says_of_itself(text: str, facts: KeyFacts) -> None:
    assert read_key(text) == facts


@pytest.mark.parametrize(
    ("facts", "host", "refused", "severity"),
    [
        pytest.param(KeyFacts(KeyKind.SECRET), "abc.supabase.co", None, OK, id="secret"),
        pytest.param(
            KeyFacts(KeyKind.LEGACY_SERVICE_ROLE, "service_role", "abc", 2e9), "abc.supabase.co", None, OK, id="legacy"
        ),
        pytest.param(
            KeyFacts(KeyKind.LEGACY_SERVICE_ROLE, "service_role", "abc", 2e9), "db.my.org", None, OK, id="own domain"
        ),
        pytest.param(
            KeyFacts(KeyKind.LEGACY_SERVICE_ROLE, "service_role", "xyz", 2e9),
            "abc.supabase.co",
            None,
            FAULT,
            id="of another project",
        ),
        pytest.param(KeyFacts(KeyKind.LEGACY_SERVICE_ROLE, expires_at_s=999.0), "h", None, FAULT, id="expired"),
        pytest.param(KeyFacts(KeyKind.LEGACY_SERVICE_ROLE, expires_at_s=9999.0), "h", None, WARNING, id="expires soon"),
        pytest.param(KeyFacts(KeyKind.PUBLISHABLE), "h", None, FAULT, id="publishable"),
        pytest.param(KeyFacts(KeyKind.LEGACY_ANON, "anon"), "h", None, FAULT, id="anon"),
        pytest.param(KeyFacts(KeyKind.UNKNOWN), "h", None, WARNING, id="unknown"),
        pytest.param(KeyFacts(KeyKind.SECRET), "h", Refusal(401, None, "Invalid API key"), FAULT, id="refused"),
    ],
)
def test_a_key(facts: KeyFacts, host: str, refused: Refusal | None, severity: Severity) -> None:
    finding = remote_findings.key(facts, host, now_s=1000.0, refused=refused)
    assert finding.severity is severity
    assert (finding.fix is None) == (severity is OK)


# ------------------------------------------------------------------------------------------ answers


def reply(status: int, code: str = "", message: str = "", **headers: str) -> Reply:
    facts = {"code": code, "details": None, "hint": None, "message": message}
    body = json.dumps(facts).encode() if code else b""
    return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


@pytest.mark.parametrize(
    ("outcome", "what"),
    [
        pytest.param(reply(200, content_range="*/*"), Complaint.NOTHING, id="rows"),
        pytest.param(reply(201, preference_applied="return=minimal"), Complaint.NOTHING, id="an insert"),
        pytest.param(reply(200), Complaint.NOT_POSTGREST, id="a portal's page"),
        pytest.param(reply(404, "PGRST205"), Complaint.TABLE, id="no table"),
        pytest.param(reply(404, "42P01"), Complaint.TABLE, id="no table, an older PostgREST"),
        pytest.param(reply(400, "PGRST204"), Complaint.COLUMN, id="no column"),
        pytest.param(reply(400, "42703"), Complaint.COLUMN, id="no column to read"),
        pytest.param(reply(400, "42P10"), Complaint.INDEX, id="no unique index"),
        pytest.param(reply(403, "42501", "permission denied for table t"), Complaint.GRANT, id="no grant"),
        pytest.param(reply(500, "42P17"), Complaint.POLICY, id="a policy that reads its own table"),
        pytest.param(
            reply(403, "42501", "new row violates row-level security policy"), Complaint.ROW_SECURITY, id="a policy"
        ),
        pytest.param(reply(401, "42501", "permission denied"), Complaint.KEY, id="a publishable key"),
        pytest.param(reply(401, "PGRST303", "JWT expired"), Complaint.KEY, id="an expired key"),
        pytest.param(reply(401), Complaint.KEY, id="the gateway's no"),
        pytest.param(reply(540), Complaint.SUSPENDED, id="a paused project"),
        pytest.param(reply(404), Complaint.WRONG_URL, id="another server"),
        pytest.param(reply(301), Complaint.WRONG_URL, id="a redirect"),
        pytest.param(reply(503, "PGRST002"), Complaint.DOWN, id="its database is away"),
        pytest.param(Failure.TIMEOUT, Complaint.DOWN, id="no answer"),
        pytest.param(reply(418), Complaint.OTHER, id="something new"),
    ],
)
def test_what_an_answer_complains_of(outcome: Reply | Failure, what: Complaint) -> None:
    assert complaint(outcome) is what


def test_every_answer_of_the_table_of_answers_complains_of_something() -> None:
    with (Path(__file__).parents[1] / "postgrest" / "rest_errors.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["class"] != "ok"]
    examples = [text.split("/", 1) for row in rows for text in row["examples"].split()]
    assert len(examples) > 100
    silent = [(status, code) for status, code in examples if complaint(reply(int(status), code)) is Complaint.NOTHING]
    assert silent == []


TARGET = Target("orders", "id", ("id", "lots"), ("id",), updates=True, used=True)
READ = reply(200, content_range="*/*")
DONE = reply(201, preference_applied="resolution=ignore-duplicates")


def severities(facts: TableFacts) -> dict[str, Severity]:
    return {found.check.removeprefix("orders: "): found.severity for found in remote_findings.table(facts)}


def test_a_table_in_order_has_a_line_for_each_thing_that_was_looked_at() -> None:
    facts = TableFacts(
        TARGET, READ, {}, {"id": DONE}, READ, ("x", Reply(200, {"content-range": "0-0/*"}, b'[{"id":1}]'))
    )
    assert severities(facts) == dict.fromkeys(("table", "columns", "grants", "unique index", "rows"), OK)


@pytest.mark.parametrize(
    ("facts", "bad"),
    [
        pytest.param(TableFacts(TARGET, reply(404, "PGRST205")), {"table": FAULT}, id="no table"),
        pytest.param(TableFacts(TARGET, reply(403, "42501")), {"grants": FAULT}, id="may not read"),
        pytest.param(TableFacts(TARGET, reply(500, "42P17")), {"rows": FAULT}, id="a broken policy"),
        pytest.param(TableFacts(TARGET, reply(418)), {"table": FAULT}, id="something new"),
        pytest.param(
            TableFacts(TARGET, reply(400, "42703"), {"lots": None}, {"id": DONE}), {"columns": FAULT}, id="no column"
        ),
        pytest.param(TableFacts(TARGET, READ, {}, {"id": reply(403, "42501")}), {"grants": FAULT}, id="may not insert"),
        pytest.param(
            TableFacts(TARGET, READ, {}, {"id": DONE}, reply(403, "42501")), {"grants": FAULT}, id="may not update"
        ),
        pytest.param(
            TableFacts(TARGET, READ, {}, {"id": reply(400, "42P10")}), {"unique index": FAULT}, id="no unique index"
        ),
        pytest.param(
            TableFacts(TARGET, READ, {}, {"id": reply(503, "PGRST003")}), {"unique index": FAULT}, id="lost on the way"
        ),
        pytest.param(
            TableFacts(TARGET, READ, {}, {"id": DONE}, None, ("x", Reply(200, {"content-range": "*/*"}, b"[]"))),
            {"rows": WARNING},
            id="a row that is hidden",
        ),
    ],
)
def test_a_table_that_is_not_in_order(facts: TableFacts, bad: dict[str, Severity]) -> None:
    assert {check: severity for check, severity in severities(facts).items() if severity is not OK} == bad


def test_what_is_asked_about_a_table_is_what_is_sent_to_it() -> None:
    shapes = [
        LaneSpec("orders", Operation.INSERT, "order_id", "lots,order_id", ordered=False),
        LaneSpec("orders", Operation.UPSERT, "order_id,leg", "leg,order_id,price", ordered=True),
        LaneSpec("trades", Operation.UPDATE, "", "pnl", ordered=True),
    ]
    last = {
        "bills": LaneSpec("bills", Operation.INSERT, "bill_id", "bill_id,sum", ordered=False),
        "orders": LaneSpec("orders", Operation.UPSERT, "wrong", "wrong", ordered=True),
    }
    found = {
        each.name: each
        for each in targets([Destination("trades"), Destination("events")], shapes, last, ["orders", "bills"])
    }

    orders = ("leg", "lots", "order_id", "price")
    assert found["orders"] == Target(
        "orders", "order_id", orders, ("order_id", "order_id,leg"), updates=True, used=True
    )
    assert found["bills"] == Target("bills", "bill_id", ("bill_id", "sum"), ("bill_id",), updates=False, used=True)
    assert found["trades"] == Target("trades", "id", ("pnl",), (), updates=True, used=False)
    assert found["events"] == Target("events", "id", ("id",), ("id",), updates=False, used=False)
    assert [each.name for each in targets([], shapes, {}, [], only=["new", "orders"])] == ["new", "orders"]


@pytest.mark.parametrize("kind", list(Obstacle))
def test_whatever_stands_in_the_way_is_a_fault_with_something_to_do(kind: Obstacle) -> None:
    finding = remote_findings.reach("https://x.supabase.co", Failure.UNREACHABLE, (kind, "words"))
    assert (finding.severity, kind.value in finding.says, bool(finding.fix)) == (FAULT, True, True)


def test_the_key_in_the_clear_is_a_warning() -> None:
    assert remote_findings.tls("http://10.0.0.1", in_the_clear=True, connected=True).severity is WARNING
    assert remote_findings.tls("http://127.0.0.1", in_the_clear=False, connected=True).severity is OK
    assert remote_findings.tls("https://x", in_the_clear=False, connected=True).severity is OK
