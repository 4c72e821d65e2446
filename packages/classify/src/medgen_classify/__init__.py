"""What synthetic images are worth: a classifier trained on them alone, tested on real ones."""
