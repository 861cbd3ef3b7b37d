"""A storm of faults: real operations in child processes, harmed at random moments, and what is left looked at.

`python -m tests.support.faults --help`; what it does and how to read its log stands in docs/guarantees.md.
"""
