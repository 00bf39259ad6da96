"""Instruments and their results side by side; no part of the package."""
