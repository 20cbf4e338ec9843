"""The publisher: one thread that closes parts, commits verdicts and sends them."""
