"""Whole studies made of the rooms below: the demo."""
