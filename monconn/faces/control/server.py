"""The control port's protocol: AMP commands to operations, and rows and events back to AMP."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from operator import attrgetter
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHandshakeListener, IPushProducer, ISSLTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols import amp
from twisted.python.failure import Failure
from zope.interface import implementer

from monconn._version import __version__
from monconn.clock import Clock
from monconn.errors import ConfigError, quoted
from monconn.faces.control import commands, peers
from monconn.faces.control.boxes import BoxReader, MalformedBox
from monconn.faces.control.pages import PAGE_BYTES, HeldRows, Pager, encoded_row
from monconn.faces.control.taps import PIECE_BYTES, TapSender
from monconn.log import Logger
from monconn.model.actions import Actor
from monconn.model.flow import in_pieces, to_json
from monconn.model.record import iso_time
from monconn.ops.closing import CloseResult
from monconn.ops.columns import Row
from monconn.ops.feed import FeedEvent, Subscription
from monconn.ops.operations import ChangeResult, Operations
from monconn.ops.reload import ReloadResult
from monconn.places import Places, network_of
from monconn.roles import Role
from monconn.steps import RowSteps
from monconn.turns import TurnQueue

CLIENTS_AT_ONCE = 64
MAX_STRANGERS = 64
"""The most clients amid a TLS handshake, and the most that are authenticated and have not sent
Hello. One more takes the place of another, so that strangers cannot keep operators out."""
HELLO_SECONDS = 10.0
"""How long a client may take from its connection to its Hello, a TLS handshake included."""
HANG_UP_SECONDS = 1.0
"""How often it is checked whether clients that are not read from have hung up."""
_DESCRIPTION_BYTES = 4096
_ID_DIGITS = 18  # as in a filter; and so the ids of a request fit into the answer

Answer = Deferred[dict[str, Any]]


class UnreadClients:
    """Ends those who hang up while they are not read from, as no transport notices it then.

    Else all that they have asked for would be done for nobody.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._clients: set[ControlProtocol] = set()
        self._timer: Any = None

    def add(self, client: ControlProtocol) -> None:
        """Check a client from now on."""
        self._clients.add(client)
        if self._timer is None:
            self._timer = self._clock.callLater(HANG_UP_SECONDS, self._check)

    def remove(self, client: ControlProtocol) -> None:
        """Check a client no more; harmless for one that is not checked."""
        self._clients.discard(client)

    def _check(self) -> None:
        self._timer = None
        for client in tuple(self._clients):
            if peers.has_hung_up(client.transport):
                client.close()
        if self._clients:
            self._timer = self._clock.callLater(HANG_UP_SECONDS, self._check)


class ControlFactory(Factory):
    """Serves the control port's clients.

    :param operations: what they can ask for.
    :param role: what they may do.
    """

    noisy = False

    def __init__(self, operations: Operations, role: Role = "operate") -> None:
        self.operations = operations
        self.role = role
        self.access = peers.OWN_USER
        """Whom the socket's file lets in."""
        self.queue = TurnQueue(operations.clock)
        """Requests of all clients."""
        self.held_rows = HeldRows()
        self.clients: set[ControlProtocol] = set()
        """All who are connected."""
        self.greeted: set[ControlProtocol] = set()
        """Those who have sent Hello."""
        self.handshaking = Places[ControlProtocol](MAX_STRANGERS, _origin_of)
        """Those amid a TLS handshake."""
        self.silent = Places[ControlProtocol](MAX_STRANGERS, _origin_of)
        """Those who are authenticated and have not sent Hello."""
        self.unread = UnreadClients(operations.clock)
        """Those who are not read from for now."""

    def buildProtocol(self, addr: Any) -> ControlProtocol:
        """Implements ``IProtocolFactory.buildProtocol``."""
        return ControlProtocol(self, network_of(getattr(addr, "host", "")))

    def close(self) -> None:
        """Abort the connections of all clients, and deliver no more events to them."""
        for client in tuple(self.clients):
            client.close()


