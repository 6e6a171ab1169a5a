"""Attacks: perturbations within a ball that make a network misclassify."""
