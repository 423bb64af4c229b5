"""ERU's command line, run from a checkout: ``python cli.py lm-train --data ptb``."""

from eru_cli import main

if __name__ == "__main__":
    main()