@implementer(IPushProducer, IHandshakeListener)
class ControlProtocol(amp.AMP):
    """One client of the control port.

    One request at a time is under way: the next is begun in a later turn of the reactor, once the
    one before is answered and the client has taken enough of its answers. Meanwhile nothing more
    is read than one chunk.

    :param factory: knows the other clients, and what can be asked for.
    :param origin: where the client comes from, which is its group in :class:`Places`.
    """

    transport: Any
    _log = Logger()

    def __init__(self, factory: ControlFactory, origin: str = "") -> None:
        super().__init__()
        self._factory = factory
        self.origin = origin
        self._operations = factory.operations
        self._boxes = BoxReader()
        self._timer: Any = None
        self._pager = Pager(self._operations.clock, factory.held_rows)
        self._is_closed = False
        self._is_busy = False
        """Whether a request is under way, or waits for its turn."""
        self._under_way: Deferred[Any] | None = None
        self._is_slow = False
        self._is_reading = True
        self._subscription: Subscription | None = None
        self._tap: TapSender | None = None

    # -- authentication, and limits on what a client may use

    def makeConnection(self, transport: Any) -> None:
        """Connect, without the log line that AMP writes for each connection."""
        amp.BinaryBoxProtocol.makeConnection(self, transport)

    def connectionMade(self) -> None:
        """Abort the connection of a peer that may not use the control port."""
        super().connectionMade()
        if not peers.is_authorized(self.transport, self._factory.access):
            self.close()
            return
        self._factory.clients.add(self)
        self.transport.registerProducer(self, True)
        self._timer = self._operations.clock.callLater(HELLO_SECONDS, self._too_late)
        if ISSLTransport.providedBy(self.transport):
            self._enter(self._factory.handshaking)
        else:
            self._enter(self._factory.silent)

    def handshakeCompleted(self) -> None:
        """Implements ``IHandshakeListener``: the client has a certificate that is trusted."""
        self._factory.handshaking.leave(self)
        if not self._is_closed:
            self._enter(self._factory.silent)

    def _enter(self, places: Places[ControlProtocol]) -> None:
        replaced = places.enter(self)
        if replaced is not None:
            replaced.close()

    def close(self) -> None:
        """Abort the connection, and deliver no more events; harmless the second time."""
        if not self._is_closed:
            self._leave()
            self.transport.abortConnection()

    def _leave(self) -> None:
        self._is_closed = True
        self._factory.clients.discard(self)
        self._factory.greeted.discard(self)
        self._factory.unread.remove(self)
        self._factory.handshaking.leave(self)
        self._factory.silent.leave(self)
        self._stop_timer()
        self.unsubscribe()
        self._close_tap()
        self._pager.drop()
        if self._under_way is not None:
            self._under_way.cancel()

    def _too_late(self) -> None:
        self._timer = None
        self.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Implements ``IProtocol.connectionLost``."""
        self._leave()
        amp.BinaryBoxProtocol.connectionLost(self, reason)

    # -- requests, one after the other

    def dataReceived(self, data: bytes) -> None:
        """Hold what was received, for one request after the other."""
        if not self._is_closed:
            self._boxes.add(data)
            self._begin_next()

    def _begin_next(self) -> None:
        """Begin with the next request, unless one is under way or answers are not taken."""
        if not (self._is_busy or self._is_slow or self._is_closed):
            try:
                box = self._boxes.take()
            except MalformedBox as error:
                self._log.debug("control client: {error}", error=str(error))
                self.close()
                return
            if box is not None:
                self._is_busy = True
                self._factory.queue.add(lambda: self._begin(box))
        self._pause_or_resume()

    def _pause_or_resume(self) -> None:
        """Read only what is soon needed: nothing while there is a backlog."""
        must_read = not (self._is_slow or (self._is_busy and len(self._boxes)))
        if must_read != self._is_reading and not self._is_closed:
            self._is_reading = must_read
            if must_read:
                self._factory.unread.remove(self)
                self.transport.resumeProducing()
            else:
                self._factory.unread.add(self)
                self.transport.pauseProducing()

    def _begin(self, box: amp.AmpBox) -> None:
        if self._is_closed:
            return
        try:
            self.ampBoxReceived(box)
        except Exception:  # it is no request, or answers what nobody has asked
            self.close()

    def dispatchCommand(self, box: amp.AmpBox) -> Deferred[Any]:
        """Run a command; the next one waits until it is answered."""
        answered: Deferred[Any] = super().dispatchCommand(box)
        self._under_way = answered
        return answered.addBoth(self._ended)

    def _ended(self, result: Any) -> Any:
        self._under_way = None
        if isinstance(result, Failure) and result.check(CancelledError):
            result = amp.AmpBox()  # nobody is there to read it
        # In a later turn: by then the answer is written, which may have paused us.
        self._factory.queue.add(self._is_free)
        return result

    def _is_free(self) -> None:
        self._is_busy = False
        self._begin_next()

    def locateResponder(self, name: bytes) -> Any:
        """Find a command's responder; before Hello, every other command is denied."""
        if self not in self._factory.greeted and name != commands.Hello.commandName:
            return _deny
        # Only the commands of this module: AMP itself would let the client switch to TLS.
        command = _COMMANDS.get(name)
        if command is None:
            return _refuse
        # A command that says nothing of its role is for those who may do everything.
        if self._factory.role != "operate" and getattr(command, "role", "operate") != "view":
            return _needs_role
        return amp.CommandLocator.locateResponder(self, name) or _refuse

    def sendBox(self, box: amp.AmpBox) -> None:
        """Send a box; too long a description is shortened, another value that is makes an error.

        Both repeat what the client has sent, escaped.
        """
        description = box.get(amp.ERROR_DESCRIPTION)
        if description is not None and len(description) > _DESCRIPTION_BYTES:
            shortened = description[:_DESCRIPTION_BYTES].decode("utf-8", "ignore")
            box[amp.ERROR_DESCRIPTION] = f"{shortened}…".encode()
        elif amp.ANSWER in box and any(len(each) > amp.MAX_VALUE_LENGTH for each in box.values()):
            box = amp.AmpBox(
                {
                    amp.ERROR: box[amp.ANSWER],
                    amp.ERROR_CODE: b"BAD_REQUEST",
                    amp.ERROR_DESCRIPTION: b"the answer would be longer than a value may be",
                }
            )
        super().sendBox(box)

    def unhandledError(self, failure: Failure) -> None:
        """Disconnect without a traceback: a client's malformed request is not an internal error."""
        self._log.debug("control client: {reason}", reason=failure.getErrorMessage())
        self.close()

    def pauseProducing(self) -> None:
        """The client reads slowly: read no more requests, and drop events."""
        self._is_slow = True
        if self._subscription is not None:
            self._subscription.pause()
        if self._tap is not None:
            self._tap.pause()
        self._pause_or_resume()

    def resumeProducing(self) -> None:
        """Implements ``IPushProducer.resumeProducing``."""
        self._is_slow = False
        if self._subscription is not None:
            self._subscription.resume()
        if self._tap is not None:
            self._tap.resume()
        self._begin_next()

    def stopProducing(self) -> None:
        """Implements ``IPushProducer.stopProducing``; ``connectionLost`` follows."""

    @commands.Hello.responder
    def hello(self, version: int) -> dict[str, Any]:
        """Agree on a version, and take one of the places for clients."""
        if version < 1:
            raise commands.BadRequest(f"there is no version {version} of this protocol")
        greeted = self._factory.greeted
        if self not in greeted and len(greeted) >= CLIENTS_AT_ONCE:
            raise commands.Denied(f"{CLIENTS_AT_ONCE} clients are served already")
        greeted.add(self)
        self._factory.silent.leave(self)
        self._stop_timer()
        return {
            "version": min(version, commands.VERSION),
            "server": f"monconn {__version__}",
            "pid": os.getpid(),
            "manhole": self._operations.manhole(),
            "filters": True,
            "sorts": True,
            "taps": True,
            "captures": True,
            "outputs": True,
            "recordings": True,
            "why": True,
            "blocks": True,
            "pauses": True,
            "web": True,
            "role": self._factory.role,
            "served": self._operations.token,
        }

    # -- queries. Each hands its arguments, which AMP has parsed, to the operation of its name.

    @commands.ListServices.responder
    def list_services(self, service: str | None = None) -> Answer:
        """Each service's figures; its IPs may be too many for a page, and have their own list."""
        return self._rows(self._operations.services(service))

    @commands.ListConnections.responder
    def list_connections(self, **arguments: Any) -> Answer:
        """Connections, with how many there are in all."""
        return self._operations.connections(**arguments).addCallback(
            lambda found: self._rows(found.rows, {"total": found.total})
        )

    @commands.ListIps.responder
    def list_ips(self, **arguments: Any) -> Answer:
        """The bare IPs."""
        rows = self._operations.ips(**arguments)
        return self._pager.first(row and row.ip for row in rows)

    @commands.ListClients.responder
    def list_clients(self, **arguments: Any) -> Answer:
        """The totals of each client IP."""
        return self._rows(self._operations.clients(**arguments))

    @commands.ListDevices.responder
    def list_devices(self, **arguments: Any) -> Answer:
        """Each device that was seen."""
        return self._rows(self._operations.devices(**arguments))

    @commands.ListBlocks.responder
    def list_blocks(self, **arguments: Any) -> Answer:
        """The blocked networks."""
        return self._rows(self._operations.blocks(**arguments))

    @commands.ListHistory.responder
    def list_history(self, events: bool | None = None, **arguments: Any) -> Answer:
        """Connections that are over, or events."""
        find = self._operations.history_events if events else self._operations.history
        found: Deferred[Any] = find(**arguments)
        return found.addCallback(lambda listing: self._rows(listing.rows, held=listing.total))

    @commands.Report.responder
    def report(self, **arguments: Any) -> Answer:
        """A period summed up."""
        return self._operations.report(**arguments).addCallback(
            lambda row: {"report": _json(row.to_json())}
        )

    @commands.ShowConnection.responder
    def show_connection(self, id: int, uid: str | None = None) -> Answer:
        """One connection, whole."""
        return self._operations.connection(id if uid is None else uid).addCallback(
            lambda row: {"connection": encoded_row(row.to_json())}
        )

    @commands.ShowDevice.responder
    def show_device(self, device: str, **arguments: Any) -> Answer:
        """One device's story."""
        return self._operations.device(device, **arguments).addCallback(
            lambda story: self._rows(
                iter(story.rows), {"device": encoded_row(story.head)}, held=len(story.rows)
            )
        )

    @commands.Why.responder
    def why(self, client: str, service: str | None = None) -> Answer:
        """What would happen to a client."""
        return self._operations.why(client, service=service).addCallback(
            lambda rows: self._rows(iter(rows), held=len(rows))
        )

    @commands.NextPage.responder
    def next_page(self, next: int) -> Answer:
        """More of the list that was requested last."""
        page = self._pager.next(next)
        if page is None:
            raise commands.UnknownPage("there is no such page: ask for the list again")
        return page

    def _rows(
        self, rows: RowSteps[Row], others: dict[str, Any] | None = None, held: int = 0
    ) -> Answer:
        """The first page of a list, with the other values of the answer."""
        plain = (row and row.to_json() for row in rows)
        return self._pager.first(plain, held).addCallback(lambda page: page | (others or {}))

    # -- actions

    @commands.CloseConnections.responder
    def close_connections(
        self, ids: bytes | None = None, dry_run: bool | None = None, **arguments: Any
    ) -> Answer:
        """End connections; a dry run answers which."""
        wanted = None if ids is None else _ids(ids)

        def answer(done: CloseResult) -> Any:
            values = {
                "closed": len(done.ids),
                "unknown": json.dumps(done.unknown, separators=(",", ":")).encode(),
            }
            return self._rows(iter(done.rows), values) if dry_run else values

        return self._operations.close(
            self._actor(), ids=wanted, dry_run=dry_run, **arguments
        ).addCallback(answer)

    @commands.Block.responder
    def block(self, **arguments: Any) -> dict[str, Any]:
        """Refuse a network's clients."""
        done = self._operations.block(self._actor(), **arguments)
        until = {} if done.until_at is None else {"until": iso_time(done.until_at)}
        return {
            "changed": done.changed,
            "closed": done.count,
            "updated": done.is_update,
            "kept": done.is_kept,
            **until,
        }

    @commands.Unblock.responder
    def unblock(self, **arguments: Any) -> dict[str, Any]:
        """Admit a network's clients again."""
        done = self._operations.unblock(self._actor(), **arguments)
        wider = done.still_blocked_by
        return {"changed": done.changed, **({"still_blocked_by": wider} if wider else {})}

    @commands.ResetStats.responder
    def reset_stats(self, **arguments: Any) -> dict[str, Any]:
        """Set totals to zero."""
        self._operations.reset_stats(self._actor(), **arguments)
        return {}

    @commands.SubtractStats.responder
    def subtract_stats(self, **arguments: Any) -> dict[str, Any]:
        """Subtract from totals."""
        self._operations.subtract_stats(self._actor(), **arguments)
        return {}

    @commands.Forget.responder
    def forget(self, network: str, dry_run: bool | None = None) -> Answer:
        """Remove what is stored of a network's clients."""
        done = self._operations.forget(self._actor(), network, dry_run=dry_run)
        return done.addCallback(lambda result: {"forgotten": _json(result.to_json())})

    @commands.Reload.responder
    def reload(self, dry_run: bool | None = None) -> Answer:
        """Read the configuration's file again."""

        def answer(result: ReloadResult) -> Answer:
            rows = [each.to_json() for each in result.changes]
            return self._reloaded(result.to_json(), rows)

        def answer_problems(failure: Failure) -> Answer:
            failure.trap(ConfigError)
            assert isinstance(failure.value, ConfigError)
            rows = [attrs.asdict(each) for each in failure.value.problems]
            head = {"file": "", "dry_run": bool(dry_run), "problems": len(rows)}
            return self._reloaded(head, rows)

        reloading = self._operations.reload(self._actor(), dry_run=bool(dry_run))
        return reloading.addCallbacks(answer, answer_problems)

    def _reloaded(self, head: dict[str, Any], rows: list[dict[str, Any]]) -> Answer:
        values = {"result": encoded_row(head)}
        return self._pager.first(rows, len(rows)).addCallback(lambda page: page | values)

    def _actor(self) -> Actor:
        actor = peers.actor(self.transport)
        if actor is None:
            raise commands.Denied("the client's user is not known")
        return actor

    # -- events

    @commands.Subscribe.responder
    def subscribe(self, **arguments: Any) -> dict[str, Any]:
        """Push events from now on; instead of those of an earlier subscription."""
        subscription = self._operations.subscribe(self._push, **arguments)
        if self._subscription is not None:
            subscription.dropped = self._subscription.dropped
        self.unsubscribe()
        self._subscription = subscription
        if self._is_slow:
            subscription.pause()
        return {}

    def unsubscribe(self) -> None:
        """Push no more events; harmless without a subscription."""
        if self._subscription is not None:
            self._subscription.cancel()
            self._subscription = None

    def _push(self, event: FeedEvent) -> None:
        if self._subscription is not None:
            encoded = event.encode()
            if len(encoded) > PAGE_BYTES:
                encoded = encoded_row(event.to_json())
            self.callRemote(commands.Event, event=encoded, dropped=self._subscription.dropped)

    # -- bytes

    @commands.Tap.responder
    def tap(self, **arguments: Any) -> Answer:
        """Push the bytes of connections from now on; instead of those of an earlier tap."""
        sender = TapSender(partial(self.callRemote, commands.FlowEvents), self._factory.queue)
        replaced = None if self._tap is None else self._tap.tap
        opened = self._operations.tap(self._actor(), sender.ready, replaced=replaced, **arguments)
        self._close_tap()
        self._tap = sender
        if self._is_slow:
            sender.pause()
        return opened.addCallback(sender.start)

    @commands.CaptureStart.responder
    def capture_start(self, **arguments: Any) -> dict[str, Any]:
        """Write bytes of connections to files from now on."""
        done = self._operations.capture_start(self._actor(), **arguments)
        return {
            "capture": encoded_row(done.row.to_json()),
            "services_left_out": _json(done.services_left_out),
        }

    @commands.CaptureStop.responder
    def capture_stop(self, ids: bytes | None = None) -> Answer:
        """End captures."""
        wanted = None if ids is None else _ids(ids)
        return self._rows(iter(self._operations.capture_stop(self._actor(), wanted)))

    @commands.ListCaptures.responder
    def list_captures(self) -> Answer:
        """The captures that run, and those that have ended last."""
        return self._rows(self._operations.captures.rows())

    @commands.ListOutputs.responder
    def list_outputs(self) -> Answer:
        """Who is notified of events."""
        return self._rows(iter(self._operations.outputs()))

    @commands.NotifyTest.responder
    def notify_test(self, number: int | None = None) -> Answer:
        """Send a test."""
        testing = self._operations.notify_test(self._actor(), number)
        return testing.addCallback(lambda rows: self._rows(iter(rows)))

    @commands.ReadRecording.responder
    def read_recording(self, id: int, uid: str | None = None, how: str | None = None) -> Answer:
        """What is recorded of one connection."""
        wanted = id if uid is None else uid
        events = self._operations.recording(self._actor(), wanted, how=how)
        pieces = (piece for event in events for piece in in_pieces(event, PIECE_BYTES))
        return self._pager.first(map(to_json, pieces))

    # -- the HTTP API

    @commands.WebLink.responder
    def web_link(self, role: str | None = None) -> dict[str, Any]:
        """A link that logs a browser in."""
        access = self._operations.http_access()
        link = access.make_link(self._actor(), self._factory.role, role)
        return {"url": link.url, "seconds": link.seconds}

    @commands.MakeToken.responder
    def make_token(self, **arguments: Any) -> Answer:
        """A new token."""
        access = self._operations.http_access()
        return access.make_token(self._actor(), self._factory.role, **arguments).addCallback(
            lambda made: {
                "token": made.token,
                "name": made.name,
                "role": made.role,
                "file": made.path,
            }
        )

    @commands.ListTokens.responder
    def list_tokens(self) -> Answer:
        """The tokens that are in force."""
        access = self._operations.http_access()
        return self._rows(iter(access.tokens()), {"file": access.tokens_path})

    @commands.RevokeToken.responder
    def revoke_token(self, name: str) -> Answer:
        """Have a token be of no use any more."""
        revoking = self._operations.http_access().revoke_token(self._actor(), name)
        return revoking.addCallback(lambda _: {})

    @commands.LogOutAll.responder
    def log_out_all(self) -> Answer:
        """End the sessions of all browsers."""
        ending = self._operations.http_access().log_out_all(self._actor())
        return ending.addCallback(lambda _: {})

    # -- pause, drain

    @commands.Pause.responder
    def pause(self, **arguments: Any) -> dict[str, Any]:
        """Have a service stand still."""
        return _changed(self._operations.pause(self._actor(), **arguments))

    @commands.Resume.responder
    def resume(self, **arguments: Any) -> dict[str, Any]:
        """Have a service go on."""
        return _changed(self._operations.resume(self._actor(), **arguments))

    @commands.Drain.responder
    def drain(self, **arguments: Any) -> dict[str, Any]:
        """Have a service refuse its clients."""
        return _changed(self._operations.drain(self._actor(), **arguments))

    def _close_tap(self) -> None:
        if self._tap is not None:
            self._tap.close()
            self._tap = None


