"""`python -m detectctl`."""

from detectctl.cli import main

if __name__ == "__main__":
    main()
