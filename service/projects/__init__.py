"""Projects: the scope every row lies in."""
