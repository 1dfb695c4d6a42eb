"""Lists the live connections of a running monconn, with nothing but sockets and JSON.

    python control_client.py $XDG_RUNTIME_DIR/monconn/control.sock

For a client in another language: this is all there is to the wire.
"""

import json
import socket
import struct
import sys


def send_box(sock, **values):
    for key, value in values.items():
        for text in (key.encode(), str(value).encode()):
            sock.sendall(struct.pack("!H", len(text)) + text)
    sock.sendall(b"\0\0")


def receive_string(stream):
    (length,) = struct.unpack("!H", stream.read(2))
    return stream.read(length).decode()


def receive_box(stream):
    box = {}
    while key := receive_string(stream):
        box[key] = receive_string(stream)
    if "_error" in box:
        raise SystemExit(f"{box['_error_code']}: {box['_error_description']}")
    return box


def pages(sock, stream, command, **arguments):
    """The rows of each page of a list."""
    send_box(sock, _command=command, _ask=1, **arguments)
    box = receive_box(stream)
    yield json.loads(box["rows"])
    if "next" in box:
        yield from pages(sock, stream, "NextPage", next=box["next"])


def main(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        stream = sock.makefile("rb")
        send_box(sock, _command="Hello", _ask=0, version=1)
        print(receive_box(stream)["server"])
        for rows in pages(sock, stream, "ListConnections", sort="age"):
            for row in rows:
                print(row["id"], row["client"], row["state"], row["up"], row["down"])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(f"usage: python {sys.argv[0]} PATH-OF-THE-CONTROL-SOCKET")
    try:
        main(sys.argv[1])
    except OSError as error:
        raise SystemExit(f"{sys.argv[1]}: {error.strerror}") from None
