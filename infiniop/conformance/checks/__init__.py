"""What is checked: a module per kind of check."""