_COMMANDS: dict[bytes, type[amp.Command]] = {
    each.commandName: each
    for each in vars(commands).values()
    if isinstance(each, type) and issubclass(each, amp.Command)
}


_origin_of: Callable[[ControlProtocol], str] = attrgetter("origin")


def _changed(done: ChangeResult) -> dict[str, Any]:
    updated = {"updated": True} if done.is_update else {}
    return {"changed": done.changed, "connections": done.count, **updated}


def _deny(box: amp.AmpBox) -> Any:
    raise amp.RemoteAmpError(b"DENIED", "say Hello first")


def _needs_role(box: amp.AmpBox) -> Any:
    verb = commands.verb_of(box[amp.COMMAND].decode())  # of a command that there is
    problem = f"{verb} needs the role operate; this control port gives view"
    raise amp.RemoteAmpError(b"DENIED", problem)


def _refuse(box: amp.AmpBox) -> Any:
    name = quoted(box[amp.COMMAND].decode("utf-8", "replace"))
    raise amp.RemoteAmpError(amp.UNHANDLED_ERROR_CODE, f"there is no command {name}")


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _ids(text: bytes) -> list[int]:
    try:
        ids = json.loads(text)
    except (ValueError, RecursionError):
        ids = None
    if not isinstance(ids, list) or not all(
        type(each) is int and abs(each) < 10**_ID_DIGITS for each in ids
    ):
        raise commands.BadRequest(
            f"ids must be a JSON array of integers of {_ID_DIGITS} digits at most"
        )
    return ids
