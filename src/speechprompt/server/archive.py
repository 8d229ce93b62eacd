"""An uploaded zip of an artifact folder -> that folder's known files, within limits that hold before any work.

File names inside the zip never become paths: known names are written under names of our own.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from speechprompt.errors import ArtifactError
from speechprompt.prompting.artifact import CARD, CONFIG, METRICS, TENSORS

LARGEST = {CONFIG: 2**20, TENSORS: 64 * 2**20, METRICS: 2**20, CARD: 2**20}
"""Unpacked bytes of each file."""
LARGEST_DIRECTORY = 64 * 2**10
"""Bytes of the zip's list of files: a few hundred files, of which four are read."""
_END_RECORD = struct.Struct("<4s4H2LH")


def unpack(content: bytes, folder: Path) -> None:
    """Write the artifact files of a zip into `folder`. ArtifactError for what is no such zip, or is a trap.

    The files may lie at the top or in one folder; other files are left out.
    """
    _check_directory(content)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name, member in _members(archive).items():
                (folder / name).write_bytes(_read(archive, member, LARGEST[name]))
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OverflowError) as error:
        raise ArtifactError(f"the upload is not a readable zip: {error}") from None


def _check_directory(content: bytes) -> None:
    """Refuse a long list of files before Python reads it."""
    start = content.rfind(b"PK\x05\x06", max(0, len(content) - 2**16 - _END_RECORD.size))
    if start < 0 or start + _END_RECORD.size > len(content):
        raise ArtifactError("the upload is not a zip; send the zipped artifact folder")
    entries, size = _END_RECORD.unpack_from(content, start)[4:6]
    if entries > 1000 or size > LARGEST_DIRECTORY:
        raise ArtifactError("the zip lists too many files; zip one artifact folder")


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The artifact files by name."""
    found: dict[str, zipfile.ZipInfo] = {}
    parents = set()
    for member in archive.infolist():
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in member.filename:
            raise ArtifactError(f"the zip holds a path that leaves it: {member.filename[:100]!r}")
        if member.is_dir() or path.name not in LARGEST or len(path.parts) > 2:
            continue
        if path.name in found:
            raise ArtifactError(f"the zip holds {path.name} twice; zip one artifact folder")
        found[path.name] = member
        parents.add(path.parent)
    if len(parents) > 1:
        raise ArtifactError("the zip holds several folders; zip one artifact folder")
    return found


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limit: int) -> bytes:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArtifactError(f"{member.filename} is packed in a way that is not read here; use a plain zip")
    if member.flag_bits & 1:
        raise ArtifactError(f"{member.filename} is encrypted; send it without a password")
    if member.file_size > limit:
        raise ArtifactError(f"{member.filename} unpacks to {member.file_size:,} bytes, over {limit:,}")
    with archive.open(member) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise ArtifactError(f"{member.filename} unpacks to over {limit:,} bytes")
    return content
