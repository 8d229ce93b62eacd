"""Waveform -> units. Knows no LM and no task."""
