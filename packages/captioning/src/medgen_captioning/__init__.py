"""Captions of medical images: class captions, and captions measured from the pixels."""
