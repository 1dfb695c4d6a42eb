"""The fast data path: plain TCP and UNIX sockets on an epoll of our own."""
