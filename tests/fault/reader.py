"""tests/fault/reader.py - a client that reads as slowly as it is told: HTTP/2 by hand, whose stream window nobody opens.

usage: reader.py ADDRESS generate ID WINDOW SECONDS | reader.py ADDRESS watch ID

generate: eight images with previews; takes WINDOW bytes of the answer and no more; says how the stream ended.
watch: takes everything; one line "INDEX SHA256" for each final image, and "completed" when that has come.
"""
import hashlib
import socket
import struct
import sys
import time

OPEN = 1 << 30
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW = 0, 1, 3, 4, 6, 7, 8


def varint(n):
    out = b""
    while n > 127:
        out += bytes([n & 127 | 128])
        n >>= 7
    return out + bytes([n])


def field(number, value):
    """A protobuf field: a number, or bytes."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def fields(data):
    """(number, value) of a message, fixed sizes left out."""
    at = 0

    def number():
        nonlocal at
        n = shift = 0
        while True:
            byte = data[at]
            at += 1
            n |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return n

    while at < len(data):
        key = number()
        kind = key & 7
        if kind == 0:
            yield key >> 3, number()
        elif kind == 2:
            size = number()
            yield key >> 3, data[at:at + size]
            at += size
        else:
            at += 8 if kind == 1 else 4


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def pair(name, value):
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def call(address, method, message, window):
    """The socket after a call has been sent on stream 1."""
    host, port = address.rsplit(":", 1)
    sock = socket.create_connection((host, int(port)), timeout=60)
    headers = b"".join(pair(*p) for p in ((":method", "POST"), (":scheme", "http"), (":path", f"/diptych.v1.ImageService/{method}"),
                                          (":authority", address), ("te", "trailers"), ("content-type", "application/grpc")))
    sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, window)) +
                 frame(WINDOW, 0, 0, struct.pack(">I", OPEN)) + frame(HEADERS, 4, 1, headers) +
                 frame(DATA, 1, 1, b"\0" + struct.pack(">I", len(message)) + message))
    return sock


def frames(sock, until):
    """(kind, flags, stream, payload) until the connection or the time ends; answers what must be answered."""
    data = b""
    while time.monotonic() < until:
        while len(data) >= 9:
            size = int.from_bytes(data[:3], "big")
            if len(data) < 9 + size:
                break
            kind, flags, stream, payload = data[3], data[4], int.from_bytes(data[5:9], "big"), data[9:9 + size]
            data = data[9 + size:]
            if kind in (SETTINGS, PING) and not flags & 1:
                sock.sendall(frame(kind, 1, 0, payload if kind == PING else b""))
            yield kind, flags, stream, payload
        sock.settimeout(max(0.01, until - time.monotonic()))
        try:
            more = sock.recv(1 << 16)
        except socket.timeout:
            return
        if not more:
            return
        data += more


def generate(address, name, window, seconds):
    sampling = field(1, 21) + field(2, 200)
    request = (field(1, name.encode()) + field(3, b"slow") + field(4, 8) + field(5, sampling) +
               field(7, field(1, 8) + field(2, 1024)))
    sock = call(address, "Generate", request, window)
    taken = 0
    for kind, flags, stream, payload in frames(sock, time.monotonic() + seconds):
        taken += len(payload) if kind == DATA else 0
        if kind == RESET and stream == 1:
            print(f"reset {int.from_bytes(payload, 'big')} after {taken} bytes")
            return
        if kind == HEADERS and flags & 1:
            print(f"ended after {taken} bytes")
            return
    print(f"open after {taken} bytes")


def watch(address, name):
    sock = call(address, "Watch", field(1, name.encode()), OPEN)
    data = b""
    for kind, flags, stream, payload in frames(sock, time.monotonic() + 60):
        data += payload if kind == DATA else b""
        if kind == HEADERS and flags & 1:
            break
    while len(data) >= 5:
        size = int.from_bytes(data[1:5], "big")
        for _, event in fields(data[5:5 + size]):
            for number, value in fields(event):
                if number == 10:
                    final = dict(fields(value))
                    if hashlib.sha256(final.get(5, b"")).digest() == final[7]:
                        print(final.get(1, 0), final[7].hex())
                elif number == 12:
                    print("completed")
        data = data[5 + size:]


if sys.argv[2] == "generate":
    generate(sys.argv[1], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
else:
    watch(sys.argv[1], sys.argv[3])
