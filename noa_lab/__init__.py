"""noa_lab."""
