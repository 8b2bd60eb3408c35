"""The recorder by itself: lines as strace writes them, and the operations that they mean."""

from __future__ import annotations

import pytest

from tests.proof.power.operations import NEVER, ROOT, Enter, Leave, Mark, Move, Operation, Resize, Sync, Write
from tests.proof.power.recorder import NotModelled, Recorder


def quoted(text: str) -> str:
    return '"' + "".join(f"\\x{byte:02x}" for byte in text.encode()) + '"'


def read(*traces: str) -> list[Operation]:
    recorder = Recorder("/root")
    for trace in traces:
        recorder.read(trace)
    return recorder.operations


def opened(name: str, descriptor: int, flags: str = "O_RDWR|O_CREAT") -> str:
    return f"7 openat(AT_FDCWD, {quoted(f'/root/{name}')}, {flags}, 0600) = {descriptor}\n"


def test_a_new_file_is_named_written_cut_and_synced() -> None:
    trace = (
        opened("f", 3)
        + f"7 pwrite64(3, {quoted('abc')}, 3, 4096) = 3\n"
        + "7 ftruncate(3, 10)                      = 0\n"
        + "8 fdatasync(3) = 0\n"
        + f"7 write(1, {quoted('said')}, 4) = 4\n"
        + f"7 unlink({quoted('/root/f')}) = 0\n"
    )
    assert read(trace) == [
        Enter(1, 1, ROOT, "f", 1),
        Write(2, 2, 1, 4096, b"abc"),
        Resize(3, 3, 1, 10),
        Sync(4, 4, 1),
        Mark(5, 5, "said"),
        Leave(6, 6, ROOT, "f"),
    ]


def test_a_file_written_from_where_it_stands() -> None:
    trace = opened("f", 3) + "".join(f"7 write(3, {quoted(text)}, {len(text)}) = {len(text)}\n" for text in ("ab", "c"))
    trace += "7 lseek(3, 1, SEEK_SET) = 1\n7 write(3, " + quoted("x") + ", 1) = 1\n"
    assert [(each.offset, each.data) for each in read(trace) if isinstance(each, Write)] == [
        (0, b"ab"), (2, b"c"), (1, b"x"),
    ]  # fmt: skip


def test_folders_are_made_opened_and_synced() -> None:
    trace = f"7 mkdir({quoted('/root/d')}, 0777) = 0\n" + opened("d", 4, "O_RDONLY") + "7 fsync(4) = 0\n"
    trace += f"7 openat(AT_FDCWD, {quoted('/root')}, O_RDONLY) = 5\n7 fsync(5) = 0\n"
    assert read(trace) == [Enter(1, 1, ROOT, "d", 1, is_folder=True), Sync(3, 3, 1), Sync(5, 5, ROOT)]


def test_a_call_that_another_thread_interrupts_has_a_beginning_and_an_end() -> None:
    trace = (
        opened("f", 3)
        + f"7 pwrite64(3, {quoted('a')}, 1, 0 <unfinished ...>\n"
        + "8 fsync(3 <unfinished ...>\n"
        + "7 <... pwrite64 resumed>) = 1\n"
        + "8 <... fsync resumed>) = 0\n"
    )
    assert read(trace)[1:] == [Write(2, 4, 1, 0, b"a"), Sync(3, 5, 1)]


def test_a_descriptor_closed_in_one_thread_may_be_another_file_before_the_close_has_returned() -> None:
    trace = (
        opened("f", 3)
        + "7 close(3 <unfinished ...>\n"
        + opened("g", 3).replace("7", "8", 1)
        + "7 <... close resumed>) = 0\n8 fsync(3) = 0\n"
    )
    assert read(trace)[-1] == Sync(5, 5, 2)


def test_the_next_life_finds_the_files_of_the_one_that_was_killed_inside_a_sync() -> None:
    killed = opened("f", 3) + "7 fsync(3) = ?\n7 +++ killed by SIGKILL +++\n"
    again = opened("f", 5) + "9 fsync(5) = 0\n"
    assert read(killed, again) == [Enter(1, 1, ROOT, "f", 1), Sync(2, NEVER, 1), Sync(5, 5, 1)]


def test_a_file_renamed_over_another_keeps_its_content() -> None:
    trace = opened("a", 3) + opened("b", 4) + f"7 rename({quoted('/root/a')}, {quoted('/root/b')}) = 0\n"
    assert read(trace + "7 close(3) = 0\n" + opened("b", 5) + "7 fsync(5) = 0\n")[2:] == [
        Move(3, 3, ROOT, "a", "b"),
        Sync(6, 6, 1),
    ]


def test_what_failed_or_lies_elsewhere_is_nothing() -> None:
    trace = f"7 openat(AT_FDCWD, {quoted('/root/f')}, O_RDWR) = -1 ENOENT (No such file)\n"
    trace += (
        f"7 openat(AT_FDCWD, {quoted('/rootless/f')}, O_RDWR|O_CREAT) = 3\n7 pwrite64(3, {quoted('a')}, 1, 0) = 1\n"
    )
    assert read(trace + f"7 unlink({quoted('/root/f')}) = -1 ENOENT (No such file)\n") == []


@pytest.mark.parametrize(
    "line",
    [
        pytest.param("7 truncate(3, 10) = 0", id="a call that is not modelled"),
        pytest.param("7 fallocate(3, 1, 0, 10) = 0", id="space without a size"),
        pytest.param(
            f"7 pwrite64(3, {quoted('abc')}, 3, 0) = 3\n7 fallocate(3, 0, 0, 10) = 0", id="space for what is there"
        ),
        pytest.param("7 mmap(NULL, 9, PROT_READ|PROT_WRITE, MAP_SHARED, 3, 0) = 0x7f", id="a shared writable mapping"),
        pytest.param("7 clone(child_stack=NULL, flags=CLONE_CHILD_SETTID|SIGCHLD) = 9", id="a child process"),
        pytest.param("7 dup(3) = 9", id="a second descriptor"),
        pytest.param(f"7 pwrite64(3, {quoted('abc')}, 3, 0) = 2", id="a short write"),
        pytest.param(f"7 pwrite64(3, {quoted('abc')}..., 300, 0) = 300", id="a text that strace cut off"),
        pytest.param(f"7 rename({quoted('/root/f')}, {quoted('/elsewhere')}) = 0", id="a rename out of the folder"),
    ],
)
def test_what_is_not_modelled_is_refused(line: str) -> None:
    with pytest.raises(NotModelled):
        read(opened("f", 3) + line + "\n")


def test_the_wal_index_may_be_mapped() -> None:
    assert len(read(opened("f-shm", 3) + "7 mmap(NULL, 9, PROT_READ|PROT_WRITE, MAP_SHARED, 3, 0) = 0x7f\n")) == 1


def test_space_set_aside_for_a_new_file_is_its_size() -> None:
    assert read(opened("f", 3) + "7 fallocate(3, 0, 0, 4096) = 0\n") == [
        Enter(1, 1, ROOT, "f", 1),
        Resize(2, 2, 1, 4096),
    ]
