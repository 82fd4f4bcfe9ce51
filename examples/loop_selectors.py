"""Many guests, the standard library alone: python loop_selectors.py tcp://HOST:PORT…"""

import selectors
import socket
import sys

import stereos_proto as stereos
from stereos_proto_io import parse_address

mount = stereos.Mount("share0", "/workspace", "virtiofs")
given_up = stereos.GetHealth()
asked = [stereos.Ping(), stereos.GetHealth(), mount, given_up]
asked += [stereos.Ping(), stereos.Shutdown("done"), stereos.GetHealth()]
selector = selectors.DefaultSelector()
for name in sys.argv[1:]:
    place, connection = parse_address(name), stereos.Connection(stereos.Role.HOST)
    sock = socket.create_connection((place.host, place.port))
    sock.sendall(b"".join(map(connection.send, asked)))  # so few fit its buffer
    selector.register(sock, selectors.EVENT_READ, (name, connection))

while selector.get_map():
    for (sock, _fd, _events, (name, connection)), _ready in selector.select():
        if data := sock.recv(65536):
            connection.receive_data(data)
        else:
            connection.receive_eof()
            selector.unregister(sock)
            sock.close()
        for event in connection.events():
            match event:
                case stereos.ReplyReceived(message=reply, request=request):
                    # Given up or not, it keeps its place, or the next gets its reply.
                    outcome = "given up" if request is given_up else reply.type
                    print(name, request.type, "->", outcome)
                case stereos.NotificationReceived(message=message):
                    print(name, message.type, message.state)
                case stereos.ConnectionClosed(unanswered=left):
                    print(name, "has ended, unanswered:", *(ask.type for ask in left))
