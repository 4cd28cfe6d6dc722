"""The offline taxi source as a real process: it behaves as the publisher's server does."""

import gzip
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import requests

from mage_project.lib.errors import CantripError
from mage_project.lib.local import sources
from mage_project.lib.settings import ROOT

ROWS = 2000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("source")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[dict]:
    running = sources.start(folder, ROWS, 7, folder)
    yield running
    sources.stop(running)


def get(service: dict, name: str, **headers: str) -> requests.Response:
    return requests.get(f"{service['base_url']}/{name}", headers=headers, timeout=30)


def test_a_started_source_says_where_it_is_and_is_healthy(service: dict) -> None:
    assert service["base_url"] == f"http://127.0.0.1:{service['port']}/generated/trip-data"
    assert service["rows"] == ROWS
    assert sources.is_running(service)
    health = requests.get(f"http://127.0.0.1:{service['port']}/health", timeout=5)
    assert (health.status_code, health.text) == (200, "ok")


def test_a_month_arrives_with_length_etag_and_ranges_and_is_not_encoded(service: dict) -> None:
    answer = get(service, "green_tripdata_2021-02.parquet")
    assert answer.status_code == 200
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    assert answer.headers["Accept-Ranges"] == "bytes"
    assert answer.headers["ETag"]
    assert "Content-Encoding" not in answer.headers
    table = pq.read_table(io.BytesIO(answer.content))
    assert table.num_rows == ROWS
    assert "lpep_pickup_datetime" in table.column_names


def test_plain_and_compressed_csv_hold_the_same_text_still_compressed_on_arrival(service: dict) -> None:
    plain = get(service, "yellow_tripdata_2021-01.csv")
    packed = get(service, "yellow_tripdata_2021-01.csv.gz")
    assert "Content-Encoding" not in packed.headers
    assert gzip.decompress(packed.content) == plain.content
    assert plain.text.count("\n") == ROWS + 1


def test_a_range_continues_a_file_unless_it_is_of_another_version(service: dict) -> None:
    name = "yellow_tripdata_2021-01.parquet"
    whole = get(service, name)
    rest = get(service, name, **{"Range": "bytes=1000-", "If-Range": whole.headers["ETag"]})
    assert rest.status_code == 206
    assert rest.headers["ETag"] == whole.headers["ETag"]
    assert rest.headers["Content-Range"] == f"bytes 1000-{len(whole.content) - 1}/{len(whole.content)}"
    assert rest.content == whole.content[1000:]
    changed = get(service, name, **{"Range": "bytes=1000-", "If-Range": '"another"'})
    assert (changed.status_code, changed.content) == (200, whole.content)


def test_who_has_the_file_gets_304(service: dict) -> None:
    name = "yellow_tripdata_2021-01.parquet"
    etag = get(service, name).headers["ETag"]
    again = get(service, name, **{"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


def test_head_tells_the_length_without_the_body(service: dict) -> None:
    url = f"{service['base_url']}/yellow_tripdata_2021-01.parquet"
    head = requests.head(url, timeout=30)
    assert head.headers["Content-Length"] == str(len(requests.get(url, timeout=30).content))
    assert head.content == b""


@pytest.mark.parametrize("month", [f"{date.today().year + 1}-01", "2008-12"])
def test_a_month_that_is_not_published_is_403_with_xml(service: dict, month: str) -> None:
    answer = get(service, f"yellow_tripdata_{month}.parquet")
    assert answer.status_code == 403
    assert answer.headers["Content-Type"] == "application/xml"
    assert "<Code>AccessDenied</Code>" in answer.text


@pytest.mark.parametrize(
    "name",
    [
        "purple_tripdata_2021-01.parquet",
        "yellow_tripdata_2021-13.parquet",
        "yellow_tripdata_2021-01.orc",
        "..%2Fsource.log",
        "taxi_zone_lookup.csv",
    ],
)
def test_another_name_is_404(service: dict, name: str) -> None:
    assert get(service, name).status_code == 404


def test_the_zones_are_served(service: dict) -> None:
    answer = requests.get(service["zones_url"], timeout=30)
    assert answer.status_code == 200
    assert len(answer.text.splitlines()) == 266


def test_requests_at_once_for_one_month_generate_it_once(service: dict, folder: Path) -> None:
    name = "yellow_tripdata_2019-06.csv.gz"
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: get(service, name), range(6)))
    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.content for answer in answers}) == 1
    assert len(re.findall(f"made {name}", (folder / "source.log").read_text())) == 1
    assert list(folder.rglob("*.part")) == []


