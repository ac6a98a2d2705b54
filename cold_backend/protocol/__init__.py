"""The inputs and outputs of `cold`: the one table of the protocol.

The parser reads types, defaults and ranges here. model_repository/cold/config.pbtxt and the tables
of docs/protocol.md are written from it (`make protocol`), and tests hold the client against it.
"""
