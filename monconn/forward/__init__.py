"""The forwarder: clients of a listener, each relayed to a backend."""
