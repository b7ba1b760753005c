"""How fast and how small tinymem is, beside its peers, in one process: see __main__.py."""
