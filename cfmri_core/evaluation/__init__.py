"""Measure what the models do: metrics, statistics over patients, suites, reports."""
