"""Downloads arrive whole or not at all, cost nothing the second time, and never show a secret."""

import hashlib
import json
import random
import resource
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests

from mage_project.lib.errors import CantripError, NotPublishedError, SinkError, SourceError
from mage_project.lib.http import CHUNK_BYTES, Download, download, without_secrets
from mage_project.lib.settings import HttpSettings
from tests.support.faulty_server import ALWAYS, Server, serve

CONTENT = random.Random(0).randbytes(300_000)
NAME = "/green_tripdata_2021-02.parquet"
QUICK = HttpSettings(connect_seconds=5, read_seconds=5, attempts=4)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / NAME[1:]).write_bytes(CONTENT)
    with serve(folder) as running:
        yield running


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """No waiting between attempts; gives how long each wait would have been, in seconds."""
    planned: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=planned.append))
    return planned


NAMES = {"what": "green 2021-02", "setting": "TAXI_BASE_URL"}


def fetch(server: Server, tmp_path: Path, name: str = NAME, http: HttpSettings = QUICK, **options: bool) -> Download:
    return download(f"{server.url}{name}", tmp_path / "raw", http, **NAMES, **options)


def files_of(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "raw").rglob("*") if path.is_file() and path.suffix != ".lock")


def test_a_file_arrives_with_its_bytes_its_etag_and_its_size(server: Server, tmp_path: Path) -> None:
    found = fetch(server, tmp_path)
    assert found.path.read_bytes() == CONTENT
    assert found.etag == f'"{hashlib.md5(CONTENT).hexdigest()}"'
    assert (found.size, found.bytes_fetched, found.url) == (len(CONTENT), len(CONTENT), f"{server.url}{NAME}")
    assert files_of(tmp_path) == ["copy.json", NAME[1:]]


def test_the_second_time_nothing_is_downloaded(server: Server, tmp_path: Path) -> None:
    first = fetch(server, tmp_path)
    second = fetch(server, tmp_path)
    assert [request.bytes_sent for request in server.requests] == [len(CONTENT), 0]
    assert server.requests[1].headers["If-None-Match"] == first.etag
    assert (second.path, second.bytes_fetched, second.size) == (first.path, 0, len(CONTENT))


def test_refresh_fetches_again(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    assert fetch(server, tmp_path, refresh=True).bytes_fetched == len(CONTENT)
    assert [request.bytes_sent for request in server.requests] == [len(CONTENT)] * 2


def test_a_refresh_that_fails_leaves_the_old_file_for_who_is_reading_it(server: Server, tmp_path: Path) -> None:
    first = fetch(server, tmp_path)
    server.fault(NAME, "status", times=ALWAYS, code=404)
    with pytest.raises(NotPublishedError):
        fetch(server, tmp_path, refresh=True)
    assert first.path.read_bytes() == CONTENT


def test_a_file_that_changed_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path)
    (server.folder / NAME[1:]).write_bytes(CONTENT[::-1])
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT[::-1]


def test_a_copy_that_was_damaged_on_disk_is_fetched_anew(server: Server, tmp_path: Path) -> None:
    fetch(server, tmp_path).path.write_bytes(CONTENT[:-1])
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT


def test_a_cut_body_is_resumed_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.fault(NAME, "cut_body", after=2 * CHUNK_BYTES)
    server.fault(NAME, "cut_body", after=CHUNK_BYTES)
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT
    arrived = [0, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES]
    assert [request.bytes_sent for request in server.requests] == [
        *arrived[1:2],
        CHUNK_BYTES,
        len(CONTENT) - arrived[2],
    ]
    asked = [request.headers.get("Range") for request in server.requests]
    assert asked == [None, f"bytes={arrived[1]}-", f"bytes={arrived[2]}-"]
    assert files_of(tmp_path) == ["copy.json", NAME[1:]]


def test_a_later_run_resumes_what_an_earlier_one_could_not_finish(server: Server, tmp_path: Path) -> None:
    server.fault(NAME, "cut_body", after=3 * CHUNK_BYTES)
    server.fault(NAME, "status", times=3, code=503)
    with pytest.raises(SourceError, match="what arrived is kept and resumed"):
        fetch(server, tmp_path)
    found = fetch(server, tmp_path)
    assert (found.path.read_bytes(), found.bytes_fetched) == (CONTENT, len(CONTENT) - 3 * CHUNK_BYTES)


