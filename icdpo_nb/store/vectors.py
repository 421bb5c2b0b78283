"""The vectors of many texts in files that are mapped into memory, each vector found by the digest of its text.

A file holds a part: up to `PART` texts, each as its digest and its vector. A part is written whole as soon as it is computed,
so an interrupted embedding continues at the part that it was in. The name of a file ends with the checksum of its content; a
damaged file is removed, and its texts count as new. Processes that embed the same texts share the parts among them. One that
is killed may leave a hidden file behind, which disturbs nobody.
"""

import hashlib
import io
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from ..common.countdown import Countdown
from ..common.errors import InputError
from ..common.files import checksum, digest_of_texts, written_whole
from ..common.notes import told

PART = 4096  # texts that are computed and written together
WAIT_SECONDS = 0.5  # polling interval while another process computes the last parts
DIGEST_BYTES = 32


def folders_of_encoders(store: Path) -> list[Path]:
    """The folders of vectors beside a store, one for each encoder."""
    return sorted((store / "vectors").glob("*/"))


def folder_of_encoder(store: Path, fingerprint: str) -> Path:
    """The folder of an encoder's vectors beside a store. `store`: the folder of the store."""
    return store / "vectors" / checksum(fingerprint)[:16]


class VectorFiles:
    """Vectors of texts, float32, in the files of a folder, which need not exist. For one thread at a time."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._row: dict[bytes, int] = {}  # digest of a text -> its row, counted over all parts
        self._parts: list[np.ndarray] = []  # records (text, vector), mapped into memory
        self._starts = [0]  # the row at which each part begins, and the number of rows
        self._names: set[str] = set()
        self.damaged = 0  # files that were removed
        self.look()

    def __len__(self) -> int:
        return self._starts[-1]

    def look(self) -> None:
        """Open the files that were added since the last look. A damaged one is removed, with a warning."""
        for path in sorted(self.folder.glob("*.npy")):
            if path.name in self._names:
                continue
            if path.stem.rpartition("-")[2] != _checksum(path.read_bytes()):
                warnings.warn(f"{path} is damaged; its vectors are computed again", stacklevel=3)
                path.unlink()
                self.damaged += 1
                continue
            part = np.load(path, mmap_mode="r")
            digests = part["text"].tobytes()
            for i in range(len(part)):
                self._row[digests[DIGEST_BYTES * i : DIGEST_BYTES * (i + 1)]] = len(self) + i
            self._parts.append(part)
            self._starts.append(len(self) + len(part))
            self._names.add(path.name)

    def rows(self, texts: Sequence[str]) -> np.ndarray:
        """The row of each text, int, shape (n_texts,); -1 for a text that is in no file."""
        if not self._row:
            return np.full(len(texts), -1)
        return np.array([self._row.get(_digest(text), -1) for text in texts], int)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """The vectors of these rows, float32, shape (n_rows, dim)."""
        found = np.empty((len(rows), self._parts[0]["vector"].shape[1]), np.float32)
        in_part = np.searchsorted(self._starts, rows, side="right") - 1
        for i in np.unique(in_part):
            here = in_part == i
            found[here] = self._parts[i]["vector"][rows[here] - self._starts[i]]
        return found

    def add(self, texts: Sequence[str], compute: Callable[[Sequence[str]], np.ndarray]) -> None:
        """Compute and write the vectors of different texts, part by part. Parts that another process computes are awaited.

        `compute(texts)` returns float32, shape (n_texts, dim). Raises `InputError` if the files cannot be written.
        """
        parts = [texts[i : i + PART] for i in range(0, len(texts), PART)]
        waiting = {digest_of_texts(part): part for part in parts}
        with told(f"embedding {len(texts):,} texts") as say, tqdm(total=len(texts), desc="embedding", leave=False) as bar:
            count = Countdown("embedding texts", len(texts), say, bar)
            count.update(0)
            while waiting:
                before = len(waiting)
                for name, part in list(waiting.items()):
                    if self._finish(name, part, compute):
                        count.update(len(waiting.pop(name)))
                if len(waiting) == before:
                    time.sleep(WAIT_SECONDS)

    def _finish(self, name: str, part: Sequence[str], compute: Callable) -> bool:
        """Make sure that a part is in the files; False if another process is computing it."""
        path = self.folder / f".{name}.lock"  # the operating system releases it if this process is killed
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(path, timeout=0):
                self.look()
                new = [text for text, row in zip(part, self.rows(part), strict=True) if row < 0]
                if new:
                    self._write(new, compute(new))
                    self.look()
                path.unlink(missing_ok=True)  # harmless to a process that waits for it: it looks again, and finds the part
        except Timeout:
            return False
        except OSError as error:
            raise InputError(
                f"vectors cannot be written to {self.folder} ({error}); free some space, or set ICDPO_STORE to another folder"
            ) from None
        return True

    def _write(self, texts: Sequence[str], vectors: np.ndarray) -> None:
        kind = [("text", f"V{DIGEST_BYTES}"), ("vector", "<f4", vectors.shape[1:])]
        records, content = np.empty(len(texts), kind), io.BytesIO()
        records["text"] = np.frombuffer(b"".join(map(_digest, texts)), f"V{DIGEST_BYTES}")
        records["vector"] = vectors
        np.save(content, records)
        data = content.getvalue()
        with written_whole(self.folder / f"{digest_of_texts(texts)[:16]}-{_checksum(data)}.npy") as file:
            file.write(data)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _checksum(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
