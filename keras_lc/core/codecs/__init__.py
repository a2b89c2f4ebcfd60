"""One way of coding a tensor each."""
