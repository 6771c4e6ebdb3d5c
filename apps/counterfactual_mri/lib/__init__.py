"""MONAI Label tasks of cfmri: thin, request to `cfmri_core` to response."""
