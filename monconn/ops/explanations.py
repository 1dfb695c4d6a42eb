"""What the words of a log line mean: reasons, refusals, states, ends, alarms, errors, codes.

Each value of the closed lists (:mod:`monconn.model.reasons`, :mod:`monconn.model.alarms`) and each
error number that a ``detail`` may show has one entry. Nothing here needs a running monconn.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable
from typing import Any, Literal

import attrs

Kind = Literal[
    "reason",
    "refusal",
    "state",
    "service state",
    "setting",
    "end",
    "alarm",
    "event",
    "pipe",
    "mqtt",
    "error",
]

_MOST_CHARACTERS = 80
"""The longest text that is compared with the known words."""
_CLOSE_MATCHES = 3


@attrs.frozen
class Step:
    """One thing to look at next.

    :param text: what it tells, or the setting to change.
    :param command: what to type, with ``IP``, ``BACKEND-IP``, ``ID``, ``CLIENT-ID``, ``DEVICE`` and
        ``SERVICE`` for those of the connection.
    """

    text: str
    command: str = ""


@attrs.frozen
class Explanation:
    """One word.

    :param word: as it is in logs, JSON and metrics.
    :param kind: the list that it is a value of.
    :param short: what happened, in one line; the tables in ``docs/reasons.md`` have it, too.
    :param meaning: what exactly it says, and what it does not.
    :param causes: what usually causes it, the most frequent first.
    :param next: what to look at, and what to change.
    :param codes: of a reason: HAProxy's letters that it usually has.
    :param see: the page of the documentation, and its section.
    :param brief: of a reason: the same as ``short`` in a few words, if that has more; "it" is the
        connection.
    """

    word: str
    kind: Kind
    short: str
    meaning: str = ""
    causes: tuple[str, ...] = ()
    next: tuple[Step, ...] = ()
    codes: tuple[str, ...] = ()
    see: str = ""
    brief: str = ""

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            **attrs.asdict(
                self, filter=lambda field, _: field.name not in ("next", "causes", "brief")
            ),
            "codes": list(self.codes),
            "causes": list(self.causes),
            "next": [attrs.asdict(each) for each in self.next],
        }


_CAPTURE_RESETS = "tcpdump -ni any 'host IP and tcp[tcpflags] & (tcp-rst|tcp-fin) != 0'"

_REASONS = (
    Explanation(
        "client_closed",
        "reason",
        "the client closed its side first",
        "The client's FIN (over TLS: its close_notify, or a bare FIN) came before any from the"
        " backend, both sides have ended, and each has acknowledged everything. A normal end. It"
        " does not say whether the client had got the answer that it wanted, or had given up"
        " waiting: to TCP, close() looks the same in both cases.",
        (
            "The client was done: HTTP without keep-alive, MQTT DISCONNECT, a health check.",
            "The client's own time-out: it waited, gave up, and closed in good order.",
            "The client's process ended, or crashed: its kernel closes the sockets with a FIN if"
            " nothing was left unread in them. (Only a host that crashes says nothing.)",
            "A load balancer or a proxy in front of us closed its idle connection.",
        ),
        (
            Step(
                "Do they all last equally long? Then it is a time-out or a schedule.",
                "monconn history client:IP reason:client_closed --since 1d",
            ),
            Step(
                "first_down_seconds empty, or last_up_seconds later than last_down_seconds: it left"
                " without an answer.",
                "monconn show ID",
            ),
        ),
        ("--",),
        "reasons.md",
    ),
    Explanation(
        "client_reset",
        "reason",
        "the client reset the connection",
        "An RST came from the client before its side had ended in good order; over TLS, a fatal"
        " alert. The backend gets what the client had sent before, and is then reset, too. An RST"
        " is sent by a kernel, not by a program: it says that nobody was there to read, or that"
        " somebody on the way wanted the connection gone. It does not say who made it: a firewall"
        " can forge one.",
        (
            "The client's program closed the socket while bytes from the backend were still unread"
            " in it, or arrived after that (RFC 9293, 3.6.1): browsers and apps that cancel.",
            "The program set SO_LINGER to 0 and closed, as many embedded stacks and load testers"
            " do in order to keep no TIME_WAIT.",
            "The process crashed or was killed with unread bytes in its socket.",
            "The device restarted and no longer knows the connection: it answers the next segment"
            " that it gets with an RST.",
            "A NAT, a firewall or a load balancer had forgotten the silent connection, and answers"
            " the next segment with an RST. Then the silence before the end is about the same each"
            " time: 60, 240, 350 or 600 s are usual time-outs of such boxes.",
            "Port scanners and health checks that connect and reset without a byte.",
        ),
        (
            Step(
                "Had it been silent, and how long? (last_up_seconds, last_down_seconds)",
                "monconn show ID",
            ),
            Step(
                "How often, and always after the same time?",
                "monconn history client:IP reason:client_reset --since 1d",
            ),
            Step("Who sends the RST, and with which TTL?", _CAPTURE_RESETS),
            Step(
                "If a box on the way forgets silent connections: have the client send more often,"
                " or probe it sooner: keepalive: {client: {idle: 60s}}."
            ),
        ),
        ("CC", "CD", "CL"),
        "reasons.md",
        brief="the client reset it",
    ),
    Explanation(
        "client_lost",
        "reason",
        "the client vanished: its kernel no longer answers",
        "Neither a byte nor an acknowledgement came from the client any more, though its kernel was"
        " asked: at least two retransmissions or keepalive probes in a row stayed unanswered for"
        " 3 s or longer, or our kernel gave up (ETIMEDOUT), or a router said that there is no way"
        " (EHOSTUNREACH, ENETUNREACH). detail names the limit or the error that brought it to"
        " light; closed_by says who had closed before because of it. It is the host or the way to"
        " it that is gone: a program that hangs or crashes on a living host never looks like this.",
        (
            "The device lost power, or was switched off without closing.",
            "It lost its network: out of radio range, Wi-Fi roaming, a cable out, a tunnel down.",
            "Its address changed (mobile network, DHCP, IPv6 privacy): the old one is silent.",
            "A NAT or firewall forgot the silent connection, and drops what comes for it without an"
            " RST, as cellular networks do after 5 to 30 minutes.",
            "It sleeps (PSM, eDRX), and was asked while it slept: then it is alive, and our"
            " settings are too impatient.",
            "The host crashed, or was suspended.",
        ),
        (
            Step("When was it last heard, and how bad was the network before?", "monconn show ID"),
            Step("Does it come back, how often, after which silence?", "monconn device DEVICE"),
            Step(
                "Has it happened before, and to others at the same time?",
                "monconn history reason:client_lost --since 1d",
            ),
            Step(
                "To know sooner: unreachable_timeout: 20s. For devices that sleep the opposite:"
                " keepalive: {client: {idle: 2h, interval: 10m, count: 9}}."
            ),
            Step("Is there a way at all?", "ping -c 3 IP"),
        ),
        ("CC", "CD", "CL"),
        "reasons.md#sides-that-vanish",
        brief="the client vanished",
    ),
    Explanation(
        "backend_closed",
        "reason",
        "the backend closed its side first, and the client has acknowledged everything",
        "The backend's FIN (over TLS: its close_notify) came before any from the client. All that"
        " it had sent was delivered. A normal end, as far as TCP can tell: a server that throws a"
        " client out closes in the same way.",
        (
            "The answer was complete: HTTP/1.0, Connection: close, FTP data.",
            "The server's keep-alive or idle time-out: nginx closes idle HTTP connections after"
            " 75 s, Apache after 5 s.",
            "The protocol's own keepalive ran out: an MQTT broker closes 1.5 times the keep-alive"
            " after the last packet (MQTT 3.1.1, 3.1.2.10).",
            "The server refused the client in its protocol: wrong password, not authorised, another"
            " session with the same client id took over.",
            "The server's process ended, was restarted or reloaded: then many end at once.",
        ),
        (
            Step("Did it close after a silence, or right after an answer?", "monconn show ID"),
            Step(
                "Many in the same second: a restart or a crash of the server.",
                "monconn history reason:backend_closed service:SERVICE --since 1h",
            ),
            Step("The server's own log at that time: it knows why."),
        ),
        ("--",),
        "reasons.md",
        brief="the backend closed its side first",
    ),
    Explanation(
        "backend_reset",
        "reason",
        "the backend reset the connection, if only as soon as it had accepted it, or cut it off",
        "An RST came from the backend before its side had ended in good order; over TLS also a"
        " fatal alert, or a FIN without close_notify, which is a cut: the answer may lack its end."
        " The client gets what came before, and is reset then.",
        (
            "The server closed with bytes of the client still unread in its socket: it answered an"
            " error and did not read the rest of an upload (RFC 9112, 9.6).",
            "The server's process crashed, was killed or restarted while it had unread bytes.",
            "It was closed as soon as it was accepted: the server is out of workers or descriptors,"
            " or denies our address (tcp_wrappers, MaxStartups of sshd).",
            "A firewall or a load balancer between us and the backend forgot the silent connection"
            " or rejects it with a reset.",
            "SO_LINGER 0 in the server.",
            "detail says the backend ended without close_notify: a TLS server that closes the"
            " socket without ending TLS; harmless for protocols that know their own lengths.",
        ),
        (
            Step(
                "After how long, and had the backend sent anything?",
                "monconn show ID",
            ),
            Step(
                "All clients, or only this one?",
                "monconn history reason:backend_reset service:SERVICE --since 1h",
            ),
            Step("The server's log and the kernel's: a crash, the OOM killer.", "dmesg -T"),
        ),
        ("SD",),
        "reasons.md#ends-over-tls",
        brief="the backend reset it, or cut it off",
    ),
    Explanation(
        "backend_lost",
        "reason",
        "the backend vanished: its kernel no longer answers",
        "As client_lost, but for the backend: its host, or the way to it, is gone. A server whose"
        " program hangs is still answered for by its kernel, and never lost.",
        (
            "The server's host crashed, lost its power, or was stopped (a virtual machine).",
            "A fail-over moved the service's address to another host, which has not reset us.",
            "The route, a VPN or a tunnel to it broke.",
            "A firewall between forgot the silent connection and drops its segments: Linux'"
            " conntrack after 5 days, cloud load balancers and NATs after 4 to 10 minutes.",
        ),
        (
            Step(
                "Were all connections to this backend lost at once?",
                "monconn history reason:backend_lost service:SERVICE --since 1h",
            ),
            Step("Since when was it not heard?", "monconn show ID"),
            Step(
                "To know sooner: unreachable_timeout: {backend: 5s}; against boxes that forget:"
                " keepalive: {backend: {idle: 60s}}."
            ),
        ),
        ("SD",),
        "reasons.md#sides-that-vanish",
        brief="the backend vanished",
    ),
    Explanation(
        "backend_refused",
        "reason",
        "nobody listens at the backend, at none of its addresses",
        "The backend's host answered our SYN with an RST (ECONNREFUSED): it is there, but no"
        " program listens at that port, or a firewall rejects with a reset. At a UNIX socket: its"
        " file is there, and nobody listens behind it.",
        (
            "The server is not running, has crashed, or is just restarting.",
            "It listens on another port, or only on 127.0.0.1 or only on IPv6.",
            "A firewall rejects with tcp-reset.",
            "A container's port is published, but nothing in it listens.",
            "On some systems other than Linux, a full accept queue is answered so.",
        ),
        (
            Step("Does it listen? (on the backend's host)", "ss -tlnp"),
            Step("What is the backend, as monconn sees it?", "monconn stats"),
            Step(
                "Since when?",
                "monconn history reason:backend_refused service:SERVICE --since 1d",
            ),
        ),
        ("SC",),
        "forwarding.md#how-a-backend-is-connected-to",
        brief="the backend refused the connection",
    ),
    Explanation(
        "backend_unreachable",
        "reason",
        "there is no route to the backend, its name cannot be resolved, its interface is not there,"
        " or the TLS handshake with it fails",
        "No connection to the backend was made, and neither refusal nor time was the cause; detail"
        " says which it was. For a UNIX socket: its file is missing, or we may not use it.",
        (
            "no route to host (EHOSTUNREACH): no answer to ARP or neighbour discovery: the host is"
            " off; or a router or firewall rejects.",
            "network is unreachable (ENETUNREACH): no route on this machine, often for IPv6.",
            "The name cannot be resolved: the name server, /etc/resolv.conf, a slip in the name.",
            "TLS: the certificate is expired, is for another name, or is not trusted.",
            "no such file or directory, permission denied: the path of a UNIX socket.",
        ),
        (
            Step("detail names the fault.", "monconn list --closed reason:backend_unreachable"),
            Step("The route and the neighbour, on this machine", "ip route get BACKEND-IP"),
            Step("The name, as this machine resolves it", "getent ahosts BACKEND-NAME"),
            Step("TLS: backend_tls: {ca: PATH, server_name: NAME}."),
        ),
        ("SC",),
        "forwarding.md#how-a-backend-is-connected-to",
        brief="the backend could not be reached",
    ),
    Explanation(
        "connect_timeout",
        "reason",
        "the backend did not accept the connection, or complete its TLS handshake (detail says so),"
        " within connect_timeout",
        "SYNs to the backend stayed unanswered, by it or by anyone. Nothing was refused, nothing"
        " said that there is no way: packets disappear, or the host does not take them. Or it was"
        " the kernel that gave up before (ETIMEDOUT). detail says if it was the name that was not"
        " resolved in time, or the TLS handshake that was not completed.",
        (
            "A firewall drops packets to that port (cloud security groups drop, and never reject).",
            "The backend's accept queue is full, as its program does not accept: Linux then drops"
            " SYNs and the last ACK (net.core.somaxconn, the program's backlog).",
            "The backend's host is off, behind a router that does not say so.",
            "The way back is missing: the backend's answers go elsewhere (asymmetric routes).",
            "The name server does not answer.",
        ),
        (
            Step("On the backend: is Recv-Q at its limit (Send-Q)?", "ss -tln"),
            Step("On the backend: dropped for a full queue?", "nstat -az TcpExtListenDrops"),
            Step("Do SYNs leave, does anything come back?", "tcpdump -ni any host BACKEND-IP"),
            Step("The time allowed is connect_timeout, 10 s unless set."),
        ),
        ("sC",),
        "forwarding.md#how-a-backend-is-connected-to",
        brief="the backend was not connected within connect_timeout",
    ),
    Explanation(
        "read_timeout",
        "reason",
        "the client sent nothing for read_timeout",
        "No byte came from a client that we were ready to read from and that had not ended its"
        " side. It is alive as far as the kernel knows: one that vanished would be client_lost.",
        (
            "The client waits for the backend, and the backend takes longer than read_timeout.",
            "It connected and says nothing: a scanner, a health check, a spare connection.",
            "It keeps the connection open for later: keep-alive, MQTT with a longer keep-alive.",
            "The program on the device hangs, while its kernel lives.",
        ),
        (
            Step("Had it sent anything, and who was to speak next?", "monconn show ID"),
            Step(
                "Its usual interval between messages: read_timeout must be longer.",
                "monconn device DEVICE",
            ),
            Step("read_timeout: 0 switches it off; max_idle counts both directions."),
        ),
        ("cD", "cL"),
        "configuration.md#keys-of-a-service",
    ),
    Explanation(
        "write_timeout",
        "reason",
        "one side did not take any of the bytes that waited for it for write_timeout",
        "Bytes waited for one side, here or in the kernel's send queue, and for all that time it"
        " acknowledged none of them. Its kernel answered (else it would be lost), but with a shut"
        " window, as a rule: the program does not read. The connection is reset, as nothing can be"
        " delivered. The end that is timeout says which side it was: client_end or backend_end.",
        (
            "The receiving program is stopped, hangs or is overloaded, and does not read.",
            "A player or a download that the user has paused.",
            "A deadlock of protocols: both sides write, and neither reads.",
            "A tiny device whose receive buffer is full of what it has no memory to process.",
        ),
        (
            Step("Which side, how much waits for it, is its window full?", "monconn show ID"),
            Step("Who reads slowly at the moment?", "monconn list --sort idle"),
            Step("write_timeout is 600 s unless set; longer for clients that pause on purpose."),
        ),
        ("cD", "cL", "sD"),
        "configuration.md#keys-of-a-service",
        brief="one side took no bytes for write_timeout",
    ),
    Explanation(
        "idle_timeout",
        "reason",
        "no byte moved either way for max_idle",
        "Both sides were silent, and took nothing that waited for them, for max_idle (900 s unless"
        " set). Both still answered as far as the kernel knows, or were not asked: with keepalive"
        " off a silent side that has vanished cannot be told from one that has nothing to say.",
        (
            "The protocol is silent by nature (SSH, push channels, pools of databases), and"
            " max_idle is shorter than its pauses.",
            "A client that has forgotten to close.",
            "A device that is stuck, while its kernel answers.",
            "keepalive: false, and the peer is long gone.",
        ),
        (
            Step("Who spoke last, and when?", "monconn show ID"),
            Step(
                "How long its pauses usually are",
                "monconn device DEVICE",
            ),
            Step(
                "max_idle: 8h for services that may be silent, or a keepalive in the protocol"
                " (ServerAliveInterval of ssh, MQTT's keep-alive)."
            ),
        ),
        ("cD", "cL", "sD"),
        "configuration.md#keys-of-a-service",
    ),
    Explanation(
        "half_close_timeout",
        "reason",
        "one side had closed, the other lives and does not follow, and no byte moved for"
        " half_close_timeout",
        "One side had sent its FIN, the other acknowledged it and took all bytes, and then did"
        " not close its own side. Unless half_close_timeout is set, this holds only for a client"
        " whose backend has ended, after 60 s; a client that has ended may wait for its answer.",
        (
            "The program does not notice the end: it never reads, or ignores the 0 bytes that"
            " mean it. Its connections stay in CLOSE_WAIT, a leak of descriptors.",
            "A pool that notices only when it uses the connection next.",
            "A client that is stopped or hangs.",
        ),
        (
            Step(
                "On the side that did not follow: sockets in CLOSE_WAIT", "ss -tnp state close-wait"
            ),
            Step(
                "Which clients do that?",
                "monconn history reason:half_close_timeout --since 1d",
            ),
            Step("half_close_timeout: 0 switches it off, for both sides."),
        ),
        ("cL", "sD"),
        "reasons.md#half-closed-connections",
        brief="one side had closed, the other did not follow in time",
    ),
    Explanation(
        "lifetime",
        "reason",
        "the connection was older than max_lifetime",
        "max_lifetime is counted from the opening, whatever happens on the connection. What was"
        " held is delivered first, for 5 s at most.",
        ("max_lifetime is set; it is off by default.",),
        (
            Step("Which setting, and where from", "monconn check FILE"),
            Step("Long transfers are cut, too: max_idle spares those that work."),
        ),
        ("PD", "PL"),
        "configuration.md#keys-of-a-service",
    ),
    Explanation(
        "operator",
        "reason",
        "an operator closed it",
        "Somebody ended it by monconn close, in monconn top, in the manhole, or by code"
        " (Monitor.close). The log and the history say who.",
        (
            "monconn close, with a filter that fits more than was meant.",
            "A program that uses the control port or the library.",
        ),
        (Step("Who, when, and how many", "monconn history --events event:action --since 1d"),),
        ("KD", "KL"),
        "control.md#who-did-it",
    ),
    Explanation(
        "blocked",
        "reason",
        "the client was blocked while it was connected",
        "Its IP is in a network that was blocked while it was connected: by an operator, by"
        " auto_block, or by a changed configuration (block, or one of block_files).",
        (
            "monconn block.",
            "auto_block: it was refused, or its connections failed, too often.",
            "A configuration or a file of networks that was read again.",
        ),
        (
            Step("What is blocked, by whom and why", "monconn blocks"),
            Step("Who blocked it", "monconn history --events event:action --since 7d"),
            Step("Let it in again", "monconn unblock IP"),
        ),
        ("PD", "PL"),
        "rules.md#keep-somebody-out-for-an-hour",
    ),
    Explanation(
        "stopping",
        "reason",
        "monconn stopped, and wait_timeout had passed",
        "monconn, or this service of it, was told to stop; it waited wait_timeout for its"
        " connections, and then ended those that were left. A second signal ends them at once.",
        (
            "A restart or an upgrade of monconn.",
            "The service was removed from the configuration.",
            "In a program that uses the library: the reactor stopped.",
        ),
        (
            Step("Starts and stops", "monconn history --events --since 7d"),
            Step("wait_timeout: 0 does not wait; longer lets long transfers finish."),
        ),
        ("KD", "KL"),
        "forwarding.md#signals",
        brief="monconn stopped",
    ),
    Explanation(
        "error",
        "reason",
        "caused by neither side, such as a record of TLS that cannot be decrypted, no descriptor or"
        " local port left, or a loop of services; the record's detail says more",
        "It failed on monconn's own side, or it cannot be said which side was at fault. The code"
        " RC means that monconn or its machine lacked something; I is anything else.",
        (
            "too many open files (EMFILE, ENFILE): the limit of descriptors, of the process or the"
            " machine.",
            "no local port is left to connect from: all ephemeral ports to this backend are used,"
            " most of them in TIME_WAIT.",
            "A service whose backend is, by whatever detour, itself: a loop of services.",
            "TLS: what came is no valid record: a middle box, or a peer that does not speak TLS.",
            "An exception of a custom observer's or factory's code: the log has the traceback.",
        ),
        (
            Step("detail names it.", "monconn show ID"),
            Step("The limit of descriptors, in the shell that starts monconn", "ulimit -n"),
            Step("How many ports are in TIME_WAIT", "ss -tan state time-wait | wc -l"),
            Step("The range of local ports", "sysctl net.ipv4.ip_local_port_range"),
        ),
        ("ID", "RC"),
        "reasons.md",
        brief="caused by neither side",
    ),
)

_REFUSALS = (
    Explanation(
        "blocked",
        "refusal",
        "its IP is in a blocked network",
        "The client was not let in: its IP is in block or in one of block_files, or an operator or"
        " auto_block has blocked it.",
        (
            "monconn block.",
            "block and block_files in the configuration.",
            "auto_block: it was refused, or its connections failed, too often.",
        ),
        (
            Step("By whom, since when and until when?", "monconn why IP"),
            Step("Let it in again, if it is exactly this IP", "monconn unblock IP"),
        ),
        see="rules.md#keep-somebody-out-for-an-hour",
    ),
    Explanation(
        "not_allowed",
        "refusal",
        "its IP is in no network of allow",
        "The service lets in only clients of the networks in allow, and this one is of none.",
        ("allow in the configuration.",),
        (Step("What would happen to it now, and why?", "monconn why IP"),),
        see="rules.md#allow-only-some",
    ),
    Explanation(
        "conn_limit",
        "refusal",
        "conn_limit connections are there already",
        "The service was full, and when_full: refuse (or a listener of Twisted's) has the next"
        " client closed. With when_full: wait clients wait in the kernel's accept queue instead.",
        (
            "More clients than planned, or connections that stay longer than planned.",
            "A flood; clients that reconnect in a storm.",
            "Dead connections hold the places: look for those that were not heard for long.",
        ),
        (
            Step("Who holds the places?", "monconn ip"),
            Step("Which are idle?", "monconn list idle:10m.. --sort idle"),
            Step("conn_limit, max_idle, unreachable_timeout."),
        ),
        see="configuration.md#keys-of-a-service",
    ),
    Explanation(
        "ip_limit",
        "refusal",
        "ip_limit different clients are connected already",
        "One more client was not let in; those that are connected already may open more"
        " connections. A client is an IPv4 address or an IPv6 network of 64 bits, unless devices:"
        " says otherwise.",
        ("More sites or devices than planned.", "Clients whose addresses change often."),
        (Step("Which clients are there?", "monconn ip"), Step("ip_limit: 0 = no limit.")),
        see="configuration.md#keys-of-a-service",
    ),
    Explanation(
        "per_ip_limit",
        "refusal",
        "this client has as many connections as it may (per_ip_limit)",
        "A client may have so many connections at once at this service, and has them. A client is"
        " an IPv4 address or an IPv6 network of 64 bits, unless devices: says otherwise.",
        (
            "A program that opens connections and does not close them.",
            "Many devices behind one address (NAT).",
        ),
        (
            Step("Which connections has it?", "monconn list client:IP"),
            Step("What would happen to it now, and why?", "monconn why IP"),
        ),
        see="rules.md#limit-the-connections-of-each-client",
    ),
    Explanation(
        "rate",
        "refusal",
        "more clients have come than rate lets in",
        "The service has let in as many clients as its rate allows for now. With when_full: wait"
        " clients wait in the kernel's accept queue instead, and are let in at that pace.",
        ("A herd that comes back after an outage.", "A flood."),
        (Step("What has been used up?", "monconn why IP"), Step("when_full: wait.")),
        see="rules.md#let-a-herd-in-at-a-pace",
    ),
    Explanation(
        "per_ip_rate",
        "refusal",
        "this client comes more often than per_ip_rate lets it in",
        "The client was not let in as it comes too often; it may again once it has waited.",
        ("A device that reconnects without a pause.", "Many devices behind one address (NAT)."),
        (
            Step("Why do its connections end?", "monconn device IP"),
            Step("What would happen to it now, and why?", "monconn why IP"),
        ),
        see="rules.md#let-a-herd-in-at-a-pace",
    ),
    Explanation(
        "draining",
        "refusal",
        "an operator has the service drained",
        "An operator has the service drained: those who are connected stay, and no others come.",
        ("monconn drain.",),
        (Step("Let clients in again", "monconn resume SERVICE"),),
        see="changes.md#empty-a-service",
    ),
    Explanation(
        "handshake_failed",
        "refusal",
        "its TLS handshake failed",
        "The client reached the TLS listener, and no session was made; detail names the fault, or"
        " the alert that the client has sent. It was never admitted and took no place.",
        (
            "It does not speak TLS: plain HTTP to the TLS port, a scanner.",
            "It does not trust our certificate (unknown_ca, certificate_expired, bad_certificate):"
            " the intermediate certificates are missing, or the device's clock is wrong.",
            "No common version or cipher: old devices that speak TLS 1.0 or 1.1 only.",
            "It left amid the handshake.",
        ),
        (
            Step("Which faults, and whose?", "monconn history --events reason:handshake_failed"),
            Step(
                "The chain and the dates of the certificate that is served",
                "openssl s_client -connect HOST:PORT -servername NAME </dev/null",
            ),
            Step("tls: {chain: FILE, minimum_version: 1.2}."),
        ),
        see="tls.md",
    ),
    Explanation(
        "handshake_timeout",
        "refusal",
        "its TLS handshake was not complete within handshake_timeout",
        "The client connected and did not finish TLS in time (10 s unless set).",
        (
            "It waits for us to speak first, as clients of plain SMTP, SSH or FTP do.",
            "Scanners and attacks that hold sockets.",
            "A very slow device or network: RSA on a small processor takes seconds.",
        ),
        (
            Step("Whose?", "monconn history --events reason:handshake_timeout"),
            Step("tls: {handshake_timeout: 30}."),
        ),
        see="tls.md",
    ),
    Explanation(
        "stopping",
        "refusal",
        "the service is being stopped",
        "It takes no new clients while it waits for those that are connected (wait_timeout).",
        ("A restart, or a configuration without the service.",),
        (Step("Starts and stops", "monconn history --events --since 1d"),),
        see="forwarding.md#signals",
    ),
)

_STATES = (
    Explanation(
        "connecting",
        "state",
        "the client is there, the backend is not connected yet",
        "The backend's name is being resolved, its addresses are tried, or the TLS handshake with"
        " it goes on; connect_timeout bounds all of that.",
        next=(Step("More than a moment: see", "monconn explain connect_timeout"),),
    ),
    Explanation("open", "state", "both sides are connected, and neither has ended"),
    Explanation(
        "half_closed",
        "state",
        "one side has sent its end (FIN), or both have and bytes are still being delivered",
        "The other side may still send. Short in most protocols; long where a client closes its"
        " side and waits for the answer, or a program has forgotten to close.",
        next=(Step("Which side has ended (client_end, backend_end)?", "monconn show ID"),),
        see="reasons.md#half-closed-connections",
    ),
    Explanation(
        "closing",
        "state",
        "its reason is decided, and its sockets are being closed",
        "What is held is delivered, for 5 s at most.",
    ),
    Explanation("closed", "state", "it is over"),
    Explanation(
        "limited",
        "state",
        "open, and held back as a bandwidth of its service is used up",
        "Its sender was quicker than bandwidth or per_connection_bandwidth lets through, so that it"
        " was not read for a while; nothing is lost, and the sender's TCP slows down.",
        next=(
            Step("For how long, of which direction?", "monconn show ID"),
            Step("Raise or take out the bandwidth; then", "monconn reload"),
        ),
        see="rules.md#share-the-line",
    ),
)

_SERVICE_STATES = (
    Explanation(
        "running",
        "service state",
        "the service lets clients in, and forwards their bytes",
    ),
    Explanation(
        "paused",
        "service state",
        "the service stands still: nothing is read, and nobody accepted",
        "Clients wait in the kernel's accept queue. Nothing is refused or ended because of it, and"
        " limits on silence and on progress stand still, too; max_lifetime and connect_timeout go"
        " on. A connection may show it as the reason why nothing is read from it.",
        ("monconn pause, which may end by itself (--for).",),
        (
            Step("Until when (paused_until)?", "monconn stats"),
            Step("Who has paused it?", "monconn history --events event:action --since 7d"),
            Step("Have it go on", "monconn resume SERVICE"),
        ),
        see="changes.md#stand-still-for-a-moment",
    ),
    Explanation(
        "draining",
        "service state",
        "the service refuses those who come, and lets the others go on",
        "Who is connected stays, unless drain --spread ends them evenly over a time. Who comes is"
        " refused (draining).",
        ("monconn drain.",),
        (
            Step("How many are left?", "monconn stats"),
            Step("Who has it drained?", "monconn history --events event:action --since 7d"),
            Step("Let clients in again", "monconn resume SERVICE"),
        ),
        see="changes.md#empty-a-service",
    ),
    Explanation(
        "stopping",
        "service state",
        "the service refuses those who come, and waits for the others, for good",
        "monconn stops, or the service is gone from the configuration; after wait_timeout what is"
        " left is ended (stopping).",
        see="forwarding.md#signals",
    ),
)

_RULES = (
    Explanation(
        "dry_run",
        "setting",
        "rules that count and log whom they would refuse, and let him in",
        "Rules that are named in dry_run, as in dry_run: [per_ip_rate], refuse nobody. What each"
        " would have refused is counted (would_refuse in stats, JSON and metrics) and logged.",
        next=(
            Step("Whom would they have refused?", "monconn stats"),
            Step("Which connections?", "monconn list would_refuse:per_ip_rate"),
            Step("What would happen to a client, and why?", "monconn why IP"),
            Step("Take the rule out of dry_run to have it refuse; then", "monconn reload"),
        ),
        see="rules.md#try-a-rule-without-harm",
    ),
    Explanation(
        "auto_block",
        "setting",
        "blocks, for a time, a client that was refused or has failed too often",
        "The client is blocked by monconn itself, and let in again after a time. Its keys say which"
        " refusals and ends count (of), how often is too often (after, within), and for how long it"
        " is blocked (for).",
        next=(
            Step("Which blocks are there, and why?", "monconn blocks source:auto"),
            Step("Why is this one kept out?", "monconn why IP"),
            Step("Let it in again", "monconn unblock IP"),
            Step("never: networks that it never blocks."),
        ),
        see="rules.md#block-by-itself",
    ),
)

_ENDS = (
    Explanation(
        "fin",
        "end",
        "the side had ended in good order",
        "client_end or backend_end: when the reason was decided, this side had sent its FIN (over"
        " TLS: close_notify, or of a client a bare FIN).",
    ),
    Explanation(
        "reset",
        "end",
        "the side had reset the connection",
        "client_end or backend_end: an RST, or a fatal alert of TLS, had come from this side.",
        next=(
            Step("", "monconn explain client_reset"),
            Step("", "monconn explain backend_reset"),
        ),
    ),
    Explanation(
        "timeout",
        "end",
        "the side was lost, or struck a time limit",
        "client_end or backend_end: with the reason client_lost or backend_lost, this side no"
        " longer answered; with a time limit, it is the side that was waited for.",
    ),
    Explanation(
        "none",
        "end",
        "the side had not ended when the reason was decided",
        "client_end or backend_end: the connection ended for another cause than this side.",
    ),
)

_ALARMS = (
    Explanation(
        "silent",
        "alarm",
        "a device breaks its own rhythm: it has sent nothing, or stays away, for too long",
        "It has declared a keepalive (MQTT), and has sent nothing for 1.5 times as long. Or it has"
        " not, and sent messages regularly, for at least five minutes and twenty intervals, and its"
        " silence is now longer than silent_heartbeats times (3, unless set) the median of its"
        " last intervals, and at least 5 s; or it used to come back by the clock, and has not come"
        " for so long. The alarm's detail has the figures. It is a device that behaves otherwise"
        " than before, which need not be a fault. One without a regular rhythm, such as a person"
        " at a keyboard, is not silent; but what sends for that long without a pause, such as an"
        " upload, looks regular, too.",
        (
            "The device has lost power or network; its connection may still look live.",
            "Its program hangs, or is being updated.",
            "It reports less often now: a new configuration, a battery saver, night.",
            "It cannot reach us: expired certificate, changed address, a firewall.",
        ),
        (
            Step(
                "Its rhythm, its silences and its last ends, on one screen", "monconn device DEVICE"
            ),
            Step("Is its kernel still heard (HEARD), is it unreachable?", "monconn list client:IP"),
            Step("silent_heartbeats: 5 is more patient, 0 raises none; also for one service."),
        ),
        see="devices.md#silent",
    ),
    Explanation(
        "reconnect_storm",
        "alarm",
        "a device connects again and again, each time after a failure",
        "It opened more than storm_connections connections (10, unless set) within storm_within"
        " (1m), each after one that had failed or was refused: it tries again without waiting. The"
        " alarm's detail names the failure. Connections that end in good order, however many, are"
        " no storm.",
        (
            "The backend is down, or throws it out with a reset: backend_refused, backend_reset.",
            "Its TLS handshake fails (handshake_failed, a fatal alert), and it retries at once.",
            "It resets its connections itself: a client library with a bug, or a watchdog that"
            " restarts the device (client_reset).",
            "The service is full (conn_limit), and its client does not wait before it retries.",
            "Many clients behind one address (NAT), whose failures add up.",
        ),
        (
            Step("Which failures, after how long?", "monconn device DEVICE"),
            Step("Its last ends", "monconn list --closed client:IP"),
            Step("storm_connections: 100 for many behind one address, 0 raises none."),
        ),
        see="devices.md#reconnect_storm",
    ),
    Explanation(
        "duplicate",
        "alarm",
        "two devices use one MQTT client id at the same time",
        "A broker that gets a second connection with a client id ends the first one. Three times"
        " within five minutes it ended one so whose client was still there and answered; or two"
        " were live together for 10 s at least, and both have sent something since the second one"
        " came. The alarm's detail has the addresses of both. A device that reconnects because its"
        " network was away is none: nobody answers on the connection that it left.",
        (
            "A copied image or configuration: two devices with the same client id.",
            "A replaced device that still runs, or a test program with a device's id.",
            "One program that connects again before it has ended its connection.",
            "Somebody who pretends to be the device: a client id is a claim.",
        ),
        (
            Step("Its addresses and its last ends, on one screen", "monconn device DEVICE"),
            Step("Which connections are live?", "monconn list mqtt_client_id:=CLIENT-ID"),
            Step("Give each device a client id of its own."),
        ),
        see="devices.md#duplicate",
    ),
    Explanation(
        "backend_down",
        "alarm",
        "no attempt to connect to a service's backend succeeds any more",
        "The last three attempts at least, over a second at least, ended with backend_refused,"
        " backend_unreachable or connect_timeout, and none has succeeded since. monconn makes no"
        " attempts of its own: the facts are those of the clients that came. The alarm's detail has"
        " how many have failed, since when, and how the last one did. It is over with the first"
        " attempt that succeeds (backend_up, as notify: calls that). Meanwhile alarms that the"
        " service's devices are silent or reconnect are not notified one by one.",
        (
            "The backend's program has stopped, or is being restarted.",
            "Its host is off, or a network or a firewall lies between.",
            "It has another address or port by now than the configuration says.",
            "It is overloaded: its accept queue is full (connect_timeout).",
        ),
        (
            Step("Which errors, since when?", "monconn list --closed service:SERVICE"),
            Step("Does it answer from this host?", "nc -vz BACKEND-HOST PORT"),
            Step("Is the address right?", "monconn check FILE"),
        ),
        see="devices.md#backend_down",
    ),
    Explanation(
        "outage",
        "alarm",
        "many devices of a service are missing together",
        "At least outage_devices devices (10, unless set), and outage_percent of the service's (10"
        " percent) or of one network's, fell silent or lost their connection within two minutes:"
        " that is one event, and is one alarm. Its detail says how many of how many, since when,"
        " and what they have in common: the backend, or a network. Alarms of these devices are not"
        " notified one by one; they are shown at each device. It is over when four of five are"
        " back.",
        (
            "A network that they share is down: a mobile operator, a VPN, a router, a site's line.",
            "Power is out at a site.",
            "The backend is there but does not answer, or has thrown all of them out.",
            "A firewall or an address translation has forgotten their connections.",
        ),
        (
            Step("Which devices are missing?", "monconn devices --alarms"),
            Step("Those of the network", "monconn devices client:NETWORK"),
            Step("How did their connections end?", "monconn list --closed service:SERVICE"),
            Step("outage_devices: 50 for a bigger fleet, 0 raises none."),
        ),
        see="devices.md#outage",
    ),
)

_EVENTS = (
    Explanation("opened", "event", "a client was admitted"),
    Explanation("refused", "event", "a client was not let in; its refusal says why"),
    Explanation("half_closed", "event", "the first of the two sides has ended in good order"),
    Explanation("closed", "event", "a connection is over; its reason says why"),
    Explanation("alarm", "event", "an alarm about a device or a service begins, or is over"),
    Explanation("action", "event", "somebody closed, blocked, stopped or changed something"),
    Explanation("started", "event", "monconn began to write this history"),
    Explanation("stopped", "event", "monconn was stopped in good order"),
    Explanation(
        "lost",
        "event",
        "so many items could not be written into the history",
        "The disk was full or did not answer, or another program had locked the file.",
        see="history.md#costs-crashes-and-full-disks",
    ),
    Explanation(
        "clock",
        "event",
        "the wall clock was set, or is wrong",
        "Times in the history are what the wall clock said; durations do not depend on it.",
        see="history.md#when-the-clock-is-wrong",
    ),
)

_PIPES = (
    Explanation(
        "splice",
        "pipe",
        "bytes are moved within the kernel, from socket to socket, and never copied to monconn",
    ),
    Explanation(
        "copy",
        "pipe",
        "bytes are read and written by monconn, as the system cannot splice or somebody watches",
    ),
    Explanation("tls", "pipe", "bytes are decrypted or encrypted by monconn"),
    Explanation("stream", "pipe", "bytes go through Twisted's transports"),
)

_MQTT_SEE = "reasons.md#what-mqtt-says"


def _mqtt(
    word: str,
    short: str,
    meaning: str = "",
    causes: tuple[str, ...] = (),
    next: tuple[Step, ...] = (),
) -> Explanation:
    return Explanation(word, "mqtt", short, meaning, causes, next, see=_MQTT_SEE)


_MQTT = (
    _mqtt(
        "keepalive_missed",
        "the device was silent for longer than its MQTT keepalive allows",
        "With its CONNECT a device promises to send a packet, if only a ping, at least once in its"
        " keepalive (the broker may have set another one). After 1.5 times that the broker must"
        " close the connection as if its network had failed, and send the device's will (MQTT"
        " 3.1.1 and 5.0, 3.1.2.10). What counts is when whole packets were read from the device;"
        " time in which monconn did not read, as the broker took nothing, is left out.",
        (
            "The device lost its network or its power, and nothing has told the broker's side.",
            "Its program hung, or slept for longer than its keepalive.",
            "A NAT or firewall on the way had forgotten the connection.",
        ),
        (
            Step("Did its kernel still answer? The line client side.", "monconn show ID"),
            Step("Is it a habit of this device's?", "monconn device DEVICE"),
            Step(
                "A keepalive below the idle time-out of what is on the way; one that covers sleep."
            ),
        ),
    ),
    _mqtt(
        "no_disconnect",
        "the device, or an MQTT 5 broker, closed without DISCONNECT",
        "To MQTT that is a failure: the broker sends the device's will, if it has left one. Brokers"
        " may close without a word even in 5.0; mosquitto does.",
        (
            "Of a device: its program crashed or was killed, or does not call disconnect().",
            "Of a broker: it stopped, or another connection has the same client id.",
        ),
        (
            Step(
                "Who else has this client id?",
                "monconn list --closed mqtt_client_id:=CLIENT-ID",
            ),
        ),
    ),
    _mqtt(
        "no_connack",
        "the broker did not answer the device's CONNECT",
        "",
        (
            "The broker refused it without a word, as older ones do with what they cannot read.",
            "The broker hung, or was still starting.",
            "The backend is no MQTT broker, or expects TLS or WebSocket.",
        ),
    ),
    _mqtt(
        "ping_not_answered",
        "a ping of the device's had no answer when the connection ended",
        "Most devices take a connection for dead if their PINGREQ is not answered in time, and"
        " connect anew.",
        ("The broker hung or was overloaded, or the answer was lost on the way.",),
        (Step("Did the broker answer others?", "monconn list service:SERVICE"),),
    ),
    _mqtt(
        "too_many_packets",
        "so many packets came at once that they were not followed any further",
        "Thousands in a chunk, almost all of them empty. Nothing is said of what came after.",
    ),
    _mqtt("packet_not_whole", "the device's last MQTT packet had begun, and did not come whole"),
    _mqtt(
        "no_mqtt",
        "from there on the bytes are no MQTT packets",
        "Of a device, a broker closes the connection for it. Nothing is said of what came after.",
    ),
    _mqtt("accepted", "the broker let the device in"),
    _mqtt("normal", "a DISCONNECT: one side said goodbye, and no will is sent"),
    _mqtt("with_will", "the device said goodbye, and wants its will to be sent (MQTT 5.0)"),
    _mqtt(
        "not_authorised",
        "the broker: this client may not connect, or may not do that",
        "Mosquitto says so of a wrong password, too.",
        (
            "A wrong user name or password.",
            "A rule of the broker's (ACL) keeps this user, client id or address out.",
        ),
        (Step("The broker's log, and its password file and rules."),),
    ),
    _mqtt(
        "bad_user_name_or_password",
        "the broker: the user name or the password is wrong",
        next=(Step("What it called itself: mqtt_user and mqtt_client_id", "monconn show ID"),),
    ),
    _mqtt(
        "session_taken_over",
        "the broker: another connection has come with the same client id",
        "A client id is connected once: the broker closes the older connection. Brokers before"
        " 5.0 do so without a word.",
        (
            "The device connected anew before its old connection was noticed to be dead.",
            "Two devices have the same client id, and throw each other out by turns.",
        ),
        (
            Step(
                "The connections with this client id",
                "monconn list --closed mqtt_client_id:=CLIENT-ID",
            ),
        ),
    ),
    _mqtt(
        "keep_alive_timeout",
        "the broker: the device was silent for more than 1.5 times its keepalive",
        next=(Step("What that means", "monconn explain keepalive_missed"),),
    ),
    _mqtt("unspecified_error", "the broker does not say why, or the device does not"),
    _mqtt("malformed_packet", "a packet could not be read by the other side"),
    _mqtt("protocol_error", "the other side sent what the protocol forbids"),
    _mqtt("implementation_specific_error", "a packet is valid, but this broker cannot take it"),
    _mqtt("unsupported_protocol_version", "the broker does not speak the device's version of MQTT"),
    _mqtt("client_identifier_not_valid", "the broker does not accept the client id"),
    _mqtt("server_unavailable", "the broker is there, and does not serve now"),
    _mqtt("server_busy", "the broker is busy: try again later"),
    _mqtt("server_shutting_down", "the broker is being stopped"),
    _mqtt("banned", "the broker has banned this client"),
    _mqtt("bad_authentication_method", "the way of authentication is not supported"),
    _mqtt("topic_filter_invalid", "a subscription's filter is not accepted"),
    _mqtt("topic_name_invalid", "the topic of a message, or of the will, is not accepted"),
    _mqtt("receive_maximum_exceeded", "too many messages were under way at once"),
    _mqtt("topic_alias_invalid", "a topic's alias is 0, or above the agreed most"),
    _mqtt("packet_too_large", "a packet was larger than the other side accepts"),
    _mqtt("message_rate_too_high", "messages come too fast"),
    _mqtt("quota_exceeded", "a quota of the broker's is used up"),
    _mqtt("administrative_action", "somebody at the broker has ended the connection"),
    _mqtt("payload_format_invalid", "a payload is not what it is said to be"),
    _mqtt("retain_not_supported", "the broker stores no messages"),
    _mqtt("qos_not_supported", "the broker does not offer this quality of service"),
    _mqtt("use_another_server", "the broker asks the device to use another one for now"),
    _mqtt("server_moved", "the broker asks the device to use another one for good"),
    _mqtt("shared_subscriptions_not_supported", "the broker has no shared subscriptions"),
    _mqtt("connection_rate_exceeded", "connections come too fast"),
    _mqtt("maximum_connect_time", "the broker allows no longer connections"),
    _mqtt("subscription_identifiers_not_supported", "the broker has no subscription identifiers"),
    _mqtt("wildcard_subscriptions_not_supported", "the broker has no subscriptions with wildcards"),
)
_MQTT_DETAILS = (
    (
        re.compile("device (missed|was silent)|no packet from the device"),
        "keepalive_missed",
    ),
    (re.compile("(device|broker) .*without DISCONNECT"), "no_disconnect"),
    (re.compile("broker did not answer the CONNECT"), "no_connack"),
    (re.compile("device's ping had no answer"), "ping_not_answered"),
    (re.compile("device's last packet .*is not whole"), "packet_not_whole"),
    (re.compile("(device|broker)'s bytes are no MQTT"), "no_mqtt"),
    (re.compile("(device|broker)'s packets were too many"), "too_many_packets"),
    (re.compile("device said goodbye, and wants its will"), "with_will"),
    (re.compile("(device|broker) said goodbye"), "normal"),
)
"""How the details of :mod:`monconn.decode.mqtt` begin, and which word explains them."""
_MQTT_SAID = re.compile("(?:device|broker) said (.*)")


def _mqtt_word(text: str) -> str:
    """The word that explains such a detail; ``""`` for any other text."""
    for pattern, word in _MQTT_DETAILS:
        if pattern.match(text):
            return word
    said = _MQTT_SAID.match(text)
    return said[1].replace(" ", "_") if said else ""


def _error(
    name: str,
    short: str,
    meaning: str = "",
    causes: tuple[str, ...] = (),
    next: tuple[Step, ...] = (),
) -> Explanation:
    return Explanation(name, "error", short, meaning, causes, next)


_ERRORS = (
    _error(
        "ECONNRESET",
        "the peer, or somebody on the way, sent an RST",
        "Reading found that the connection was reset. Which side that was, the reason says.",
        next=(
            Step("", "monconn explain client_reset"),
            Step("", "monconn explain backend_reset"),
        ),
    ),
    _error(
        "EPIPE",
        "writing to a connection that the peer has reset after it had ended its side",
        "The kernel says EPIPE instead of ECONNRESET for an RST that comes after the peer's FIN:"
        " the peer had closed wholly, and not only its own direction.",
    ),
    _error(
        "ETIMEDOUT",
        "the kernel gave up on a peer that does not answer",
        "Retransmissions ran out (some 15 minutes, net.ipv4.tcp_retries2), or keepalive's"
        " probes (5 minutes unless set), or while connecting, SYNs (one or two minutes,"
        " net.ipv4.tcp_syn_retries; connect_timeout mostly strikes before).",
        next=(
            Step("", "monconn explain client_lost"),
            Step("", "monconn explain connect_timeout"),
        ),
    ),
    _error(
        "ECONNREFUSED",
        "the host answered, and nobody listens at that port",
        next=(Step("", "monconn explain backend_refused"),),
    ),
    _error(
        "ECONNABORTED",
        "the connection was over before it was accepted",
        "The client reset it while it waited in the accept queue.",
    ),
    _error(
        "EHOSTUNREACH",
        "no route to host: a router, or the last link, says that it cannot be reached",
        "An ICMP message (host unreachable), a firewall that rejects, or no answer to ARP or IPv6"
        " neighbour discovery on the last link.",
        (
            "The host is off or its cable is out.",
            "The address is not used by any host of that network.",
            "A firewall with REJECT.",
        ),
        (Step("FAILED here means that nobody answers on the link", "ip neigh"),),
    ),
    _error(
        "ENETUNREACH",
        "network is unreachable: there is no route to it",
        "This machine has no route (often none for IPv6), or a router says so by ICMP.",
        next=(Step("The routes", "ip route"), Step("The same for IPv6", "ip -6 route")),
    ),
    _error("EHOSTDOWN", "host is down: the last link says that it does not answer"),
    _error("ENETDOWN", "network is down: the interface is not up", next=(Step("", "ip link"),)),
    _error("ENODEV", "no such device: the interface of the address is not there"),
    _error(
        "EADDRNOTAVAIL",
        "no local port is left to connect from, or the address is not one of this machine's",
        "Each connection to the same backend needs a local port of its own: 28,232 by default. The"
        " side that closes first keeps its port in TIME_WAIT for a minute, so that more than some"
        " 470 short connections a second to one backend address use them up.",
        next=(
            Step("How many are in TIME_WAIT", "ss -tan state time-wait | wc -l"),
            Step("More ports: net.ipv4.ip_local_port_range; or more backend addresses."),
        ),
    ),
    _error(
        "EADDRINUSE",
        "another program listens at this address already",
        next=(Step("Who listens there", "ss -tlnp"),),
    ),
    _error(
        "EMFILE",
        "too many open files: this process has used all its descriptors",
        "A forwarded connection takes two: one for the client, one for the backend.",
        next=(
            Step("The limit, in the shell that starts monconn", "ulimit -n"),
            Step("In a systemd unit: LimitNOFILE=65536"),
            Step("Who holds connections", "monconn ip"),
        ),
    ),
    _error(
        "ENFILE",
        "too many open files in system: the whole machine has used all its descriptors",
        next=(Step("Used, and the most", "cat /proc/sys/fs/file-nr"),),
    ),
    _error(
        "ENOBUFS",
        "no buffer space available: the kernel has no memory for sockets left",
        next=(Step("Memory of TCP, in pages", "cat /proc/net/sockstat"),),
    ),
    _error("ENOMEM", "cannot allocate memory: the kernel or the process has none left"),
    _error(
        "ENOSPC",
        "no space left: of the disk for a file; of an epoll, its watches are used up",
        next=(Step("The watches of a user", "sysctl fs.epoll.max_user_watches"),),
    ),
    _error("EACCES", "permission denied: the file, the socket or the port is not for this user"),
    _error(
        "EPERM",
        "operation not permitted: of a connection, mostly a rule of the local firewall",
        next=(Step("The rules", "nft list ruleset"),),
    ),
    _error("ENOENT", "no such file or directory: the path of a UNIX socket, or a file, is wrong"),
    _error("EAGAIN", "a resource is used up for now: local ports, threads, a queue"),
)

EXPLANATIONS: tuple[Explanation, ...] = (
    *_REASONS,
    *_REFUSALS,
    *_STATES,
    *_SERVICE_STATES,
    *_RULES,
    *_ENDS,
    *_ALARMS,
    *_EVENTS,
    *_PIPES,
    *_MQTT,
    *_ERRORS,
)
"""Every word that is explained."""

_SETTINGS: dict[str, tuple[str, ...]] = {
    "max_idle": ("idle_timeout",),
    "max_lifetime": ("lifetime",),
    "wait_timeout": ("stopping",),
    "unreachable_timeout": ("client_lost", "backend_lost"),
    "keepalive": ("client_lost", "backend_lost"),
    "block": ("blocked",),
    "block_files": ("blocked",),
    "ip_blacklist": ("blocked",),
    "allow": ("not_allowed",),
    "bandwidth": ("limited",),
    "per_connection_bandwidth": ("limited",),
    "silent_heartbeats": ("silent",),
    "storm_connections": ("reconnect_storm",),
    "storm_within": ("reconnect_storm",),
}
"""Settings whose effect has another name: the words that they bring about."""


# -- HAProxy's letters

WHO_LETTERS: dict[str, str] = {
    "-": "a normal end: one side closed in good order, and everything was delivered",
    "C": "the client's side ended it: it reset the connection, or vanished",
    "S": "the backend (server) ended it: it reset, refused, vanished or cannot be reached",
    "c": "a time limit struck while the client was waited for",
    "s": "a time limit struck while the backend (server) was waited for",
    "P": "the proxy, monconn: a limit or a rule of its own",
    "K": "killed: an operator closed it, or monconn stopped",
    "R": "a resource that monconn or its machine lacked: descriptors, local ports, memory",
    "I": "internal: caused by neither side",
}
"""The first letter: who or what ended it."""
PHASE_LETTERS: dict[str, str] = {
    "-": "after a normal end",
    "C": "while the backend was being connected",
    "D": "data: while both sides, or only the backend, could send",
    "L": "last data: the backend had closed its side, and the rest was being delivered",
    "R": "request: before it was admitted",
}
"""The second letter: when."""
_CODE = re.compile(f"[{re.escape(''.join(WHO_LETTERS))}][{re.escape(''.join(PHASE_LETTERS))}]")
REFUSED_CODE = "PR"


@attrs.frozen
class CodeExplanation:
    """A pair of HAProxy's letters.

    :param reasons: the words that have it, each with what happened.
    """

    code: str
    who: str
    phase: str
    reasons: tuple[Explanation, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "code": self.code,
            "who": self.who,
            "phase": self.phase,
            "reasons": [each.to_json() for each in self.reasons],
        }


def explain_code(code: str) -> CodeExplanation | None:
    """Explain two letters, whose case counts; None if they are none of HAProxy's."""
    if not _CODE.fullmatch(code):
        return None
    if code == REFUSED_CODE:
        found: tuple[Explanation, ...] = _REFUSALS
    else:
        # While the backend is being connected, every reason has C for its second letter.
        found = tuple(
            each
            for each in _REASONS
            if code in each.codes
            or (code[1] == "C" and code[0] in {known[0] for known in each.codes} - {"-"})
        )
    if not found and code[1] == "R":
        return None
    return CodeExplanation(code, WHO_LETTERS[code[0]], PHASE_LETTERS[code[1]], found)