def test_a_part_of_a_file_that_changed_since_is_not_continued(server: Server, tmp_path: Path) -> None:
    server.fault(NAME, "cut_body", after=3 * CHUNK_BYTES)
    server.fault(NAME, "status", times=3, code=503)
    with pytest.raises(SourceError):
        fetch(server, tmp_path)
    (server.folder / NAME[1:]).write_bytes(CONTENT[::-1])
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT[::-1]


def test_a_part_that_is_already_whole_starts_over(server: Server, tmp_path: Path) -> None:
    found = fetch(server, tmp_path)  # then the process dies between the last byte and the renaming
    found.path.rename(found.path.with_name(f"{found.path.name}.part"))
    (found.path.parent / "copy.json").unlink()
    (found.path.parent / "part.json").write_text(json.dumps({"etag": found.etag}))
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT
    assert [request.bytes_sent for request in server.requests] == [len(CONTENT), 0, len(CONTENT)]


def test_a_server_that_continues_somewhere_else_is_asked_for_the_whole_again(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = requests.get

    def ask_a_liar(*args: Any, **options: Any) -> requests.Response:
        response = ask(*args, **options)
        if response.status_code == 206:
            response.headers["Content-Range"] = f"bytes 7-{len(CONTENT) - 1}/{len(CONTENT)}"
        return response

    monkeypatch.setattr(requests, "get", ask_a_liar)
    server.fault(NAME, "cut_body", after=CHUNK_BYTES)
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT
    assert [request.headers.get("Range") for request in server.requests] == [None, f"bytes={CHUNK_BYTES}-", None]


@pytest.mark.parametrize("lack", ["no_range", "no_etag"])
def test_a_server_that_can_not_resume_is_asked_for_the_whole_again(lack: str, server: Server, tmp_path: Path) -> None:
    server.fault(NAME, lack, times=ALWAYS)
    server.fault(NAME, "cut_body", after=CHUNK_BYTES)
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT
    assert [request.bytes_sent for request in server.requests] == [CHUNK_BYTES, len(CONTENT)]


def test_without_an_etag_the_file_is_fetched_each_time(server: Server, tmp_path: Path) -> None:
    server.fault(NAME, "no_etag", times=ALWAYS)
    for _ in range(2):
        assert fetch(server, tmp_path).bytes_fetched == len(CONTENT)


def test_a_date_is_as_good_as_an_etag(server: Server, tmp_path: Path) -> None:
    found = fetch(server, tmp_path)
    facts = {"etag": "Wed, 01 Sep 2021 08:00:00 GMT", "size": len(CONTENT)}  # as a server without ETags says it
    (found.path.parent / "copy.json").write_text(json.dumps(facts))
    fetch(server, tmp_path)
    assert server.requests[-1].headers["If-Modified-Since"] == facts["etag"]
    assert "If-None-Match" not in server.requests[-1].headers


def test_retry_after_is_honoured(server: Server, tmp_path: Path, waits: list[float]) -> None:
    server.fault(NAME, "status", code=429, headers={"Retry-After": "7"})
    server.fault(NAME, "status", code=503, headers={"Retry-After": "100000"})
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT
    assert waits == [7.0, 300.0]  # five minutes at most


@pytest.mark.parametrize("code", [408, 425, 429, 500, 502, 503, 504])
def test_a_passing_trouble_is_tried_again(code: int, server: Server, tmp_path: Path) -> None:
    server.fault(NAME, "status", times=2, code=code)
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT
    assert len(server.requests) == 3


@pytest.mark.parametrize("kind", ["reset", "short_body"])
def test_a_lost_connection_is_tried_again(kind: str, server: Server, tmp_path: Path) -> None:
    server.fault(NAME, kind, times=2)
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT


def test_attempts_that_are_used_up_say_the_last_reason_and_what_to_do(server: Server, tmp_path: Path) -> None:
    server.fault(NAME, "status", times=ALWAYS, code=500)
    with pytest.raises(SourceError, match=r"green 2021-02: .* in 4 attempts; the last one: the server answers 500"):
        fetch(server, tmp_path)
    assert len(server.requests) == QUICK.attempts
    assert files_of(tmp_path) == []


def test_a_body_that_stays_shorter_than_its_length_is_never_kept(server: Server, tmp_path: Path) -> None:
    server.fault(NAME, "no_range", times=ALWAYS)
    server.fault(NAME, "short_body", times=ALWAYS)
    with pytest.raises(SourceError, match="4 attempts"):
        fetch(server, tmp_path)
    assert NAME[1:] not in files_of(tmp_path)


@pytest.mark.parametrize("code", [403, 404])
def test_a_month_that_is_not_there_is_not_published_and_asked_for_once(
    code: int, server: Server, tmp_path: Path
) -> None:
    server.fault(NAME, "status", code=code)
    with pytest.raises(NotPublishedError, match=rf"green 2021-02: not published: .* answers {code}.*--date"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [400, 401, 410])
def test_a_refusal_is_not_tried_again(code: int, server: Server, tmp_path: Path) -> None:
    server.fault(NAME, "status", times=ALWAYS, code=code)
    with pytest.raises(SourceError, match=rf"answers {code} .*TAXI_BASE_URL"):
        fetch(server, tmp_path)
    assert len(server.requests) == 1


def test_a_server_that_is_not_there_is_a_source_error(tmp_path: Path) -> None:
    with serve() as gone:
        url = gone.url
    with pytest.raises(SourceError, match=r"green 2021-02: .*refused.*Nothing was loaded"):
        download(f"{url}/x", tmp_path, QUICK, **NAMES)


def test_a_server_that_says_nothing_is_given_up_after_the_read_time_out(server: Server, tmp_path: Path) -> None:
    server.fault(NAME, "slow", times=ALWAYS, seconds=0.2)
    impatient = HttpSettings(connect_seconds=5, read_seconds=0.02, attempts=2)
    with pytest.raises(SourceError, match=r"timed out"):
        fetch(server, tmp_path, http=impatient)


@pytest.mark.parametrize(
    "secret_url", ["http://user:hunter2@{host}{name}?apiKey=hunter2", "hunter2://{host}?k=hunter2"]
)
def test_no_message_shows_what_is_secret_in_a_url(secret_url: str, server: Server, tmp_path: Path) -> None:
    server.fault(NAME, "status", times=ALWAYS, code=404)
    url = secret_url.format(host=server.url.removeprefix("http://"), name=NAME)
    with pytest.raises(CantripError) as caught:
        download(url, tmp_path, QUICK, **NAMES)
    assert "hunter2" not in str(caught.value).replace("hunter2://", "")


@pytest.mark.parametrize(
    "trouble", [{"kind": "reset"}, {"kind": "status", "code": 500}, {"kind": "status", "code": 400}]
)
def test_no_failure_of_the_server_shows_the_key(trouble: dict, server: Server, tmp_path: Path) -> None:
    server.fault(NAME, times=ALWAYS, **trouble)
    with pytest.raises(SourceError) as caught:
        fetch(server, tmp_path, f"{NAME}?apiKey=hunter2")
    assert "hunter2" not in str(caught.value)


def test_a_url_is_shown_without_credentials_and_query() -> None:
    assert without_secrets("https://u:p@host:8443/a/b.csv?key=k#f") == "https://host:8443/a/b.csv"
    assert without_secrets("https://u:p%40x@host/a") == "https://host/a"


def test_two_urls_that_differ_in_their_query_are_two_files(server: Server, tmp_path: Path) -> None:
    assert fetch(server, tmp_path, f"{NAME}?v=1").path != fetch(server, tmp_path, f"{NAME}?v=2").path


def test_downloads_of_one_url_at_once_do_not_mix(server: Server, tmp_path: Path) -> None:
    server.fault(NAME, "slow", times=ALWAYS, seconds=0.01)
    server.fault(NAME, "cut_body", times=2, after=CHUNK_BYTES)
    found: list[Download] = []
    threads = [threading.Thread(target=lambda: found.append(fetch(server, tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each.path.read_bytes() == CONTENT for each in found] == [True] * 4
    assert sum(request.bytes_sent for request in server.requests) == len(CONTENT)
    assert sum(each.bytes_fetched > 0 for each in found) == 1


def test_a_full_disk_is_one_paragraph_with_a_remedy(server: Server, tmp_path: Path) -> None:
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(SinkError, match=r"green 2021-02: can't keep .*cantrip clean.*CANTRIP_HOME"):
            fetch(server, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert NAME[1:] not in files_of(tmp_path)
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT


def test_a_folder_that_can_not_be_written_is_one_paragraph(server: Server, tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("a file where the folder should be")
    with pytest.raises(SinkError, match=r"can't keep .*Not a directory|can't keep .*File exists"):
        fetch(server, tmp_path)


def test_what_clean_removes_is_fetched_again(server: Server, tmp_path: Path) -> None:
    shutil.rmtree(fetch(server, tmp_path).path.parent)
    assert fetch(server, tmp_path).path.read_bytes() == CONTENT
