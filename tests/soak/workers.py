"""Workers: threads that use a mount at random and remember what they saw."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

from cephfs_ext.control.client import Client
from tests.soak.dir_ops import OnDirs
from tests.soak.file_ops import OnFiles
from tests.soak.observer import Group, History


class Worker:
    """One user of one mount."""

    def __init__(
        self, gateway: str, mount: Path, socket: Path, seed: int, choose: Callable[[], Group | None]
    ) -> None:
        self._who = f"{gateway}{seed}"
        self._client = Client(str(socket))
        common = (self._who, gateway, mount, self._client, random.Random(f"{gateway}{seed}"))
        self._on_files, self._on_dirs = OnFiles(*common), OnDirs(*common)
        self._choose = choose
        self._thread = threading.Thread(target=self._run, name=self._who)
        self.start = self._thread.start

    def _run(self) -> None:
        while (group := self._choose()) is not None:
            observer = self._on_dirs if group.of_dirs else self._on_files
            observer.use(group)
            try:
                observer.play()
            except Exception as exc:
                observer.history.surprises.append(f"{self._who}: {exc!r}")
        self._client.close()

    def join(self) -> list[History]:
        """Wait for its end, and return what it has seen."""
        self._thread.join()
        return [self._on_files.history, self._on_dirs.history]
