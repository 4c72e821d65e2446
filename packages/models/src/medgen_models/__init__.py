"""Text-to-image generators for medical images behind one protocol; MSDM; sampling."""
