"""Killed at every stage, a run leaves the old rows, and the next one leaves the right ones and nothing else.

Every moment is one that the outside can see (a file that grows, a query that runs), never a time.
"""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import psycopg2
import pytest

from mage_project.lib.settings import PostgresSettings, read_services
from tests.support.faulty_server import Server, serve
from tests.support.months import kept_rows, month_table, write_month
from tests.support.warehouse import (
    Home,
    execute,
    open_folder,
    paragraph,
    query,
    relations,
    running_home,
    scalar,
    session,
    wait_until,
)

pytestmark = pytest.mark.slow

ROWS = 300_000
RUN = ("run", "api_to_postgres", "--date", "2021-01-10", "--var", "color=yellow")
TABLE = "ny_taxi.yellow_cab_data"
COUNT = f"SELECT count(*), round(sum(total_amount)::numeric, 2) FROM {TABLE}"


@pytest.fixture(scope="module")
def big_month(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A publisher of a month that is large enough to be caught loading."""
    folder = tmp_path_factory.mktemp("published")
    write_month(folder, "yellow", rows=ROWS)
    with serve(folder) as server:
        yield server


@pytest.fixture(scope="module")
def home(big_month: Server) -> Iterator[Home]:
    with running_home(TAXI_BASE_URL=big_month.url, SLICE_LOCK_SECONDS="60") as home:
        yield home


@pytest.fixture(scope="module")
def right(home: Home) -> tuple:
    """Load the month once, and give its rows and its money."""
    home.cantrip_json(*RUN)
    found = query(home.server, COUNT)[0]
    assert found[0] == kept_rows(month_table("yellow", rows=ROWS))
    return found


def doing(server: PostgresSettings, what: str, *, waiting: bool = False) -> int | None:
    """Give the backend that runs such a statement now (or waits for a lock with it)."""
    found = query(
        server,
        "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s AND pid <> pg_backend_pid() "
        "AND (NOT %s OR wait_event_type = 'Lock')",
        f"{what}%",
        waiting,
    )
    return found[0][0] if found else None


def kill(run: subprocess.Popen[str]) -> None:
    assert run.poll() is None, f"too late: {run.communicate()}"
    run.kill()
    run.communicate()


def require_right(home: Home, right: tuple) -> None:
    """Run it again: the rows are exact, nothing is left aside, no lock is held, no run stays open."""
    document = home.cantrip_json(*RUN)
    assert (document["state"], document["receipts"][0]["rows"]) == ("done", right[0])
    assert query(home.server, COUNT) == [right]
    assert len(relations(home.server, "ny_taxi")) == 2, relations(home.server, "ny_taxi")
    assert scalar(home.server, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == 0
    assert list(home.settings.staging_folder.rglob("*.part")) == []
    runs = query(home.server, "SELECT DISTINCT status::text FROM pipeline_run", dbname="mage")
    blocks = query(home.server, "SELECT DISTINCT status::text FROM block_run", dbname="mage")
    assert {status for (status,) in runs} <= {"COMPLETED", "FAILED"}
    assert {status for (status,) in blocks} <= {"COMPLETED", "FAILED", "INITIAL"}
    assert home.cantrip("ledger", "--verify").returncode == 0


def test_killed_in_the_download_it_resumes_and_is_right(home: Home, right: tuple, big_month: Server) -> None:
    content = next(big_month.folder.iterdir()).read_bytes()
    with stalling_server(content, after=len(content) // 2) as url:
        stalled = home.with_environment(TAXI_BASE_URL=url)
        run = stalled.begin(*RUN)
        wait_until(lambda: sum(part.stat().st_size for part in stalled.settings.raw_folder.rglob("*.part")), "a part")
        kill(run)
        assert query(home.server, COUNT) == [right]
    require_right(home, right)


@contextmanager
def stalling_server(content: bytes, after: int) -> Iterator[str]:
    """Serve `content` so slowly that it is never whole: it stops in the middle until the end of the test."""
    ended = threading.Event()

    class Stalling(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("ETag", '"half"')
            self.end_headers()
            self.wfile.write(content[:after])
            ended.wait()

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Stalling)
    server.daemon_threads = True
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.02))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()


def staged_part(home: Home) -> bool:
    return any(path.stat().st_size > 1_000_000 for path in home.settings.staging_folder.rglob("*.part"))


MOMENTS: dict[str, Callable[[Home], Any]] = {
    "before its first block": lambda home: scalar_in_mage(
        home, "SELECT count(*) FROM pipeline_run WHERE status = 'INITIAL'"
    ),
    "while it stages": staged_part,
    "between staging and loading": lambda home: list(home.settings.staging_folder.rglob("*.arrow")),
    "with its table aside made": lambda home: len(relations(home.server, "ny_taxi")) > 2,
    "in the middle of the COPY": lambda home: doing(home.server, "COPY"),
}


def scalar_in_mage(home: Home, sql: str) -> Any:
    return query(home.server, sql, dbname="mage")[0][0]


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_anywhere_it_leaves_the_old_rows_and_the_next_run_is_right(
    home: Home, right: tuple, moment: str
) -> None:
    run = home.begin(*RUN)
    wait_until(lambda: MOMENTS[moment](home), moment)
    kill(run)
    assert query(home.server, COUNT) == [right]
    require_right(home, right)


def test_killed_in_the_swap_it_leaves_the_old_rows_and_the_next_run_is_right(home: Home, right: tuple) -> None:
    reader = psycopg2.connect(home.server.url())
    try:
        with reader.cursor() as cursor:
            cursor.execute(COUNT)
            run = home.begin(*RUN)
            wait_until(lambda: doing(home.server, "DROP TABLE", waiting=True), "the swap to wait for the reader")
            kill(run)
    finally:
        reader.close()
    assert query(home.server, COUNT) == [right]
    require_right(home, right)


def test_killed_in_its_very_first_load_it_leaves_no_rows_and_the_next_run_is_right(home: Home, right: tuple) -> None:
    execute(home.server, "DROP SCHEMA ny_taxi CASCADE")
    run = home.begin(*RUN)
    wait_until(lambda: doing(home.server, "COPY"), "the COPY")
    kill(run)
    assert query(home.server, COUNT) == [(0, None)]
    require_right(home, right)


def test_interrupted_it_says_so_closes_its_run_and_the_next_one_is_right(home: Home, right: tuple) -> None:
    run = home.begin(*RUN)
    wait_until(lambda: doing(home.server, "COPY"), "the COPY")
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert "interrupted: the slice that was being written holds what it held before" in errors
    assert "Traceback" not in errors
    assert query(home.server, COUNT) == [right]
    assert len(relations(home.server, "ny_taxi")) == 2
    assert home.cantrip_json("runs")[0]["status"] == "CANCELLED"
    execute_in_mage(home, "UPDATE pipeline_run SET status = 'FAILED' WHERE status = 'CANCELLED'")
    execute_in_mage(home, "UPDATE block_run SET status = 'FAILED' WHERE status = 'CANCELLED'")
    require_right(home, right)


def execute_in_mage(home: Home, sql: str) -> None:
    with session(home.server, "mage") as cursor:
        cursor.execute(sql)


def test_when_the_server_dies_in_the_middle_of_the_copy_up_and_run_mend_it(home: Home, right: tuple) -> None:
    run = home.begin(*RUN)
    wait_until(lambda: doing(home.server, "COPY"), "the COPY")
    data = Path(read_services(home.settings.home)["postgres"]["data"])
    psutil.Process(int((data / "postmaster.pid").read_text().split()[0])).kill()
    out, errors = run.communicate(timeout=120)
    up = home.cantrip("up")
    text = paragraph(subprocess.CompletedProcess([], run.returncode, out, errors))
    assert run.returncode == 1
    assert text.startswith("yellow/2021-01: ")
    assert "refused the load" in text
    assert "The slice holds what it held before" in text
    assert up.returncode == 0, up.stderr
    assert query(home.server, COUNT) == [right]
    require_right(home, right)


# a full disk


@contextmanager
def small_disk(megabytes: int) -> Iterator[Path]:
    with open_folder() as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=755", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("a small file system can't be mounted here (it takes root)")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def on_server(home: Home, server: PostgresSettings) -> Home:
    """Give the home with a server that isn't its own."""
    return home.with_environment(
        POSTGRES_HOST=server.host,
        POSTGRES_PORT=str(server.port),
        POSTGRES_DBNAME=server.dbname,
        POSTGRES_USER=server.user,
        POSTGRES_PASSWORD=server.password,
    )


@pytest.mark.parametrize(
    ("megabytes", "said"),
    [(4, "can't keep"), (30, "can't stage rows")],
    ids=["in the download", "while staging"],
)
def test_a_full_disk_is_one_paragraph_and_changes_nothing(home: Home, right: tuple, megabytes: int, said: str) -> None:
    server = home.server
    with small_disk(megabytes) as folder:
        small = on_server(Home(folder / "home", TAXI_BASE_URL=home.environment["TAXI_BASE_URL"]), server)
        done = small.cantrip(*RUN)
        text = paragraph(done)
        assert done.returncode == 1
        assert said in text
        assert "No space left on device" in text
        assert "Free some space" in text
        assert list(small.settings.staging_folder.rglob("*.part")) == []
    assert query(server, COUNT) == [right]
    require_right(home, right)


def test_a_full_disk_of_the_server_is_named_and_the_run_after_it_is_right(
    big_month: Server, right: tuple, tmp_path: Path
) -> None:
    with small_disk(250) as folder:
        theirs = Home(folder / "home")
        theirs.folder.mkdir()
        assert theirs.cantrip("up").returncode == 0
        try:
            client = on_server(Home(tmp_path, TAXI_BASE_URL=big_month.url), theirs.server)
            client.cantrip_json("run", "postgres_connection_test")  # makes Mage's tables
            filler = folder / "filler"
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(folder).free - 20_000_000)
            done = client.cantrip(*RUN)
            assert done.returncode == 1, done.stdout
            text = paragraph(done)
            assert "refused the load: the server's disk is full; free some space there" in text
            assert query(theirs.server, COUNT) == [(0, None)]
            filler.unlink()
            require_right(client, right)
        finally:
            theirs.cantrip("down")
