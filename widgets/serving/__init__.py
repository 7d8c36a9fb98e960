"""The notebooks as web pages: a hardened Voila, its own page, warm kernels, and a sign of life."""
