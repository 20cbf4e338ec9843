"""The demo line: a simulated belt of parts whose defects are known."""
