"""What the module DISYRE Training is made of."""
