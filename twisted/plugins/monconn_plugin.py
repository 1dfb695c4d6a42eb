"""Tells Twisted of monconn; what it names is imported only when it is used."""

from twisted.application.service import ServiceMaker

monconn = ServiceMaker(
    "monconn", "monconn.plugin", "Watch the TCP connections of a service.", "monconn"
)
