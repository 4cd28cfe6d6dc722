"""`python -m mage_project.lib.cli`, which the `cantrip` script runs."""

import sys

try:
    from mage_project.lib.settings import use_plain_allocator

    use_plain_allocator()
    from mage_project.lib.cli.main import main
except KeyboardInterrupt:
    sys.exit(130)

main()
