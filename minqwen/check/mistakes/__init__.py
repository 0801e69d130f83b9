"""The bank of known mistakes: for each concept how it is called, tried, and got wrong."""
