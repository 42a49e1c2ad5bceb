"""Commands that turn the official downloads into what the data set classes read."""