def test_it_answers_while_it_generates(tmp_path: Path) -> None:
    running = sources.start(tmp_path, 1_000_000, 0, tmp_path)
    try:
        with ThreadPoolExecutor(1) as pool:
            month = pool.submit(get, running, "yellow_tripdata_2021-01.csv.gz")
            answered = 0
            while not month.done():
                assert requests.get(f"http://127.0.0.1:{running['port']}/health", timeout=2).text == "ok"
                answered += 1
                time.sleep(0.02)
        assert month.result().status_code == 200
        assert answered > 5
    finally:
        sources.stop(running)


def test_other_rows_or_another_seed_in_one_folder_give_another_etag(service: dict, folder: Path) -> None:
    name = "yellow_tripdata_2021-01.parquet"
    first = get(service, name)
    other = sources.start(folder, ROWS, 8, folder)
    try:
        assert get(other, name).headers["ETag"] != first.headers["ETag"]
    finally:
        sources.stop(other)
    assert get(service, name).headers["ETag"] == first.headers["ETag"]


def test_a_restart_serves_the_same_file_under_the_same_etag(tmp_path: Path) -> None:
    etags = []
    for _ in range(2):
        running = sources.start(tmp_path, 500, 0, tmp_path)
        etags.append(get(running, "green_tripdata_2021-02.csv").headers["ETag"])
        sources.stop(running)
    assert etags[0] == etags[1]
    assert (tmp_path / "source.log").read_text().count("made green") == 1


def test_a_file_removed_while_it_runs_is_made_again(tmp_path: Path) -> None:
    running = sources.start(tmp_path, 500, 0, tmp_path)
    try:
        first = get(running, "green_tripdata_2021-02.csv")
        next(tmp_path.rglob("green_tripdata_2021-02.csv")).unlink()
        again = get(running, "green_tripdata_2021-02.csv")
    finally:
        sources.stop(running)
    assert (again.content, again.headers["ETag"]) == (first.content, first.headers["ETag"])


def test_two_on_one_port_get_two_ports_and_a_stopped_one_keeps_its_port(tmp_path: Path) -> None:
    first = sources.start(tmp_path, 100, 0, tmp_path)
    second = sources.start(tmp_path, 100, 0, tmp_path, port=first["port"])
    assert first["port"] != second["port"]
    assert sources.is_running(first)
    sources.stop(first)
    again = sources.start(tmp_path, 100, 0, tmp_path, port=first["port"])
    assert again["port"] == first["port"]
    for running in (second, again):
        sources.stop(running)
        assert not sources.is_running(running)
        assert not psutil.pid_exists(running["pid"])


def test_stopping_ends_cleanly_and_stopping_twice_is_harmless(tmp_path: Path) -> None:
    running = sources.start(tmp_path, 100, 0, tmp_path)
    sources.stop(running)
    sources.stop(running)
    log = (tmp_path / "source.log").read_text()
    assert log.rstrip().endswith("stopped")
    assert "Traceback" not in log


def test_a_process_number_taken_over_by_another_program_is_left_alone() -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        service = {"pid": other.pid, "port": 1}
        assert not sources.is_running(service)
        sources.stop(service)
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_source_that_dies_at_the_start_is_an_error_naming_the_log(
    service: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "free_port", lambda: service["port"])  # lost to another meanwhile
    with pytest.raises(CantripError, match=re.escape(str(tmp_path / "source.log"))):
        sources.start(tmp_path, 100, 0, tmp_path)
    assert "Address already in use" in (tmp_path / "source.log").read_text()


def test_the_server_outlives_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import json, pathlib, sys; from mage_project.lib.local import sources; "
        "print(json.dumps(sources.start(*[pathlib.Path(sys.argv[1]), 100, 0, pathlib.Path(sys.argv[1])])))"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    starter = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, check=True, timeout=60)
    running = json.loads(starter.stdout)
    try:
        assert sources.is_running(running)
        assert get(running, "green_tripdata_2021-02.csv").status_code == 200
    finally:
        sources.stop(running)
    assert not sources.is_running(running)
