"""`python -m lightning_paras2s`."""

from lightning_paras2s.cli import main

if __name__ == "__main__":
    main()
