"""`python -m asr_emapl`, as torchrun calls it."""

from asr_emapl.cli import main

if __name__ == "__main__":
    main()
