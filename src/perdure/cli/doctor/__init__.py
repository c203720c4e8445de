"""`perdure doctor`: whether everything is as it must be, and for what is not, the remedy."""
