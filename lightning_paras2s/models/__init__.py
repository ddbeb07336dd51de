"""Networks and the seams between them."""
