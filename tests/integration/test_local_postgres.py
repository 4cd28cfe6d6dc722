"""The embedded PostgreSQL through starts, kills, taken ports and wrong addresses."""

import json
import logging
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from mage_project.lib.errors import CantripError, ConfigurationError, SinkError
from mage_project.lib.local import postgres
from mage_project.lib.local.state import free_port
from mage_project.lib.settings import ROOT, PostgresSettings, load_settings, read_services
from mage_project.lib.sinks.postgres_server import engine_for
from tests.support.warehouse import (
    Background,
    Home,
    execute,
    open_folder,
    paragraph,
    query,
    running_home,
    scalar,
    stop_services,
    wait_until,
)

AS_ROOT = os.geteuid() == 0


@pytest.fixture(scope="module")
def own() -> Iterator[Home]:
    """A home whose server these tests stop, kill and start again."""
    with running_home() as home:
        yield home


@pytest.fixture
def running(own: Home) -> Home:
    """The same, running."""
    postgres.start(own.settings)
    return own


def pid_file(home: Home) -> Path:
    return Path(read_services(home.settings.home)["postgres"]["data"]) / "postmaster.pid"


def postmaster(home: Home) -> psutil.Process:
    return psutil.Process(int(pid_file(home).read_text().split()[0]))


def kill(home: Home) -> None:
    process = postmaster(home)
    process.kill()
    process.wait(30)


