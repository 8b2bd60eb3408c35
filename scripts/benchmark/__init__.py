"""What `scripts/bench` is made of: probes that measure in a process of their own, and the rows that judge them."""
