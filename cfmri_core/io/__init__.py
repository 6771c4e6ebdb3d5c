"""Files in and out: the only code that opens files for writing is in `atomic`."""
