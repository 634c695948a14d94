"""The private stack: separate from others, on loopback only, durable through kill -9, and gone when its owner has ended."""

import asyncio
import contextlib
import os
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import psutil
import pytest
from pamqp.common import FieldTable

from deploy.local import containers, debian
from deploy.local.errors import NotOursError, StackError
from deploy.local.postgres import BINARIES_VARIABLE, PrivatePostgres, accepts_sessions, psql
from deploy.local.processes import Command, Processes
from deploy.local.rabbitmq import PrivateRabbit, speaks_amqp
from deploy.local.scratch import Scratch, exclusive_lock, shared_folder
from deploy.local.stack import (
    ADMIN_VARIABLE,
    KIND_VARIABLE,
    OPERATOR,
    RABBITMQ_VARIABLE,
    SERVICES,
    Stack,
    database_variable,
    open_stack,
)

pytestmark = pytest.mark.system

_ROOT = Path(__file__).parents[2]
_DEADLINE_S = 90.0  # RabbitMQ starts in seven seconds, or in many more on a busy machine
_QUORUM: FieldTable = {"x-queue-type": "quorum"}
_ENVIRONMENT = {"PATH": os.defpath}


def _await(condition: Callable[[], bool], what: str, deadline_s: float = 20.0) -> None:
    give_up_at = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {deadline_s} s: {what}"
        time.sleep(0.02)


def _silent(_line: str) -> None:
    """Drop the stack's messages."""


def _gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _await_gone(processes: list[psutil.Process]) -> None:
    _await(lambda: all(map(_gone, processes)), f"all of {processes} gone")


# --- which stack ---------------------------------------------------------------------------------------------------


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An environment that names a broker and four databases."""
    variables = {RABBITMQ_VARIABLE: "amqp://u:p@broker.example/v"}
    variables |= {database_variable(service): f"postgresql://u:p@db.example/{service}" for service in SERVICES}
    monkeypatch.delenv(KIND_VARIABLE, raising=False)
    monkeypatch.delenv(ADMIN_VARIABLE, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


def test_given_servers_are_used_as_they_are(given: dict[str, str]) -> None:
    with open_stack(say=_silent) as stack:
        assert stack.kind == "given"
        assert stack.environment() == given | {ADMIN_VARIABLE: given["INVOICE_DATABASE_URL"]}
        assert stack.database_url("other") == "postgresql://u:p@db.example/other"
        assert stack.environment_of("invoice") == stack.environment() | {"SENDERS": "trusted"}
        assert all(
            stack.environment_of(who) == stack.environment() for who in (*SERVICES, OPERATOR) if who != "invoice"
        )


def test_given_servers_are_never_touched(given: Mapping[str, str]) -> None:
    with open_stack(say=_silent) as stack:
        for touch in (stack.broker.kill, stack.broker.start, stack.database.kill, stack.database.start):
            with pytest.raises(NotOursError):
                touch()
        with pytest.raises(NotOursError, match="broker"):
            stack.create_vhost("mine")


@pytest.mark.parametrize("missing", [RABBITMQ_VARIABLE, "SAGA_DATABASE_URL"])
def test_a_missing_variable_is_named(given: dict[str, str], monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.delenv(missing)
    with pytest.raises(StackError, match=f"^{missing} must be set too"), open_stack(say=_silent):
        pass


def test_an_unknown_kind_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KIND_VARIABLE, "cloud")
    with pytest.raises(StackError, match="REMIT_STACK is 'cloud'"), open_stack(say=_silent):
        pass


# --- a running private stack ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["private", "containers"])
def kind(request: pytest.FixtureRequest) -> str:
    """Of a name of its own: a parameter of `stack` would be one of the stack of all tests, too, which would be started again for each."""
    return str(request.param)


@pytest.fixture(scope="module")
def stack(stack: Stack, kind: str) -> Iterator[Stack]:
    """One stack of each kind, for the tests that do not end it: that of all tests, if it is of this kind."""
    if stack.kind == kind:
        yield stack
        return
    if kind == "containers" and not containers.are_available():
        pytest.skip("no Docker engine with the images answers on this machine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(KIND_VARIABLE, kind)
        with open_stack(say=_silent) as opened:
            assert opened.kind == kind
            yield opened


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def _name(process: psutil.Process) -> str:
    """The name of a process; nothing if it has just ended, as many do while a server starts."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def _supervisors(owner: psutil.Process) -> list[psutil.Process]:
    return [child for child in owner.children() if any("supervisor.py" in word for word in child.cmdline())]


