"""`python -m medgen_metrics` is `medgen-metrics`."""

import sys

from medgen_metrics.console import main

if __name__ == "__main__":
    sys.exit(main())
