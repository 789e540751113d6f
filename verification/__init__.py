"""What is committed, who is sampled, what is replayed, how it is judged, and the bundle that proves it."""