def test_every_service_has_a_user_and_a_role_of_its_own_and_knows_no_other(stack: Stack) -> None:
    for service in SERVICES:
        variables = stack.environment_of(service)
        urls = {name: value for name, value in variables.items() if name.endswith("_URL")}
        assert set(urls) == {RABBITMQ_VARIABLE, database_variable(service)}
        assert {urlsplit(url).username for url in urls.values()} == {service}
        assert variables.get("SENDERS") == ("named" if service == "invoice" else None)
    passwords = [urlsplit(url).password for url in (stack.rabbitmq_url, stack.postgres_url)]
    told = [url for who in (*SERVICES, OPERATOR) for url in stack.environment_of(who).values()]
    assert not [url for url in told for password in passwords if str(password) in url]


def test_every_service_has_a_database_of_its_own(stack: Stack) -> None:
    found = {psql(stack.service_database_url(service), "SELECT current_database()").strip() for service in SERVICES}
    assert found == set(SERVICES)


def test_durability_is_as_postgresql_ships_it(stack: Stack) -> None:
    shown = psql(
        stack.postgres_url, "SELECT name, setting FROM pg_settings WHERE name ~ '^(fsync|.*_commit|full_page.*)$'"
    )
    assert {"fsync|on", "synchronous_commit|on", "full_page_writes|on"} <= set(shown.split())


def test_everything_private_listens_on_loopback_only(stack: Stack) -> None:
    if stack.kind != "private":
        pytest.skip("Docker's own proxy listens for containers")
    listening: set[tuple[str, int]] = set()
    children = [child for supervisor in _supervisors(psutil.Process()) for child in supervisor.children(recursive=True)]
    for child in children:  # those of every stack of this session, in any order of their supervisors
        with contextlib.suppress(psutil.NoSuchProcess):  # PostgreSQL's workers come and go
            listening |= {
                (connection.laddr[0], connection.laddr[1])
                for connection in child.net_connections("tcp")
                if connection.status == psutil.CONN_LISTEN
            }
    assert {ip for ip, _ in listening} <= {"127.0.0.1", "::1"}  # epmd adds the second loopback address by itself
    assert {_port(stack.rabbitmq_url), _port(stack.postgres_url)} < {port for _, port in listening}
    assert not {4369, 5432, 5672, 25672} & {port for _, port in listening}, "ports of the machine's own servers"


def test_databases_for_isolation_come_and_go(stack: Stack) -> None:
    url = stack.create_database('odd "name"')
    assert psql(url, "SELECT current_database()").strip() == 'odd "name"'
    with pytest.raises(StackError, match="already exists"):
        stack.create_database('odd "name"')
    stack.drop_database('odd "name"')
    stack.drop_database('odd "name"')
    with pytest.raises(StackError, match="does not exist"):
        psql(url, "SELECT 1")


async def test_virtual_hosts_for_isolation_are_usable_at_once(stack: Stack) -> None:
    url = stack.create_vhost("apart")
    async with await aio_pika.connect(url, timeout=10) as connection:
        channel = await connection.channel()
        await channel.declare_queue("work", durable=True, arguments=_QUORUM, timeout=10)
    assert "work" in stack.broker.ctl("list_queues", "--vhost", "apart", "--quiet", "name")
    assert "work" not in stack.broker.ctl("list_queues", "--quiet", "name")
    stack.drop_vhost("apart")


def test_a_failing_rabbitmqctl_shows_the_reason(stack: Stack) -> None:
    with pytest.raises(StackError, match="rabbitmqctl failed with status 64"):
        stack.broker.ctl("no_such_command")


