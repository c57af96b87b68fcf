"""Export of trained networks, each file checked against the network it came from."""
