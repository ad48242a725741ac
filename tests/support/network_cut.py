"""Make all network access of Python fail, and log it. Used as sitecustomize.py in a folder of PYTHONPATH."""

import os
import socket
from pathlib import Path

_log = Path(os.environ["NETWORK_LOG"])


def _refused(what):
    def refuse(*arguments, **_):
        target = arguments[-1] if arguments else ""
        if arguments and getattr(arguments[0], "family", None) == getattr(socket, "AF_UNIX", None):
            raise OSError("no sockets here")  # on this machine: no program listens
        with _log.open("a") as log:
            log.write(f"{what} {target}\n")
        raise OSError("the network is cut")

    return refuse


for _name in ("connect", "connect_ex", "sendto", "sendmsg"):
    setattr(socket.socket, _name, _refused(_name))
for _name in ("create_connection", "getaddrinfo", "gethostbyname", "gethostbyname_ex"):
    setattr(socket, _name, _refused(_name))
