"""`python -m minqwen` is `minqwen`."""

import sys

if __name__ == "__main__":
    try:
        from .cli import main

        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
