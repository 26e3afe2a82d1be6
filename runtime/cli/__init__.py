"""The verbs that need a bundle, one file each; what they share stands in files named after it."""
