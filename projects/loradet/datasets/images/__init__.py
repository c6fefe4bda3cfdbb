"""Image files: what their headers say, their pixels, and the rules that bring deep ones into 0..255."""
