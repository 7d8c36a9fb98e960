"""What `bench/accuracy.py` is made of: who competes, on what, and how the results are kept and compared."""
