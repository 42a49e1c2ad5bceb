"""A line between the processes of a run: whoever fails, ends or stands still, the others know it and end, too.

Process 0 keeps a connection to every process, itself included. A connection that breaks without a farewell is a process
that has died; one that says nothing for ``dist_timeout`` seconds, of one that is stopped. The first cause is told to
all, who end with its exit code; it is shown once. Threads do all of this, since the processes themselves wait for each
other inside of libraries.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from pointcept.engines.interrupt import pass_on
from pointcept.utils import lock
from pointcept.utils.faults import USER_ERROR

logger = logging.getLogger(__name__)

BEAT = 1.0
"""Seconds between two signs of life."""
WORD = 10.0
"""Seconds without one after which the log says so."""
GRACE = 4.0
"""Seconds that a process has to end by itself once it knows that another one has failed."""
SAVING = 30.0
"""The same once it knows that another one was asked to stop: it may be saving."""


@dataclass(frozen=True)
class End:
    """Why a run ends before it is done.

    Args:
        rank: of the process where it began.
        code: exit code for all.
        kind: class of the error, ``Interrupted`` for a signal.
        text: the message; for a signal its number.
    """

    rank: int
    code: int
    kind: str
    text: str

    @property
    def is_signal(self) -> bool:
        """Whether somebody has asked that process to stop."""
        return self.kind == "Interrupted"


@dataclass
class Peer:
    """What process 0 knows of one process."""

    who: str = ""
    heard: float = field(default_factory=time.monotonic)
    place: str = ""
    waits: bool = False
    since: float = field(default_factory=time.monotonic)
    told: bool = False
    left: bool = False
    pending: bytes = b""


class Lifeline:
    """This process's end of the line, and in process 0 the one where all lines meet.

    Args:
        rank: of this process.
        size: of the run.
        patience: seconds without a sign of life, or without any progress, after which the run ends.
        ended: called in a thread before this process ends for what another one has told; the message is still to be
            shown if its second argument says so.

    Attributes:
        end: why the run ends, once it is known.
        show: nobody else shows that.
    """

    def __init__(self, rank: int, size: int, patience: float, ended: Callable[[End, bool], None]) -> None:
        self.rank, self.size, self.patience, self._ended = rank, size, patience, ended
        self.end: End | None = None
        self.show = False
        self._known = threading.Event()
        self._over = False
        self._on_the_way = False
        self._place = ("start", False)
        self._socket: socket.socket | None = None
        self._send = threading.Lock()

    def start(self, store: Any, host: str, alone: bool) -> None:
        """Connect all processes; every one calls it.

        Args:
            store: what the processes share.
            host: where process 0 is.
            alone: all are on one machine.
        """
        if self.rank == 0:
            server = socket.create_server(("127.0.0.1" if alone else "", 0), backlog=self.size + 8)
            hub = _Hub(self, server)
            threading.Thread(target=hub.run, name="lifelines", daemon=True).start()
            store.set("lifeline", str(server.getsockname()[1]))
        port = int(store.get("lifeline"))
        try:
            self._socket = socket.create_connection(("127.0.0.1" if self.rank == 0 or alone else host, port), 10.0)
        except OSError as error:
            logger.error("no line to process 0 at %s:%d (%s): a process that dies is not noticed", host, port, error)
            return
        self._socket.settimeout(BEAT)
        self._write({"rank": self.rank, "who": f"process {self.rank} ({os.getpid()} on {socket.gethostname()})"})
        threading.Thread(target=self._listen, name="lifeline", daemon=True).start()

    def at(self, place: str, waits: bool = False) -> None:
        """Say what this process does from now on, for messages; ``waits``: others have to do the same."""
        self._place = (place, waits)

    @property
    def place(self) -> tuple[str, bool]:
        """What :meth:`at` was told last."""
        return self._place

    def tell(self, code: int, kind: str, text: str) -> End:
        """Tell all that this process ends for a reason; returns the reason that counts, the first of all.

        Args:
            code, kind, text: see :class:`End`.
        """
        self._on_the_way = True
        own = End(self.rank, code, kind, text)
        if self._socket is None:
            return self.end or own
        self._write({"end": asdict(own)})
        self._known.wait(2 * BEAT)
        return self.end or own

    def learn(self, seconds: float) -> End | None:
        """The reason that another process has told, if there is one within some seconds."""
        if self._socket is not None:
            self._known.wait(seconds)
        if self.end is not None:
            self._on_the_way = True
        return self.end

    def leave(self) -> None:
        """From now on it is no fault when processes end: all are done."""
        self._over = True
        if self._socket is not None:
            self._write({"left": True})

    def _write(self, message: dict[str, Any]) -> None:
        assert self._socket is not None
        with self._send, contextlib.suppress(OSError):  # the thread that reads notices it, too
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _listen(self) -> None:
        assert self._socket is not None
        heard, said, pending = time.monotonic(), False, b""
        while not self._over:
            place, waits = self._place
            self._write({"place": place, "waits": waits})
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                silent = time.monotonic() - heard
                if silent > WORD and not said:
                    said = True
                    if self.rank == 1:  # one of those that remain
                        logger.error("%s", standing_still("process 0", silent, self.patience))
                if silent > self.patience:
                    self._finish(
                        End(0, USER_ERROR, "MachineError", no_sign("process 0", self.patience)), self.rank == 1
                    )
                continue
            except OSError:
                data = b""
            if not data:
                time.sleep(0.2)
                if not self._over:
                    self._finish(_end_of_first(without_a_word("process 0")), self.rank == 1)
                return
            heard, said = time.monotonic(), False
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                message = json.loads(line)
                if "end" in message:
                    self._finish(End(**message["end"]), message["show"])
                    return

    def _finish(self, end: End, show: bool) -> None:
        """End this process for a reason of the run, unless it does so itself."""
        self.end, self.show = end, show
        self._known.set()
        if end.rank == self.rank and self._on_the_way:
            return
        if end.is_signal and not self._on_the_way:
            pass_on(int(end.text))
        begin = time.monotonic()
        while time.monotonic() - begin < (SAVING if end.is_signal else GRACE):
            time.sleep(0.05)
            if self._over:
                return
        if not self._on_the_way:  # otherwise it has been shown already
            self._ended(end, show)
        lock.let_all_go()
        os._exit(end.code)


class _Hub:
    """Where all lines meet, in process 0."""

    def __init__(self, owner: Lifeline, server: socket.socket) -> None:
        self._owner, self._server = owner, server
        self._selector = selectors.DefaultSelector()
        self._peers: dict[socket.socket, Peer] = {}
        self._ranks: dict[socket.socket, int] = {}
        self._ending = False
        self._spoken: dict[int, float] = {}

    def run(self) -> None:
        """Until this process ends."""
        self._selector.register(self._server, selectors.EVENT_READ)
        tick = time.monotonic()
        while True:
            for key, _ in self._selector.select(BEAT / 2):
                if key.fileobj is self._server:
                    self._accept()
                else:
                    self._read(key.fileobj)  # type: ignore[arg-type]
            now = time.monotonic()
            if now - tick > 3 * BEAT:  # this process was the one that stood still
                for peer in self._peers.values():
                    peer.heard = now
            if now - tick >= BEAT:
                tick = now
                self._broadcast({})
                if not self._ending:
                    self._look(now)

    def _accept(self) -> None:
        connection, _ = self._server.accept()
        connection.settimeout(1.0)
        self._peers[connection] = Peer()
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: socket.socket) -> None:
        peer = self._peers[connection]
        try:
            data = connection.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._selector.unregister(connection)
            connection.close()
            rank = self._ranks.pop(connection, None)
            del self._peers[connection]
            if rank is not None and not peer.left and not peer.told and not self._owner._over:
                self._end(End(rank, USER_ERROR, "MachineError", without_a_word(peer.who)))
            return
        peer.heard = time.monotonic()
        *lines, peer.pending = (peer.pending + data).split(b"\n")
        for line in lines:
            self._take(connection, peer, line)

    def _take(self, connection: socket.socket, peer: Peer, line: bytes) -> None:
        try:
            message = json.loads(line)
        except ValueError:  # somebody else has found the port
            return
        if "rank" in message:
            peer.who, self._ranks[connection] = message["who"], message["rank"]
        elif "left" in message:
            peer.left = True
        elif "end" in message:
            peer.told = True
            self._end(End(**message["end"]), shown=True)
        elif "place" in message and (peer.place, peer.waits) != (message["place"], message["waits"]):
            peer.place, peer.waits, peer.since = message["place"], message["waits"], time.monotonic()

    def _end(self, end: End, shown: bool = False) -> None:
        """Tell all why the run ends, the first reason only; ``shown``: the process of which it is told shows it."""
        if self._ending:
            return
        self._ending = True
        # This process is the last one to know, since its own end is one more thing that others notice.
        for connection, rank in sorted(self._ranks.items(), key=lambda item: item[1] == 0):
            self._write(connection, {"end": asdict(end), "show": rank == 0 and not shown})

    def _broadcast(self, message: dict[str, Any]) -> None:
        for connection in list(self._ranks):
            self._write(connection, message)

    @staticmethod
    def _write(connection: socket.socket, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # full for a stopped process, closed for one that is gone: both are noticed
            connection.sendall(json.dumps(message).encode() + b"\n")

    def _look(self, now: float) -> None:
        """Look for processes that stand still, and for a run that does."""
        patience = self._owner.patience
        peers = sorted((rank, self._peers[c]) for c, rank in self._ranks.items() if not self._peers[c].left)
        for rank, peer in peers:
            silent = now - peer.heard
            if silent > patience:
                self._end(End(rank, USER_ERROR, "MachineError", no_sign(peer.who, patience)))
                return
            if silent > WORD and rank not in self._spoken:
                self._spoken[rank] = now
                logger.warning("%s", standing_still(peer.who, silent, patience))
            elif silent < WORD and rank in self._spoken:
                logger.warning("%s goes on after %.0f s", peer.who, now - self._spoken.pop(rank) + WORD)
        waiting = [peer for _, peer in peers if peer.waits]
        if len(peers) == self._owner.size and waiting and min(now - peer.since for _, peer in peers) > patience:
            late = [(rank, peer) for rank, peer in peers if not peer.waits] or peers
            places = "; ".join(f"{peer.who}: {peer.place}" for _, peer in peers[:8])
            text = f"nothing has gone on for {patience:g} s (dist_timeout): {places}"
            self._end(End(late[0][0], USER_ERROR, "MachineError", text))


def _end_of_first(text: str) -> End:
    return End(0, USER_ERROR, "MachineError", text)


def standing_still(who: str, silent: float, patience: float) -> str:
    """Say that a process does not answer yet."""
    return f"{who} stands still, without a sign of life for {silent:.0f} s: waiting for it, at most {patience:g} s"


def no_sign(who: str, patience: float) -> str:
    """Say that a process does not answer any more."""
    return (
        f"{who} has given no sign of life for {patience:g} s (dist_timeout): it was stopped, or its machine or the "
        "network stands still"
    )


def without_a_word(who: str) -> str:
    """Say that a process has died."""
    return f"{who} has ended without a word: killed from outside, most often for lack of memory, or its machine is gone"
