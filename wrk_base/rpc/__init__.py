"""RPC over ZeroMQ: pure wire format and call tables, and the thin shell that moves the bytes."""
