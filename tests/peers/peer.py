"""The other side of a socket, for the end-to-end tests: nng by pynng, WebSocket by websockets.

    peer.py nng   PROTOCOL URL                  listens there (dials with "dial:URL")
    peer.py serve HOST PORT [CERTIFICATE KEY]   a WebSocket server; any path
    peer.py connect URL [NAME=VALUE...]         a WebSocket client with these headers

Says on standard output what happens, a line each: `ready`, `up`, `down WHY`, `got TEXT`, `refused WHY`.
Does what a line on standard input says: `send TEXT`, `hex BYTES`, `size COUNT`, `flow RATE FIRST` (numbered
samples, as Neuron makes them, dropped while nobody is there), `close`. Ends with its standard input.
"""

import json
import ssl
import sys
import threading
import time


def say(*words):
    sys.stdout.write(" ".join(str(word) for word in words).replace("\n", "\\n") + "\n")
    sys.stdout.flush()


def shown(message):
    if isinstance(message, str):
        return message
    try:
        return message.decode()
    except UnicodeDecodeError:
        return "hex:" + message.hex()


def sample(number):
    return json.dumps(
        {
            "node_name": "modbus",
            "group_name": "group",
            "timestamp": 1646125996000,
            "values": {"seq": number, "tag2": 3.14, "tag3": "hello", "big": 9007199254740993},
            "errors": {"tag1": 3000},
            "metas": {},
        }
    ).encode()


def nng(protocol, url):
    import pynng

    kinds = {"pair0": pynng.Pair0, "pair1": pynng.Pair1, "pull": pynng.Pull0, "rep": pynng.Rep0}
    # As Neuron has it.
    socket = kinds[protocol](
        recv_max_size=4 * 1024 * 1024, send_buffer_size=2048, recv_buffer_size=2048
    )
    socket.add_post_pipe_connect_cb(lambda pipe: say("up"))
    socket.add_post_pipe_remove_cb(lambda pipe: say("down"))
    if url.startswith("dial:"):
        socket.dial(url[5:], block=False)
    else:
        socket.listen(url)
    say("ready")

    def receive():
        while True:
            try:
                say("got", shown(socket.recv()))
            except pynng.Closed:
                return

    threading.Thread(target=receive, daemon=True).start()

    def send(message):
        try:
            socket.send(message, block=False)
        except pynng.TryAgain:
            pass

    return send, socket.close


def talk(connection):
    import websockets.exceptions

    say("up")
    try:
        for message in connection:
            say("got", shown(message))
        say("down", connection.close_code, connection.close_reason or "")
    except websockets.exceptions.ConnectionClosed as error:
        say("down", error)


def serve(host, port, certificate=None, key=None):
    from websockets.sync.server import serve as listen

    connections = []

    def handle(connection):
        say("path", connection.request.path, connection.request.headers.get("X-Plant", ""))
        connections.append(connection)
        try:
            talk(connection)
        finally:
            connections.remove(connection)

    context = None
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
    server = listen(handle, host, int(port), ssl=context, max_size=None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say("ready")

    def send(message):
        for connection in list(connections):
            try:
                connection.send(message)
            except Exception as error:
                say("failed", error)

    return send, server.shutdown


def connect(url, *headers):
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect as dial

    given = dict(header.split("=", 1) for header in headers)
    try:
        connection = dial(url, additional_headers=given, max_size=None)
    except InvalidStatus as error:
        say("refused", error.response.status_code)
        sys.exit(0)
    threading.Thread(target=talk, args=(connection,), daemon=True).start()
    say("ready")
    return connection.send, connection.close


def main():
    kind, *arguments = sys.argv[1:]
    send, close = {"nng": nng, "serve": serve, "connect": connect}[kind](*arguments)
    text = (lambda message: message) if kind == "nng" else (lambda message: message.decode())

    def flow(rate, first):
        number, start = first, time.monotonic()
        while True:
            send(text(sample(number)))
            number += 1
            time.sleep(max(0, start + (number - first) / rate - time.monotonic()))

    for line in sys.stdin:
        word, _, rest = line.rstrip("\n").partition(" ")
        if word == "send":
            send(text(rest.encode()))
        elif word == "hex":
            send(bytes.fromhex(rest))
        elif word == "size":
            send(text(b"x" * int(rest)))
        elif word == "flow":
            rate, first = rest.split()
            threading.Thread(target=flow, args=(float(rate), int(first)), daemon=True).start()
        elif word == "close":
            close()


main()