def test_committed_rows_survive_kill_9(stack: Stack) -> None:
    url = stack.create_database("survives")
    psql(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    stack.database.kill()
    assert not accepts_sessions("127.0.0.1", _port(stack.postgres_url))
    stack.database.start()
    assert psql(url, "SELECT answer FROM kept").strip() == "42"
    stack.drop_database("survives")


async def test_confirmed_messages_survive_kill_9(stack: Stack) -> None:
    async with await aio_pika.connect(stack.rabbitmq_url, timeout=10) as connection:
        channel = await connection.channel()
        await channel.declare_queue("kept", durable=True, arguments=_QUORUM, timeout=10)
        message = aio_pika.Message(b"kept", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, "kept", timeout=10)
    stack.broker.kill()
    assert not speaks_amqp("127.0.0.1", _port(stack.rabbitmq_url))
    stack.broker.start()
    async with await aio_pika.connect(stack.rabbitmq_url, timeout=10) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("kept", durable=True, arguments=_QUORUM, timeout=10)
        async with asyncio.timeout(20):  # the queue elects its leader within a second
            while (received := await queue.get(no_ack=True, fail=False, timeout=10)) is None:
                await asyncio.sleep(0.05)
        assert received.body == b"kept"
        await queue.delete(if_unused=False, if_empty=False)


# --- an owner that ends --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Run:
    """A process of `python -m deploy.local` that is ready."""

    owner: psutil.Process
    supervisor: psutil.Process
    servers: list[psutil.Process]
    scratch: Path
    env_file: Path
    variables: Mapping[str, str]

    def is_silent(self) -> bool:
        """Whether its ports no longer answer."""
        broker, database = _port(self.variables[RABBITMQ_VARIABLE]), _port(self.variables[ADMIN_VARIABLE])
        return not speaks_amqp("127.0.0.1", broker) and not accepts_sessions("127.0.0.1", database)


@contextmanager
def _owner(env_file: Path, kind: str = "private") -> Iterator[subprocess.Popen[str]]:
    """A process of `python -m deploy.local` that was just started."""
    with subprocess.Popen(
        (sys.executable, "-m", "deploy.local", "--env-file", env_file),
        cwd=_ROOT,
        env=os.environ | {KIND_VARIABLE: kind},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def _running(folder: Path, kind: str = "private") -> Iterator[_Run]:
    env_file = folder / "stack.env"
    with _owner(env_file, kind) as process:
        _await(lambda: env_file.exists() or process.poll() is not None, "the stack is up", _DEADLINE_S)
        assert process.poll() is None, process.stderr and process.stderr.read()
        words = (shlex.split(line)[1] for line in env_file.read_text().splitlines())
        owner = psutil.Process(process.pid)
        (supervisor,) = _supervisors(owner)
        servers = supervisor.children(recursive=True)
        scratch = Path(supervisor.cmdline()[-1])
        yield _Run(owner, supervisor, servers, scratch, env_file, dict(word.split("=", 1) for word in words))


def test_sigterm_stops_it_cleanly(tmp_path: Path) -> None:
    with _running(tmp_path) as run:
        assert stat.S_IMODE(run.env_file.stat().st_mode) == 0o600, "it holds passwords"
        assert run.variables[database_variable("staff")].endswith("/staff")
        assert psql(run.variables[ADMIN_VARIABLE], "SELECT 1").strip() == "1"
        run.owner.terminate()
        assert run.owner.wait(_DEADLINE_S) == 0
        assert all(map(_gone, [run.supervisor, *run.servers])), "nothing is left when it returns"
        assert not run.scratch.exists()
        assert not run.env_file.exists()


def test_ctrl_c_while_it_starts_leaves_nothing(tmp_path: Path) -> None:
    with _owner(tmp_path / "stack.env") as process:
        owner = psutil.Process(process.pid)

        def is_starting() -> bool:
            return any(_name(child) == "beam.smp" for child in owner.children(recursive=True))

        _await(is_starting, "RabbitMQ starts", _DEADLINE_S)
        (supervisor,) = _supervisors(owner)
        started = supervisor.children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert process.wait(_DEADLINE_S) == 0
        assert all(map(_gone, [supervisor, *started]))
        assert not (tmp_path / "stack.env").exists()


def test_kill_9_of_the_owner_leaves_nothing(tmp_path: Path) -> None:
    with _running(tmp_path) as run:
        names = {process.name() for process in run.servers}
        assert {"postgres", "beam.smp", "epmd"} <= names
        run.owner.kill()
        _await_gone([run.supervisor, *run.servers])
        assert run.is_silent()
        # the start of another stack may have ended the supervisor and be removing the folder, because its owner is dead
        _await(lambda: not run.scratch.exists(), "its folder is removed")


def test_after_kill_9_of_owner_and_supervisor_the_next_start_cleans_up(tmp_path: Path) -> None:
    with _running(tmp_path) as run:
        run.owner.suspend()  # so that it cannot clean up when its supervisor dies first
        run.supervisor.kill()
        run.owner.kill()
        _await_gone([run.supervisor, *run.servers])
        assert run.is_silent()

        def is_cleaned_up() -> bool:
            Scratch.create().release()
            return not run.scratch.exists()

        # not always by the first start: a process that had just begun to be one of its servers may still hold the folder
        _await(is_cleaned_up, "its folder is removed")


def test_kill_9_of_the_owner_leaves_no_container(tmp_path: Path) -> None:
    if not containers.are_available():
        pytest.skip("no Docker engine with the images answers on this machine")
    with _running(tmp_path, "containers") as run:
        assert len(containers.of(run.scratch)) == 2
        run.owner.kill()
        _await_gone([run.supervisor])
        assert containers.of(run.scratch) == []
        assert run.is_silent()
        assert not run.scratch.exists()


# --- the supervisor, with processes that start faster than servers ----------------------------------------------------


@pytest.fixture
def scratch() -> Iterator[Scratch]:
    """A scratch folder with its claims."""
    created = Scratch.create()
    yield created
    created.release()


def _shell(script: str, folder: Path) -> Command:
    return Command(("/bin/sh", "-c", script), _ENVIRONMENT, folder, folder / "log")


def _numbers_in(file: Path) -> list[int]:
    return [int(word) for word in file.read_text().split()] if file.exists() else []


_DAEMON = "setsid sh -c 'setsid sleep 1000 & echo $! >> pids; echo $$ >> pids; sleep 1000' & "
"""A process that makes itself a daemon and leaves another one behind: they share no process group, session or parent."""


@pytest.mark.parametrize("script", [_DAEMON + "exit 0", _DAEMON + "wait"], ids=["parent gone", "parent waits"])
def test_daemons_do_not_escape(scratch: Scratch, script: str) -> None:
    with Processes(scratch.folder, scratch.held_locks) as processes:
        processes.spawn("daemon", _shell(script, scratch.folder))
        _await(lambda: len(_numbers_in(scratch.folder / "pids")) == 2, "both daemons run")
        daemons = [psutil.Process(pid) for pid in _numbers_in(scratch.folder / "pids")]
    assert all(map(_gone, daemons))
    assert not scratch.folder.exists()


def test_kill_ends_one_process_family_and_leaves_the_others(scratch: Scratch) -> None:
    with Processes(scratch.folder, scratch.held_locks) as processes:
        other = psutil.Process(processes.spawn("other", _shell("sleep 1000", scratch.folder)))
        processes.spawn("daemon", _shell(_DAEMON + "wait", scratch.folder))
        _await(lambda: len(_numbers_in(scratch.folder / "pids")) == 2, "both daemons run")
        daemons = [psutil.Process(pid) for pid in _numbers_in(scratch.folder / "pids")]
        processes.kill("daemon")
        assert all(map(_gone, daemons))
        assert not _gone(other)
        processes.kill("daemon")  # killing a process that has ended is no error
    assert _gone(other)


def test_a_failing_process_shows_the_end_of_its_log(scratch: Scratch) -> None:
    with Processes(scratch.folder, scratch.held_locks) as processes:
        with pytest.raises(StackError, match="job failed with status 3: no luck"):
            processes.run("job", _shell("echo no luck >&2; exit 3", scratch.folder), deadline_s=10)
        with pytest.raises(StackError, match="server ended at once: no port"):
            processes.start("server", _shell("echo no port", scratch.folder), lambda: False, deadline_s=10)
        with pytest.raises(StackError, match="did not finish within 0 s"):
            processes.run("slow", _shell("sleep 1000", scratch.folder), deadline_s=0.1)
        with pytest.raises(StackError, match="FileNotFoundError"):
            processes.spawn("missing", Command(("/nowhere",), _ENVIRONMENT, scratch.folder, scratch.folder / "log"))
    with pytest.raises(StackError, match="has been stopped"):
        processes.spawn("late", _shell("true", scratch.folder))


def test_another_postgresql_is_used_if_a_folder_of_it_is_named(
    scratch: Scratch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BINARIES_VARIABLE, str(scratch.folder))
    scratch.folder.chmod(0o755)  # nobody runs it
    with Processes(scratch.folder, scratch.held_locks) as processes:
        with pytest.raises(StackError, match="there is no initdb"):
            PrivatePostgres.open(scratch, processes)
        (scratch.folder / "initdb").write_text("#!/bin/sh\necho that of the folder >&2; exit 3\n")
        (scratch.folder / "initdb").chmod(0o755)
        with pytest.raises(StackError, match="initdb failed with status 3: that of the folder"):
            PrivatePostgres.open(scratch, processes)


def test_a_final_command_runs_after_everything_else(scratch: Scratch, tmp_path: Path) -> None:
    with Processes(scratch.folder, scratch.held_locks) as processes:
        processes.at_the_end(("/bin/sh", "-c", f"echo removed > {tmp_path}/said"))
    assert (tmp_path / "said").read_text() == "removed\n"


# --- side by side --------------------------------------------------------------------------------------------------


def test_two_stacks_share_neither_folder_nor_port() -> None:
    one, other = Scratch.create(), Scratch.create()
    ports = [each.claim_port() for each in (one, other) for _ in range(20)]
    assert len(set(ports)) == len(ports)
    assert one.folder != other.folder
    assert one.folder.exists(), "the second start removed the first one's folder, which is in use"
    one.release()
    other.release()
    Scratch.create().release()
    assert not one.folder.exists()
    assert not other.folder.exists()


def test_an_abandoned_scratch_folder_elsewhere_is_removed(tmp_path: Path) -> None:
    abandoned = Scratch.create(tmp_path)
    os.close(abandoned.held_locks.pop())  # as if its owner had been killed: the claim ends, the link stays
    assert abandoned.folder.parent == tmp_path
    Scratch.create().release()
    assert not abandoned.folder.exists()


def test_a_lock_has_one_holder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    name = "test"
    with (
        exclusive_lock(name, deadline_s=1.0),
        pytest.raises(StackError, match="Another run"),
        exclusive_lock(name, deadline_s=0.1),
    ):
        pass
    with exclusive_lock(name, deadline_s=1.0):
        pass


def test_a_shared_folder_appears_only_when_complete(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def broken(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        shared_folder("programs", broken)
    folder = shared_folder("programs", lambda folder: (folder / "whole").touch())
    assert [path.name for path in folder.iterdir()] == ["whole"]
    assert shared_folder("programs", broken) == folder


# --- installing without starting -----------------------------------------------------------------------------------


@pytest.fixture
def policy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A file in place of Debian's policy-rc.d."""
    path = tmp_path / "policy-rc.d"
    monkeypatch.setattr(debian, "_POLICY", path)
    monkeypatch.setattr(debian, "_SET_ASIDE", tmp_path / "policy-rc.d.set-aside")
    return path


def _install_something(policy: Path) -> None:
    with debian._no_service_starts():
        assert subprocess.run((policy,), check=False).returncode == 101


def test_without_a_policy_before_there_is_none_after(policy: Path) -> None:
    _install_something(policy)
    assert list(policy.parent.iterdir()) == []


def test_the_machines_own_policy_is_put_back(policy: Path) -> None:
    policy.write_text("#!/bin/sh\nexit 0\n")
    policy.chmod(0o750)
    _install_something(policy)
    assert [path.name for path in policy.parent.iterdir()] == ["policy-rc.d"]
    assert policy.read_text() == "#!/bin/sh\nexit 0\n"
    assert stat.S_IMODE(policy.stat().st_mode) == 0o750


def test_the_next_installation_undoes_what_a_killed_one_left(policy: Path) -> None:
    policy.with_name("policy-rc.d.set-aside").write_text("theirs")
    policy.write_text(debian._OURS)
    _install_something(policy)
    assert [path.name for path in policy.parent.iterdir()] == ["policy-rc.d"]
    assert policy.read_text() == "theirs"


def test_without_apt_one_sentence_tells_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KIND_VARIABLE, "private")
    monkeypatch.setattr("deploy.local.rabbitmq._is_installed", lambda: False)
    monkeypatch.setattr(debian, "can_install", lambda: False)
    with pytest.raises(StackError, match="install the package rabbitmq-server"), open_stack(say=_silent):
        pass


# -- data that are kept ----------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(300)  # two brokers, one after the other
def test_kept_data_are_there_the_next_time_with_the_same_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (RABBITMQ_VARIABLE, KIND_VARIABLE, *map(database_variable, SERVICES)):
        monkeypatch.delenv(name, raising=False)
    name = f"test-{uuid.uuid4().hex[:8]}"
    folder: Path | None = None
    passwords = []
    try:
        for opened in (1, 2):
            with open_stack(say=_silent, keep=name) as stack:
                assert isinstance(stack.broker, PrivateRabbit)
                folder = stack.broker.control_program.parents[1]
                passwords.append(stack.passwords)
                url = stack.service_database_url("saga")
                if opened == 1:
                    psql(url, "CREATE TABLE kept (it int); INSERT INTO kept VALUES (42)")
                    stack.create_vhost("kept")
                    with pytest.raises(StackError, match="is used by another run"):
                        Scratch.keep(name)
                assert psql(url, "SELECT it FROM kept").strip() == "42"
                assert "kept" in stack.broker.ctl("list_vhosts", "--silent").split()
    finally:
        if folder is not None:
            shutil.rmtree(folder)
    assert passwords[0] == passwords[1]
