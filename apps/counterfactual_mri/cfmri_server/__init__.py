"""The HTTP side of cfmri: MONAI Label's application with our guard, jobs and contained datastore.

It lies beside ``lib`` and not in it, because MONAI Label drops and re-imports ``lib`` at load.
"""
