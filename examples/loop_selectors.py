"""Many guests, one thread, nothing but the standard library: python loop_selectors.py tcp://HOST:PORT ..."""

import selectors
import socket
import sys

import stereos_proto as stereos
from stereos_proto_io import parse_address

selector = selectors.DefaultSelector()
for name in sys.argv[1:]:
    place, connection, given_up = parse_address(name), stereos.Connection(stereos.Role.HOST), stereos.GetHealth()
    sock, mount = socket.create_connection((place.host, place.port)), stereos.Mount("share0", "/workspace", "virtiofs")
    last = given_up, stereos.Ping(), stereos.Shutdown("done"), stereos.GetHealth()
    for request in (stereos.Ping(), stereos.GetHealth(), mount, *last):
        sock.sendall(connection.send(request))  # so few fit any socket's buffer
    selector.register(sock, selectors.EVENT_READ, (name, connection, given_up))

while selector.get_map():
    for (sock, _fd, _events, guest), _ready in selector.select():
        name, connection, given_up = guest
        if data := sock.recv(65536):
            connection.receive_data(data)
        else:
            connection.receive_eof()
            selector.unregister(sock)
            sock.close()
        for event in connection.events():
            match event:
                case stereos.ReplyReceived(message=reply, request=request):
                    # Given up or not, a request keeps its place, or the next one would get its reply.
                    print(name, request.type, "->", "given up" if request is given_up else reply.type)
                case stereos.NotificationReceived(message=message):
                    print(name, message.type, message.state)
                case stereos.ConnectionClosed(unanswered=requests):
                    print(name, "has ended, unanswered:", *(request.type for request in requests))
