"""The judge: which cells there are, what data they get, and which properties decide them."""
