"""Broken inputs, thrown at every command: none may end in a traceback, hang, or change what it was given.

    python -m tests.fuzz                    2,000 cases
    python -m tests.fuzz --case 123         one of them, with what it said; its files are kept
    python -m tests.fuzz --seed 1 --count 500

A case is made from its seed and number alone.
"""
