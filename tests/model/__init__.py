"""A model of the protocol, searched exhaustively. world.py says what there is, protocol.py what can happen, broken.py
how it could be wrong; search.py visits every state and judges it, test_protocol.py says what was found."""
