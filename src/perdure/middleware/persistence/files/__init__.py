"""Files in both directions: which may be read, how they are kept, how they come back."""
