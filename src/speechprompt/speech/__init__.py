"""What people bring: audio, units, manifests. Knows no torch, no model and no task."""
