"""Medical image data sets: records, image folders, importers, splits, decoding, phantoms."""
