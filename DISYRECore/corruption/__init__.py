"""How healthy slices become anomalous: shapes, families, noise and their severity."""
