"""What a synthetic set is worth: students trained on it, and how they stand up to attacks."""
