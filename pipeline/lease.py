"""One holder at a time, over machines, by files in an object store that can write, list and delete, and no more.

    <folder>/<owner>.<count>.<state>.<milliseconds>     its content says who that is

An owner's file is its heartbeat: it is written under the next count again and again, and never twice under one. What
keeps two from holding at once:

- Everyone first writes and then lists, and holds only after a list with its own file and no living other in it. Of two,
  the later to write sees the earlier. The listing must show what has been written, as S3's and Google's do.
- A count is past once somebody has seen no later one for the whole lease, on the clock of that process. Its owner, by
  its own clock, trusts it for less, from before it was written. No clock is compared with another.
- Whoever finds a count past deletes it before holding anything. As it stays past, a deletion that comes late takes
  nothing away from anybody.
- An owner that comes too late with the next count holds nothing until a list after that shows it alone, and the count
  that it trusted last is still there. Else somebody may have held the lease meanwhile, and it is lost.

Who sees somebody alive that goes before goes away: first comes who `holds`, then the one who `waits`, that is, saw none
but a holder, then of those who `want` the one with the lowest name.
"""

import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from threading import Event, Thread

from pyarrow import fs

from pipeline.errors import Unavailable, UserError
from pipeline.object_store import read_whole, upload
from pipeline.patience import Patience, first_line
from pipeline.progress import note
from pipeline.storage import Storage

SECONDS = 30.0
_TRUSTED = 0.8  # of the lease, by its owner
_RENEWALS, _LOOKS = 8, 30  # in a lease
_HOLDS, _WAITS, _WANTS = "holds", "waits", "wants"  # in the order of their rights, which is that of the words
_SOMEBODY = "another process"
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # the former goes on while the machine sleeps
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Other:
    """Another owner that may be alive. `renewed`: it certainly was, since it was first seen."""

    owner: str
    state: str
    renewed: bool
    who: str


@dataclass
class _Watched:
    first: int
    count: int
    since: float
    who: str | None = None


class _Heartbeat:
    """One owner's file, and how it sees the others'. For one thread at a time. What it does raises OSError."""

    def __init__(self, storage: Storage, folder: str, seconds: float):
        self.owner, self.state = uuid.uuid4().hex[:16], _WANTS
        self.count = self.trusted = 0  # the last written; the last that the lease was held, or asked for, by
        self.outlived = set[str]()  # the owners that were found dead
        self._storage, self._folder, self._seconds = storage, folder, seconds
        self._written = dict[int, str]()
        self._watched = dict[str, _Watched]()

    def beat(self) -> float:
        """Writes the next count, and says until when to trust it."""
        trusted = _now() + _TRUSTED * self._seconds
        self.count += 1
        path = f"{self._folder}/{self.owner}.{self.count:09d}.{self.state}.{self._seconds * 1000:.0f}"
        self._written[self.count] = path
        upload(*self._storage.locate(path), f"process {os.getpid()} on {socket.gethostname()}".encode())
        return trusted

    def look(self) -> tuple[set[int], list[_Other]]:
        """Our counts that are there, and who else may be alive; deletes what is past."""
        began = _now()
        filesystem, place = self._storage.locate(self._folder)
        infos = filesystem.get_file_info(fs.FileSelector(place, allow_not_found=True))
        ended = _now()
        files = dict[str, dict[int, str]]()
        for name in sorted(info.base_name for info in infos if info.base_name.count(".") == 3):
            owner, number, _, _ = name.split(".")
            files.setdefault(owner, {})[int(number)] = name
        ours = set(files.pop(self.owner, {}))
        self._delete_before(self.trusted)
        others = list[_Other]()
        for owner, counts in files.items():
            last = max(counts)
            watched = self._watched.setdefault(owner, _Watched(last, last, ended))
            if last != watched.count:
                watched.count, watched.since = last, ended
            _, _, state, milliseconds = counts[last].split(".")
            if began - watched.since >= int(milliseconds) / 1000:
                self.outlived.add(owner)
                if all(self._delete(f"{self._folder}/{name}") for name in counts.values()):
                    continue
            watched.who = watched.who or self._who(counts[last])
            others.append(_Other(owner, state, last != watched.first, watched.who or _SOMEBODY))
        return ours, others

    def end(self) -> None:
        """Deletes what was written; what can not be deleted is past when the lease is."""
        self._delete_before(self.count + 1)

    def _delete_before(self, count: int) -> None:
        for past in [each for each in self._written if each < count]:
            if self._delete(self._written[past]):
                del self._written[past]

    def _who(self, name: str) -> str | None:
        with suppress(OSError):  # it was renewed meanwhile
            return read_whole(*self._storage.locate(f"{self._folder}/{name}"), 0, None).decode()
        return None

    def _delete(self, path: str) -> bool:
        filesystem, place = self._storage.locate(path)
        try:
            filesystem.delete_file(place)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


