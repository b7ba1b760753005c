"""Measures the speed and the memory of tinymem and its peers in one process: see __main__.py."""