@contextmanager
def listener(port: int = 0) -> Iterator[int]:
    """Another program on a port."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        yield taken.getsockname()[1]


def test_starting_twice_changes_nothing(running: Home) -> None:
    first, process = postgres.start(running.settings), postmaster(running)
    assert postgres.start(running.settings) == first
    assert postmaster(running) == process


def test_a_stopped_server_keeps_its_port_its_password_and_its_data(running: Home) -> None:
    execute(running.server, "CREATE TABLE kept_by_stop AS SELECT 42 AS n")
    before = running.server
    assert postgres.is_running(running.settings)
    assert postgres.stop(running.settings)
    assert not postgres.is_running(running.settings)
    assert not postgres.stop(running.settings)
    postgres.start(running.settings)
    assert running.server == before
    assert scalar(running.server, "SELECT n FROM kept_by_stop") == 42


def test_the_password_is_readable_by_its_owner_only(running: Home) -> None:
    assert stat.S_IMODE(running.settings.services_file.stat().st_mode) == 0o600
    assert not list(pid_file(running).parents[1].glob("password*"))


def test_the_server_asks_for_the_password(running: Home) -> None:
    with pytest.raises(ConfigurationError, match="refuses the password of user 'cantrip'"):
        engine_for(PostgresSettings("127.0.0.1", running.server.port, "cantrip", "cantrip", "wrong"))


def test_after_a_kill_it_starts_again_and_has_its_data(running: Home, caplog: pytest.LogCaptureFixture) -> None:
    execute(running.server, "CREATE TABLE kept_by_kill AS SELECT generate_series(1, 1000) AS n")
    kill(running)
    assert pid_file(running).exists()
    assert not postgres.is_running(running.settings)
    postgres.start(running.settings)
    assert "PostgreSQL was killed before; it recovers now" in caplog.text
    assert scalar(running.server, "SELECT sum(n) FROM kept_by_kill") == 500500


def test_a_stale_pid_that_another_program_has_now_does_not_pass_for_the_server(running: Home) -> None:
    stale = pid_file(running).read_text()
    postgres.stop(running.settings)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    try:
        pid_file(running).write_text(stale.replace(stale.split()[0], str(other.pid), 1))
        assert not postgres.is_running(running.settings)
        assert not postgres.stop(running.settings)
        postgres.start(running.settings)
        assert other.poll() is None
        assert postmaster(running).pid != other.pid
        assert scalar(running.server, "SELECT 1") == 1
    finally:
        other.kill()
        other.wait()


def test_a_home_named_by_a_symbolic_link_is_the_same_server(running: Home, tmp_path: Path) -> None:
    """Two servers over one data folder would destroy it."""
    process = postmaster(running)
    link = tmp_path / "link"
    link.symlink_to(running.folder)
    linked = Home(link)
    assert postgres.is_running(linked.settings)
    assert postgres.start(linked.settings)["port"] == running.server.port
    assert postmaster(running) == process


def test_when_its_port_was_taken_it_chooses_another_and_says_so(
    running: Home, caplog: pytest.LogCaptureFixture
) -> None:
    before = running.server.port
    postgres.stop(running.settings)
    with listener(before):
        postgres.start(running.settings)
        assert running.server.port != before
        assert f"port {before} is in use by another program; PostgreSQL now listens on {running.server.port}" in (
            caplog.text
        )
        assert scalar(running.server, "SELECT 1") == 1


def test_a_port_that_is_asked_for_and_taken_is_an_error_that_says_what_to_do(running: Home) -> None:
    postgres.stop(running.settings)
    with listener() as taken:
        done = running.with_environment(POSTGRES_PORT=str(taken)).cantrip("up")
    assert done.returncode == 2
    text = paragraph(done)
    assert f"port {taken} of 127.0.0.1, which POSTGRES_PORT asks for, is in use" in text
    assert "Unset POSTGRES_PORT" in text
    assert not postgres.is_running(running.settings)


def test_a_free_port_that_is_asked_for_is_taken(running: Home) -> None:
    postgres.stop(running.settings)
    wanted = free_port()
    postgres.start(running.with_environment(POSTGRES_PORT=str(wanted)).settings)
    assert running.server.port == wanted


def test_data_without_its_password_is_an_error_and_is_left_alone(running: Home) -> None:
    postgres.stop(running.settings)
    services = running.settings.services_file
    kept = services.read_text()
    services.unlink()
    try:
        with pytest.raises(CantripError, match="its password is not in") as refused:
            postgres.start(running.settings)
        assert "Put that file back" in str(refused.value)
    finally:
        services.write_text(kept)
    assert scalar_after_start(running) == 1


def scalar_after_start(home: Home) -> int:
    postgres.start(home.settings)
    return scalar(home.server, "SELECT 1")


def test_services_that_cannot_be_read_are_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "services.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"services\.json can't be read"):
        load_settings({"CANTRIP_HOME": str(tmp_path)})


def test_a_home_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = Home(tmp_path / "file" / "home").cantrip("up")
    assert done.returncode == 2
    assert str(tmp_path / "file" / "home") in paragraph(done)


# a server of the user's own


def test_a_host_in_the_environment_wins_over_the_embedded_server(running: Home, tmp_path: Path) -> None:
    server = running.server
    theirs = Home(
        tmp_path / "home",
        POSTGRES_HOST=server.host,
        POSTGRES_PORT=str(server.port),
        POSTGRES_USER=server.user,
        POSTGRES_PASSWORD=server.password,
        POSTGRES_DBNAME="made_when_missing",
    )
    done = theirs.cantrip("up")
    stop_services(theirs)
    assert done.returncode == 0, done.stderr
    assert "yours (POSTGRES_HOST)" in done.stdout
    assert server.password not in done.stdout
    assert not (tmp_path / "home" / "postgres").exists()
    assert scalar(theirs.server, "SELECT current_database()") == "made_when_missing"
    assert query(server, "SELECT 1 FROM pg_database WHERE datname = 'mage'") == [(1,)]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"POSTGRES_PASSWORD": "secret-but-wrong"}, 2, "refuses the password of user 'cantrip'"),
        ({"POSTGRES_USER": "nobody-we-know"}, 2, "'nobody-we-know'"),
        ({"POSTGRES_PORT": "closed"}, 1, "can't be reached: "),
        ({"POSTGRES_HOST": "no-such-host.invalid"}, 1, "can't be reached: "),
    ],
    ids=["wrong password", "wrong user", "nobody listens", "no such host"],
)
def test_a_server_that_cannot_be_used_is_one_paragraph_without_the_password(
    running: Home, tmp_path: Path, change: dict[str, str], code: int, said: str
) -> None:
    server = running.server
    values = {
        "POSTGRES_HOST": server.host,
        "POSTGRES_PORT": str(server.port),
        "POSTGRES_USER": server.user,
        "POSTGRES_PASSWORD": server.password,
        "POSTGRES_DBNAME": "cantrip",
        **change,
    }
    if values["POSTGRES_PORT"] == "closed":
        values["POSTGRES_PORT"] = str(free_port())
    for arguments in (["up"], ["run", "api_to_postgres", "--date", "2021-01-10"], ["ledger"], ["runs"]):
        done = Home(tmp_path, **values).cantrip(*arguments)
        text = paragraph(done)
        assert done.returncode == code, (arguments, text)
        assert said in text, arguments
        assert "POSTGRES_" in text
        assert values["POSTGRES_PASSWORD"] not in done.stdout + done.stderr


def test_a_host_without_a_user_names_the_variables(tmp_path: Path) -> None:
    done = Home(tmp_path, POSTGRES_HOST="127.0.0.1").cantrip("status")
    assert done.returncode == 2
    assert "POSTGRES_USER and POSTGRES_PASSWORD and POSTGRES_DBNAME" in paragraph(done)


def test_a_missing_database_is_made_and_two_at_once_do_not_clash(running: Home) -> None:
    server = running.server
    made = PostgresSettings(server.host, server.port, 'od"d %s :x', server.user, server.password)
    for engine in [Background(engine_for, made) for _ in range(2)]:
        engine.result().dispose()
    assert scalar(made, "SELECT current_database()") == 'od"d %s :x'


def test_a_missing_database_that_may_not_be_made_says_so(running: Home) -> None:
    execute(running.server, "CREATE ROLE guest LOGIN PASSWORD 'guest'")
    guest = PostgresSettings("127.0.0.1", running.server.port, "not_there", "guest", "guest")
    with pytest.raises(SinkError, match="user 'guest' may not create it") as refused:
        engine_for(guest)
    assert "check POSTGRES_DBNAME" in str(refused.value)


# who runs it


@pytest.mark.skipif(not AS_ROOT, reason="only root has to give the server another user")
def test_root_with_a_home_that_others_cannot_enter_keeps_its_data_elsewhere(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    home = Home(tmp_path / "home")
    home.folder.mkdir()
    facts = postgres.start(home.settings)
    try:
        assert Path(facts["data"]).parents[1] == Path("/var/lib/cantrip")
        engine_for(home.server).dispose()
        execute(home.server, "CREATE TABLE kept AS SELECT 7 AS n")
        assert postgres.stop(home.settings)
        assert postgres.start(home.settings)["port"] == facts["port"]
        assert scalar(home.server, "SELECT n FROM kept") == 7
        assert psutil.Process(int((Path(facts["data"]) / "postmaster.pid").read_text().split()[0])).username() == (
            "nobody"
        )
    finally:
        postgres.stop(home.settings)
        shutil.rmtree(Path(facts["data"]).parent)


@pytest.mark.skipif(not AS_ROOT, reason="the suite runs as a plain user already")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv (util-linux) is not on this machine")
def test_a_plain_user_has_a_server_of_their_own() -> None:
    """CAP_DAC_READ_SEARCH lets the user read this interpreter, wherever root has put it; it is no root."""
    nobody = ["--reuid=nobody", f"--regid={pwd.getpwnam('nobody').pw_gid}", "--clear-groups"]
    reading = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    with open_folder() as folder:
        home = Home(folder / "home")
        home.folder.mkdir()
        home.folder.chmod(0o777)

        def cantrip(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = ["setpriv", *nobody, *reading, "--", *home.command(*arguments)]
            environment = {**home.child_environment(), "HOME": str(home.folder), "PYTHONDONTWRITEBYTECODE": "1"}
            return subprocess.run(
                command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
            )

        up = cantrip("up")
        try:
            assert up.returncode == 0, up.stderr
            assert cantrip("up").returncode == 0
            process = postmaster(home)
            assert process.username() == "nobody"
            assert Path(pid_file(home)).is_relative_to(home.folder)
            assert json.loads(cantrip("status", "--json").stdout)["postgres"]["running"]
            assert scalar(home.server, "SELECT 1") == 1
            process.send_signal(signal.SIGKILL)
            wait_until(lambda: not process.is_running(), "the server's end")
            assert cantrip("up").returncode == 0
            assert scalar(home.server, "SELECT 1") == 1
            assert cantrip("down").returncode == 0
        finally:
            cantrip("down")


def test_a_start_that_fails_shows_the_end_of_the_servers_log(running: Home, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    postgres.stop(running.settings)
    configuration = pid_file(running).parent / "postgresql.conf"
    kept = configuration.read_text()
    try:
        configuration.write_text(kept + "\nshared_buffers = 'much'\n")
        with pytest.raises(CantripError, match="shared_buffers") as failed:
            postgres.start(running.settings)
        assert "The whole log is" in str(failed.value)
    finally:
        configuration.write_text(kept)
    assert scalar_after_start(running) == 1
