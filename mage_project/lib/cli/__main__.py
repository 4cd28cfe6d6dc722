"""`python -m mage_project.lib.cli`, which the `cantrip` script runs."""

from mage_project.lib.cli.main import main

main()
