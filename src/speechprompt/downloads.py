"""Published files, fetched once: resumed after a cut, checked by size and sha256, placed whole or not at all.

Knows urls and bytes, nothing of what is in them. `SPEECHPROMPT_OFFLINE=1` or `HF_HUB_OFFLINE=1` forbids the network.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, Any

from filelock import FileLock

from speechprompt.errors import DownloadError, UnknownName

Progress = Callable[[int, int | None], None]
"""Called with bytes so far and, where known, bytes in all."""

BLOCK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30.0
_OFFLINE = ("SPEECHPROMPT_OFFLINE", "HF_HUB_OFFLINE")
_CUT = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
_PASSING = {408, 425, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class PublishedFile:
    """A file that others publish: our name for it, where it lies, under which licence; sha256 where published."""

    name: str
    url: str
    license: str
    sha256: str | None = None


_TEXTLESS = "https://dl.fbaipublicfiles.com/textless_nlp"
_FAIRSEQ = "MIT (fairseq)"
_KM100_SHA256 = "f14a3104615485381fc489701d6761c9abbdbb0d43607cf55518a1e2891023fe"
PUBLISHED: dict[str, PublishedFile] = {
    file.name: file
    for file in (
        PublishedFile(
            "hubert-base-ls960",
            "https://dl.fbaipublicfiles.com/hubert/hubert_base_ls960.pt",
            _FAIRSEQ,
            "1703cf8d2cdc76f8c046f5f6a9bcd224e0e6caf4744cad1a1f4199c32cac8c8d",
        ),
        *(
            PublishedFile(
                f"hubert-base-l6-km{count}",
                f"{_TEXTLESS}/gslm/hubert/km{count}/km.bin",
                _FAIRSEQ,
                _KM100_SHA256 if count == 100 else None,
            )
            for count in (50, 100, 200)
        ),
        *(
            PublishedFile(
                f"gslm-hubert{count}",
                f"{_TEXTLESS}/gslm/hubert/lm_km{count}/hubert{count}_lm.tgz",
                _FAIRSEQ,
            )
            for count in (50, 100, 200)
        ),
        *(
            PublishedFile(
                f"pgslm-{kind.replace('_', '-')}",
                f"{_TEXTLESS}/pgslm/ulm_checkpoints/{kind}_shift_1_1.pt",
                _FAIRSEQ,
            )
            for kind in (
                "continuous_no_prosody",
                "continuous_prosody",
                "discrete_no_prosody",
                "discrete_prosody",
            )
        ),
        PublishedFile(
            "pgslm-f0-bins",
            f"{_TEXTLESS}/pgslm/vocoder/blizzard2013/mean_norm_log_f0_seg_bin.th",
            _FAIRSEQ,
        ),
    )
}
"""Every file of the spoken LMs that the paper builds on."""


def home() -> Path:
    """`$SPEECHPROMPT_HOME`, else ~/.cache/speechprompt: where everything is kept that can be made again."""
    stated = os.environ.get("SPEECHPROMPT_HOME")
    return Path(stated) if stated else Path.home() / ".cache" / "speechprompt"


def fetch_published(name: str, progress: Progress | None = None) -> Path:
    """The path of a file of `PUBLISHED`, downloaded at first use. UnknownName, or DownloadError as `fetch`."""
    if name not in PUBLISHED:
        raise UnknownName("published file", name, PUBLISHED)
    file = PUBLISHED[name]
    return fetch(file.url, sha256=file.sha256, progress=progress)


def fetch(
    url: str,
    sha256: str | None = None,
    size: int | None = None,
    folder: str | Path | None = None,
    progress: Progress | None = None,
    attempts: int = 4,
    wait_seconds: float = 1.0,
) -> Path:
    """The local path of `url`, downloading it when it is not there yet.

    A cut download goes on where it stopped; failures that may pass are tried `attempts` times, waiting
    `wait_seconds`, then twice that, and so on. DownloadError when offline, refused, not found, or when size (bytes)
    or sha256 is not the stated one. Side effects: writes `place(url, folder)`, through a file `.part` beside it,
    under a lock that makes other processes wait.
    """
    target = place(url, folder)
    if target.is_file():
        return _checked(target, sha256, size)
    if switch := offline():
        raise DownloadError(f"{url} is needed but {switch} forbids the network; put the file at {target}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not target.is_file():
                _Download(url, target, size, sha256, progress).complete(attempts, wait_seconds)
                _checked(Path(f"{target}.part"), sha256, size, delete=True).replace(target)
                Path(f"{target}.validator").unlink(missing_ok=True)
            return _checked(target, sha256, size)
    except OSError as error:
        raise DownloadError(f"{url} cannot be written to {target}: {error}") from None


def place(url: str, folder: str | Path | None = None) -> Path:
    """Where `fetch` keeps a url: host and path below `folder` (default: `home()/downloads`).

    DownloadError for what is not an http or https url of a file.
    """
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError as error:
        raise DownloadError(f"{url} is not an address: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DownloadError(f"{url} is not an http or https address")
    names = [
        urllib.parse.quote(urllib.parse.unquote(name), safe=" +@=,") for name in parts.path.split("/") if name
    ]
    if not names or parts.path.endswith("/") or any(name in (".", "..") for name in names):
        raise DownloadError(f"{url} does not name a file")
    if parts.query:
        names[-1] = f"{hashlib.sha256(parts.query.encode()).hexdigest()[:8]}-{names[-1]}"
    return Path(folder or home() / "downloads", parts.hostname, *names)


def offline() -> str | None:
    """The environment variable that forbids the network now, if one does."""
    off = ("", "0", "false", "no", "off")
    return next((name for name in _OFFLINE if os.environ.get(name, "").lower() not in off), None)


def _checked(path: Path, sha256: str | None, size: int | None, delete: bool = False) -> Path:
    """The path, when its file is the stated one; else DownloadError, and the file deleted if asked to."""
    wrong = _difference(path, sha256, size)
    if wrong is None:
        return path
    if delete:
        path.unlink()
        raise DownloadError(
            f"{path.name.removesuffix('.part')} came with {wrong}; nothing was kept, try again"
        )
    raise DownloadError(f"{path} has {wrong}; delete it to fetch it again")


def _difference(path: Path, sha256: str | None, size: int | None) -> str | None:
    actual = path.stat().st_size
    if size is not None and actual != size:
        return f"{actual} bytes instead of {size}"
    if sha256 is None:
        return None
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return None if digest == sha256.lower() else f"sha256 {digest[:12]}… instead of {sha256[:12]}…"


class _SameScheme(urllib.request.HTTPRedirectHandler):
    """Follows redirects within http or within https, never from one to another scheme."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if urllib.parse.urlsplit(newurl).scheme != req.type:
            raise DownloadError(f"{req.full_url} redirects to {newurl}, another scheme; this is refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SameScheme)


class _Download:
    """One url on its way into `<target>.part`."""

    def __init__(
        self, url: str, target: Path, size: int | None, sha256: str | None, progress: Progress | None
    ) -> None:
        self._url, self._size, self._progress = url, size, progress
        self._part = Path(f"{target}.part")
        self._validator = Path(f"{target}.validator")
        self._sha256 = sha256

    def complete(self, attempts: int, wait_seconds: float) -> None:
        """Fill `.part`; DownloadError once there is no hope."""
        if (
            self._sha256
            and self._part.is_file()
            and _difference(self._part, self._sha256, self._size) is None
        ):
            return
        for attempt in range(1, attempts + 1):
            try:
                return self._attempt()
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 416 and self._ends_at(error.headers):
                    return
                if error.code == 416:  # what is there is not the beginning of what is offered
                    self._part.unlink(missing_ok=True)
                elif error.code not in _PASSING:
                    raise DownloadError(f"{self._url} answers {error.code} {error.reason}") from None
                reason = f"{error.code} {error.reason}"
            except _CUT as error:
                reason = str(getattr(error, "reason", error)) or type(error).__name__
            if attempt < attempts:
                time.sleep(wait_seconds * 2 ** (attempt - 1))
        raise DownloadError(
            f"{self._url} could not be fetched in {attempts} attempts ({reason}); run it again to go on"
        )

    def _attempt(self) -> None:
        start = self._resumable_bytes()
        if start and start == self._size:
            return
        request = urllib.request.Request(self._url, headers={"User-Agent": "speechprompt"})
        if start:
            request.add_header("Range", f"bytes={start}-")
            if self._validator.is_file():
                request.add_header("If-Range", self._validator.read_text(encoding="utf-8"))
        with _OPENER.open(request, timeout=TIMEOUT_SECONDS) as answer:
            if answer.status != 206:
                start = 0
            elif not _continues(answer.headers, start):
                self._part.unlink(missing_ok=True)
                raise ConnectionError("another part came than was asked for")
            self._receive(answer, start)

    def _resumable_bytes(self) -> int:
        """Bytes that need not come again: only where a hash or the server's own mark guards against a mixture."""
        if self._part.is_file() and (self._sha256 or self._validator.is_file()):
            return self._part.stat().st_size
        return 0

    def _ends_at(self, headers: Message) -> bool:
        """Whether `.part` has as many bytes as the server says there are; where a hash is known, that alone counts."""
        if self._sha256 or not self._part.is_file():
            return False
        return str(headers.get("Content-Range", "")).strip() == f"bytes */{self._part.stat().st_size}"

    def _receive(self, answer: Any, start: int) -> None:
        length = answer.headers.get("Content-Length", "")
        total = start + int(length) if length.isdecimal() else None
        self._accept(total, start)
        tag = answer.headers.get("ETag", "")
        if tag.startswith('"'):
            self._validator.write_text(tag, encoding="utf-8")
        else:
            self._validator.unlink(missing_ok=True)
        done = start
        with self._part.open("ab" if start else "wb") as file:
            while block := answer.read(BLOCK_BYTES):
                done += len(block)
                if self._size is not None and done > self._size:
                    raise DownloadError(f"{self._url} sends more than the stated {self._size} bytes")
                file.write(block)
                if self._progress:
                    self._progress(done, total or self._size)
        if total is not None and done < total:
            raise ConnectionError(f"cut off after {done} of {total} bytes")

    def _accept(self, total: int | None, start: int) -> None:
        """DownloadError, before any byte, when the file is not the stated one or the disk too small."""
        if total is None:
            return
        if self._size is not None and total != self._size:
            raise DownloadError(f"{self._url} offers {total} bytes instead of {self._size}")
        free = shutil.disk_usage(self._part.parent).free
        if total - start > free:
            raise DownloadError(
                f"{self._url} needs {total - start} more bytes; {self._part.parent} has {free}"
            )


def _continues(headers: HTTPMessage, start: int) -> bool:
    return str(headers.get("Content-Range", "")).startswith(f"bytes {start}-")
