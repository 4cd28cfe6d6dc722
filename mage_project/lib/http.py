"""Downloads: streamed, retried, resumed, verified, and kept by URL and ETag.

A file is downloaded once: the copy under `.cantrip/raw/` is asked for again with its ETag (or its
date, where the server gives no ETag), and a 304 answer costs no bytes. Only this module retries
(with back-off, by stamina), and only what a retry can mend: lost connections, time-outs, 429 and 5xx.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import requests
import stamina

from mage_project.lib.errors import NotPublishedError, SinkError, SourceError
from mage_project.lib.settings import HttpSettings

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 16  # what a lost connection can cost: the client drops a chunk that isn't full
RETRIED_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Download:
    """A verified local copy. `bytes_fetched` is what this call brought over the network."""

    path: Path
    url: str
    etag: str
    size: int
    bytes_fetched: int


class _RetriableError(Exception):
    """Worth another attempt; carries what to say when there is none left, and how long to wait."""

    def __init__(self, message: str, wait_seconds: float | None = None) -> None:
        super().__init__(message)
        self.wait_seconds = wait_seconds


def download(url: str, folder: Path, http: HttpSettings, *, what: str, setting: str, refresh: bool = False) -> Download:
    """Give a verified local copy of `url`, fetching only what is not there yet.

    `what` names the thing in errors ("green 2021-02"), and `setting` the variable that its address is
    from. Raises NotPublishedError for 403 and 404,
    SourceError when the attempts are used up, SinkError when the disk is full.
    """
    shown = without_secrets(url)
    copy = _Copy(folder, url)
    fetched = 0

    def wait(error: Exception) -> bool | float:
        if not isinstance(error, _RetriableError):
            return False
        return error.wait_seconds if error.wait_seconds is not None else True

    attempts = stamina.retry_context(on=wait, attempts=http.attempts, timeout=None, wait_initial=0.2, wait_max=20.0)
    try:
        with copy.locked():
            if refresh:
                copy.forget()
            for attempt in attempts:
                with attempt:
                    fetched += _attempt(url, copy, http, what, setting)
            return Download(copy.path, shown, copy.etag, copy.path.stat().st_size, fetched)
    except _RetriableError as error:
        raise SourceError(
            f"{what}: {shown} could not be fetched in {http.attempts} attempts; the last one: {error}. "
            "Nothing was loaded. Run it again later: what arrived is kept and resumed."
        ) from error
    except OSError as error:
        if isinstance(error, requests.RequestException):
            reason = str(error).replace(url, shown)
            raise SourceError(f"{what}: {shown} can't be asked for: {reason}. Check {setting} in .env.") from error
        raise SinkError(
            f"{what}: can't keep {shown} in {folder}: {error.strerror or error}. "
            "Free some space (`./cantrip clean`), or set CANTRIP_HOME to a larger disk."
        ) from error


def without_secrets(url: str) -> str:
    """Give `url` without user, password and query: what an error or a ledger may show."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


class _Copy:
    """The kept file of one URL, its partial download, and the ETags of both."""

    def __init__(self, folder: Path, url: str) -> None:
        parts = urlsplit(url)
        digest = hashlib.sha256(url.encode()).hexdigest()[:12]
        name = Path(parts.path).name or "index"
        self.folder = folder / (parts.hostname or "local") / digest
        self.path = self.folder / name
        self.part = self.folder / f"{name}.part"
        self._facts = self.folder / "copy.json"
        self._part_facts = self.folder / "part.json"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let one run at a time fetch this URL: two would write into one partial file."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with self.folder.with_suffix(".lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @property
    def etag(self) -> str:
        return self.facts.get("etag", "")

    @property
    def facts(self) -> dict:
        return _read_json(self._facts) if self._whole() else {}

    @property
    def part_etag(self) -> str:
        return _read_json(self._part_facts).get("etag", "") if self.part.exists() else ""

    def begin(self, etag: str, start: int) -> None:
        self.folder.mkdir(exist_ok=True)
        if not start:
            self.part.unlink(missing_ok=True)
        self._part_facts.write_text(json.dumps({"etag": etag}))

    def finish(self, etag: str) -> None:
        self._facts.unlink(missing_ok=True)
        self.part.replace(self.path)
        self._facts.write_text(json.dumps({"etag": etag, "size": self.path.stat().st_size}))
        self._part_facts.unlink(missing_ok=True)

    def forget_part(self) -> None:
        self.part.unlink(missing_ok=True)
        self._part_facts.unlink(missing_ok=True)

    def forget(self) -> None:
        """Fetch the whole file next; the old one stays in its place until then, for who is reading it."""
        self.forget_part()
        self._facts.unlink(missing_ok=True)

    def _whole(self) -> bool:
        return self.path.exists() and self.path.stat().st_size == _read_json(self._facts).get("size")


def _attempt(url: str, copy: _Copy, http: HttpSettings, what: str, setting: str) -> int:
    """One request: nothing new (304), the rest of a partial file (206), or the whole (200)."""
    headers = {"Accept-Encoding": "identity"}
    have = copy.part.stat().st_size if copy.part_etag else 0
    if copy.etag:
        headers["If-None-Match" if '"' in copy.etag else "If-Modified-Since"] = copy.etag
    elif have:
        headers |= {"Range": f"bytes={have}-", "If-Range": copy.part_etag}
    try:
        with requests.get(
            url, headers=headers, stream=True, timeout=(http.connect_seconds, http.read_seconds)
        ) as response:
            if response.status_code == 304:
                return 0
            if response.status_code == 416 or not _continues(response, have):
                # what we have is no beginning of what there is now
                copy.forget_part()
                raise _RetriableError("the server has another file than the one that was being resumed")
            _require_success(response, url, what, setting)
            return _receive(response, copy, have if response.status_code == 206 else 0)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _RetriableError(_plain(error)) from error


def _receive(response: requests.Response, copy: _Copy, start: int) -> int:
    """Append the body to the partial file and, once it is whole, make it the copy."""
    etag = response.headers.get("ETag") or response.headers.get("Last-Modified", "")
    expected = response.headers.get("Content-Length")
    copy.begin(etag if not etag.startswith("W/") else "", start)
    received = 0
    with copy.part.open("ab" if start else "wb") as file:
        for chunk in response.iter_content(CHUNK_BYTES):
            file.write(chunk)
            received += len(chunk)
    if expected is not None and received != int(expected):
        raise _RetriableError(f"the body has {received} bytes and not the {expected} that its header says")
    copy.finish(etag)
    return received


def _continues(response: requests.Response, have: int) -> bool:
    """Whether a partial answer begins where our part ends."""
    if response.status_code != 206:
        return True
    return bool(re.match(rf"bytes {have}-", response.headers.get("Content-Range", "")))


def _require_success(response: requests.Response, url: str, what: str, setting: str) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    shown = without_secrets(url)
    if status in (403, 404):
        raise NotPublishedError(
            f"{what}: not published: {shown} answers {status}. "
            f"It may come later: choose an earlier --date, or check {setting}."
        )
    if status in RETRIED_STATUSES:
        raise _RetriableError(f"the server answers {status} {response.reason}", _retry_after(response))
    raise SourceError(f"{what}: {shown} answers {status} {response.reason}. Check {setting} in .env.")


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    return min(float(text), 300.0) if text.isdigit() else None


def _plain(error: Exception) -> str:
    """Give the innermost reason, without the client's own layers and without the URL's query."""
    reason: BaseException = error
    while reason.__cause__ or reason.__context__:
        reason = reason.__cause__ or reason.__context__  # type: ignore[assignment]
    return str(reason) or type(reason).__name__


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
