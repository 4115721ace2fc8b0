"""What instances leave behind: processes, ports, shared memory, temporary files and our own state."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import psutil

from installed import listening, marked

if TYPE_CHECKING:
    from installed import Home


@dataclass
class Remains:
    """What there was before instances of a home lived, and what they had while they did.

    Attributes:
        temporary: TMPDIR of their commands, a folder of its own: what others on this machine leave in theirs is theirs.
    """

    home: Home
    temporary: Path
    files: set[Path]
    states: list[dict[str, Any]] = field(default_factory=list)
    ports: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, home: Home, temporary: Path) -> Self:
        """As it is now."""
        return cls(home, temporary, _files(home))

    def note(self) -> None:
        """Look at the instance that runs."""
        state = self.home.instance()
        assert state is not None
        self.states.append(state)
        self.ports |= {port for _, port, _ in listening(self.home.processes())}

    def assert_nothing_else(self) -> None:
        """Nothing is left of those that were noted."""
        assert [process for state in self.states for process in marked(state["instance_id"])] == []
        assert [state["temp_dir"] for state in self.states if Path(state["temp_dir"]).exists()] == []
        assert self.ports
        assert self.ports & _listened_at(self.home) == set()
        left = _files(self.home) - self.files
        in_use = _in_use()  # second: whoever makes a file in shared memory meanwhile is not one of them
        assert [file for file in left if str(file) not in in_use and file.exists()] == []
        assert list(self.temporary.iterdir()) == []


def _listened_at(home: Home) -> set[int]:
    """Where anybody listens whose home is this one; a neighbour may have taken a port that is free again."""
    ports = set()
    for one in psutil.net_connections("tcp"):
        if one.status == psutil.CONN_LISTEN and one.pid is not None and one.laddr:
            with contextlib.suppress(OSError):
                if f"HOME={home.path}".encode() in Path(f"/proc/{one.pid}/environ").read_bytes():
                    ports.add(one.laddr.port)
    return ports


def _files(home: Home) -> set[Path]:
    """The state folder's but for locks, which stay, and the shared memory's, where Ray keeps its object store."""
    states = {path for path in home.state.rglob("*") if path.is_file() and path.name != "lock"}
    return {*states, *Path("/dev/shm").iterdir()}  # noqa: S108 - listed, not written


def _in_use() -> str:
    """What any process has mapped or open: a file in shared memory may be that of a test beside this one."""
    used = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            used += [one.path for one in process.memory_maps()] + [one.path for one in process.open_files()]
    return "\n".join(used)
