"""The data path: clients accepted, admitted, and relayed to a backend."""
