"""Parts of the script that trains the small models shipped under ``models/``."""