# -- looking words up


def explain(word: str) -> list[Explanation]:
    """The explanations of a word; none if it is unknown.

    Besides the values of the lists it may be a setting that brings one about, or the text of an
    error as a ``detail`` shows it, such as ``connection reset by peer``, or what a ``detail`` says
    of MQTT.
    """
    word = " ".join(word.split())[:_MOST_CHARACTERS]
    name = re.sub("[ -]", "_", word).casefold()
    names = {name, *_SETTINGS.get(name, ()), *_error_names(word), _mqtt_word(word)}
    return [each for each in EXPLANATIONS if each.word.casefold() in names]


def _error_names(text: str) -> list[str]:
    lowered = text.casefold()
    return [
        name.casefold()
        for name in (each.word for each in _ERRORS)
        if hasattr(errno, name) and os.strerror(getattr(errno, name)).casefold() == lowered
    ]


def explained_in(detail: str) -> list[Explanation]:
    """The errors, and what was said in MQTT, whose texts a detail is made of."""
    parts = [each.strip() for each in detail.split(";")]
    return [each for part in parts for each in explain(part) if each.kind in ("error", "mqtt")]


def close_codes(word: str) -> list[str]:
    """The codes that a word is but for the case of its letters."""
    if len(word) != 2:
        return []
    known = dict.fromkeys((*(code for each in EXPLANATIONS for code in each.codes), REFUSED_CODE))
    return [code for code in known if code.casefold() == word.casefold()]


def close_matches(word: str) -> list[str]:
    """Known words that are written much like this one, the closest first."""
    known: Iterable[str] = dict.fromkeys((*(each.word for each in EXPLANATIONS), *_SETTINGS))
    by_name = {each.casefold(): each for each in known}
    name = re.sub("[ -]", "_", word[:_MOST_CHARACTERS].strip()).casefold()
    found = [each for each in by_name if len(name) >= 3 and name in each]
    found += difflib.get_close_matches(name, by_name, _CLOSE_MATCHES, 0.6)
    return [by_name[each] for each in dict.fromkeys(found)][: 2 * _CLOSE_MATCHES]


def of_kind(word: str, *kinds: Kind) -> Explanation | None:
    """The explanation of a value of one of these lists."""
    return next((each for each in EXPLANATIONS if each.word == word and each.kind in kinds), None)


def in_brief(reason: str) -> str:
    """What a reason says, in a few words; empty if it is unknown, as one of a newer server."""
    found = of_kind(reason, "reason")
    return "" if found is None else found.brief or found.short