class Lease:
    """A lease in one's hands, renewed by a thread of its own until the end of `leased`."""

    def __init__(self, storage: Storage, folder: str, seconds: float):
        self._name = f"{folder} in {storage.name}"
        self._seconds = seconds
        self._heartbeat = _Heartbeat(storage, folder, seconds)
        self._until = 0.0  # when the last count is trusted no more
        self._taken_by: str | None = None
        self._over = Event()
        self._thread = Thread(target=self._keep, name="lease", daemon=True)

    def check(self, grace: float = 0.0) -> None:
        """Raises Unavailable once another may hold the lease.

        With `grace`, only once another is known to, or that many seconds later: for work that may go on while the store
        is away, as what it writes is fenced.
        """
        if self._taken_by:
            raise Unavailable(
                f"the lease {self._name} was not renewed in time and {self._taken_by} has taken it; wait for that one"
            )
        if (late := _now() - self._until) > grace:
            raise Unavailable(
                f"the lease {self._name} has not been renewed for {late + _TRUSTED * self._seconds:.0f} s, and another"
                " may take it; see whether the storage answers"
            )

    def take(self, busy: str) -> None:
        """Raises UserError with `busy` and who it is, once another is seen alive. That takes a lease at most."""
        first = set[str]()  # those that were there before us
        for looks in count(1):
            others = Patience().call(f"taking {self._name}", lambda: self._ask(busy))
            if others is None:
                return self._thread.start()
            first = first or {other.owner for other in others}
            silent = [other.who for other in others if not other.renewed and other.owner in first]
            if silent and looks == 2 * _LOOKS // _RENEWALS:  # by now a living one would have renewed it
                note(f"waiting for {self._name} up to {self._seconds:.0f} s: {silent[0]} seems to have died with it")
            time.sleep(self._seconds / _LOOKS)

    def give_back(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(self._seconds)
        self._heartbeat.end()

    def _ask(self, busy: str) -> list[_Other] | None:
        """Who stands in the way; None if the lease is ours."""
        ours = self._heartbeat
        self._until = ours.beat()
        there, others = ours.look()
        ours.trusted = ours.count
        for other in others:
            if other.renewed and (other.state, other.owner) < (ours.state, ours.owner):
                raise UserError(f"{busy} ({other.who})")
        if ours.count not in there or _now() > self._until:
            return others
        if all(other.state == _HOLDS for other in others):
            ours.state = _WAITS if others else _HOLDS
        return others or None

    def _keep(self) -> None:
        pause = 0.0  # that it holds is to be read soon
        while not self._taken_by and not self._over.wait(pause):
            pause = self._seconds / _RENEWALS
            try:
                self._renew()
            except OSError as error:
                log.warning("the lease %s could not be renewed now: %s", self._name, first_line(error))
                pause /= 4

    def _renew(self) -> None:
        ours = self._heartbeat
        until = ours.beat()
        if in_time := _now() < self._until:
            self._until = until
        there, others = ours.look()
        if in_time:  # those that were found dead may come late with the next count, and then learn of us
            others = [other for other in others if other.owner not in ours.outlived]
        if holders := [other.who for other in others if other.state == _HOLDS]:
            self._taken_by = holders[0]
        elif ours.trusted not in there:
            self._taken_by = _SOMEBODY
        elif in_time or (ours.count in there and not others):
            self._until, ours.trusted = until, ours.count


@contextmanager
def leased(storage: Storage, folder: str, busy: str, seconds: float = SECONDS) -> Iterator[Lease]:
    """Holds the lease whose files are in `folder`, which has nothing else in it.

    Raises UserError with `busy` and who it is if another holds it, OSError if the store does not answer. The lease of
    one that died is free `seconds` later; each says for itself how many.
    """
    lease = Lease(storage, folder, seconds)
    try:
        lease.take(busy)
        yield lease
    finally:
        lease.give_back()


def seems_held(storage: Storage, folder: str) -> bool:
    """Whether a heartbeat there is younger than its lease: for who only looks, as it compares the store's clock with
    this machine's. Leaves no trace."""
    now = time.time()
    for entry in storage.list(folder):
        *_, state, milliseconds = (".." + entry.path.rpartition("/")[2]).split(".")
        if state == "holds" and now < entry.changed / 1e9 + int(milliseconds) / 1000:
            return True
    return False


def _now() -> float:
    return time.clock_gettime(_CLOCK)
