"""Figures of a whole dataset beside the task's own: one evaluator a file, each with a `create`."""
