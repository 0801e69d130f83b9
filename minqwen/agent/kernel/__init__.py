"""The process in which model-written code runs, and what it may do there."""
