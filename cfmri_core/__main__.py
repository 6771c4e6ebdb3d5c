"""`python -m cfmri_core` is `cfmri`."""

from cfmri_core.cli import main

main()
